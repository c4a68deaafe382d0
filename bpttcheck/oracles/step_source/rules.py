"""The adjoint of an operation between entries: what each operand gets of the result's adjoint.

For ``y = f(a, b)`` with the adjoint ``d`` of ``y``, the operand ``a`` gets ``d * conj(df/da)``,
summed over the axes along which it was repeated; a real operand gets the real part. The adjoint of
a complex number holds those of its two parts, ``d_p + 1j * d_q``, neither halved nor conjugated.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from bpttcheck.oracles.step_source import terms
from bpttcheck.oracles.step_source.forward import SIGMOID, SOFTPLUS
from bpttcheck.oracles.step_source.terms import (
    Term,
    add,
    call,
    conj,
    div,
    infix,
    mul,
    neg,
    number,
    power,
)

Slope = Callable[..., Term]
"""``slope(d, y, *operands)``: what one operand gets, before sums over repeated axes."""

ONE, TWO = number(1), number(2)


def _tanh(d: Term, y: Term, a: Term) -> Term:
    return mul(d, conj(terms.sub(ONE, power(y, TWO))))


def _sigmoid(d: Term, y: Term, a: Term) -> Term:
    return mul(d, conj(y), conj(terms.sub(ONE, y)))


def _softplus(d: Term, y: Term, a: Term) -> Term:
    return mul(d, call("np.exp", terms.sub(a, y)))  # the logistic function, which never overflows


def _abs(d: Term, y: Term, a: Term) -> Term:
    return div(mul(d, a), y) if a.is_complex else mul(d, call("np.sign", a))


def _power_base(d: Term, y: Term, a: Term, n: Term) -> Term:
    if n.head == "number" and not n.info[1]:
        less = number(n.info[0] - 1)
        return mul(d, n, conj(a if terms.is_number(less, 1) else power(a, less)))
    return mul(d, n, conj(power(a, terms.sub(n, ONE))))


def _power_exponent(d: Term, y: Term, a: Term, n: Term) -> Term:
    return mul(d, conj(y), conj(call("np.log", a)))


def _first_wins(sign: str) -> Slope:
    """The first operand of a maximum or a minimum gets all where it is the one."""

    def slope(d: Term, y: Term, a: Term, b: Term) -> Term:
        mask = infix(sign, a, b)
        return mul(d, mask) if b.head == "number" else terms.where(mask, d, number(0))

    return slope


def _second_wins(sign: str) -> Slope:
    """The second operand gets all elsewhere: where both are equal, one of them gets it."""

    def slope(d: Term, y: Term, a: Term, b: Term) -> Term:
        if a.head == "number":
            return mul(d, infix(sign, b, a))
        return terms.where(infix(sign, a, b), number(0), d)

    return slope


_LARGER = (_first_wins(">"), _second_wins(">"))
_SMALLER = (_first_wins("<"), _second_wins("<"))


def _clip(d: Term, y: Term, a: Term, low: Term, high: Term) -> Term:
    return mul(d, infix("&", infix(">", a, low), infix("<", a, high)))


def _gauss(factor: float) -> Slope:
    def slope(d: Term, y: Term, a: Term) -> Term:
        return mul(d, number(factor), call("np.exp", neg(power(a, TWO))))

    return slope


def _where_true(d: Term, y: Term, c: Term, a: Term, b: Term) -> Term:
    return terms.where(c, d, number(0))


def _where_false(d: Term, y: Term, c: Term, a: Term, b: Term) -> Term:
    return terms.where(c, number(0), d)


def _same(d: Term, *_: Term) -> Term:
    return d


SLOPES: dict[str, tuple[Slope | None, ...]] = {
    "np.add": (_same, _same),
    "np.subtract": (_same, lambda d, *_: neg(d)),
    "np.multiply": (lambda d, y, a, b: mul(d, conj(b)), lambda d, y, a, b: mul(d, conj(a))),
    "np.divide": (
        lambda d, y, a, b: div(d, conj(b)), lambda d, y, a, b: neg(div(mul(d, conj(y)), conj(b))),
    ),
    "np.power": (_power_base, _power_exponent),
    "np.negative": (lambda d, *_: neg(d),),
    "np.positive": (_same,),
    "np.copy": (_same,),
    "ndarray.copy": (_same,),
    "ndarray.astype": (_same,),
    "np.conjugate": (lambda d, y, a: conj(d),),
    "np.real": (_same,),
    "np.imag": (lambda d, y, a: mul(number(1j), d),),
    "np.reciprocal": (lambda d, y, a: neg(mul(d, conj(power(y, TWO)))),),
    "np.square": (lambda d, y, a: mul(d, TWO, conj(a)),),
    "np.sqrt": (lambda d, y, a: div(d, mul(TWO, conj(y))),),
    "np.exp": (lambda d, y, a: mul(d, conj(y)),),
    "np.exp2": (lambda d, y, a: mul(d, number(math.log(2)), y),),
    "np.expm1": (lambda d, y, a: mul(d, conj(call("np.exp", a))),),
    "np.log": (lambda d, y, a: div(d, conj(a)),),
    "np.log2": (lambda d, y, a: div(d, mul(number(math.log(2)), a)),),
    "np.log10": (lambda d, y, a: div(d, mul(number(math.log(10)), a)),),
    "np.log1p": (lambda d, y, a: div(d, conj(add(ONE, a))),),
    "np.sin": (lambda d, y, a: mul(d, conj(call("np.cos", a))),),
    "np.cos": (lambda d, y, a: neg(mul(d, conj(call("np.sin", a)))),),
    "np.tan": (lambda d, y, a: mul(d, add(ONE, power(y, TWO))),),
    "np.sinh": (lambda d, y, a: mul(d, conj(call("np.cosh", a))),),
    "np.cosh": (lambda d, y, a: mul(d, conj(call("np.sinh", a))),),
    "np.arctan": (lambda d, y, a: div(d, add(ONE, power(a, TWO))),),
    "np.tanh": (_tanh,),
    "np.absolute": (_abs,),
    "np.fabs": (_abs,),
    "np.maximum": _LARGER,
    "np.fmax": _LARGER,
    "np.minimum": _SMALLER,
    "np.fmin": _SMALLER,
    "np.clip": (_clip, None, None),
    "np.logaddexp": (
        lambda d, y, a, b: _softplus(d, y, a), lambda d, y, a, b: _softplus(d, y, b),
    ),
    "np.where": (None, _where_true, _where_false),
    "scipy.special.expit": (_sigmoid,),
    "scipy.special.erf": (_gauss(2 / math.sqrt(math.pi)),),
    "scipy.special.erfc": (_gauss(-2 / math.sqrt(math.pi)),),
    "scipy.special.softplus": (_softplus,),
    "scipy.special.log_expit": (lambda d, y, a: mul(d, call("np.exp", terms.sub(y, a))),),
    SIGMOID: (_sigmoid,),
    SOFTPLUS: (_softplus,),
}  # fmt: skip
SLOPES["np.true_divide"] = SLOPES["np.divide"]
SLOPES["np.abs"] = SLOPES["np.absolute"]
SLOPES["the ufunc clip"] = SLOPES["np.clip"]
"""By operation, for each of its operands; None for an operand that has no gradient."""

STEPS = frozenset(
    "np.sign np.floor np.ceil np.rint np.round np.around np.trunc np.heaviside np.zeros_like "
    "np.ones_like np.argmax np.argmin freeze".split()
)
"""Operations through which nothing flows back."""
