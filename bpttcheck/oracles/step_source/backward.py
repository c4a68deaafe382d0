"""Reverse accumulation: one statement for each adjoint, in the order in which they are known.

The rules of elementwise operations stand here, those of whole arrays in :mod:`.array_rules`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.errors import Declined
from bpttcheck.oracles.step_source import terms
from bpttcheck.oracles.step_source.array_parts import (
    ArrayScene,
    ClearedPart,
    Part,
    Piece,
    Scatter,
    unsupported,
)
from bpttcheck.oracles.step_source.array_rules import JOINED, PRODUCTS
from bpttcheck.oracles.step_source.array_rules import sent as sent_by
from bpttcheck.oracles.step_source.forward import SIGMOID, SOFTPLUS, Forward
from bpttcheck.oracles.step_source.recording import CONSTANT, FREEZE, INPUT, Value, place
from bpttcheck.oracles.step_source.terms import (
    Term,
    add,
    call,
    conj,
    div,
    fitted,
    infix,
    mul,
    neg,
    number,
    power,
)
from bpttcheck.oracles.step_source.traces import Traced
from bpttcheck.oracles.tracer.arguments import replace

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
"""By operation, for each of its operands; None for an operand that has no gradient."""

STEPS = frozenset(
    "np.sign np.floor np.ceil np.rint np.round np.around np.trunc np.heaviside np.zeros_like "
    "np.ones_like np.argmax np.argmin freeze".split()
)
"""Operations through which nothing flows back."""


Array = NDArray[Any]

_POINTS = np.linspace(-5.0, 5.0, 41)
_NEAR = 1e-12
_KNOWN: dict[str, Callable[[Array], Array]] = {
    SIGMOID: lambda z: 1 / (1 + np.exp(-z)),
    SOFTPLUS: lambda z: np.log1p(np.exp(z)),
}


def recognised(values: list[Value]) -> dict[Value, tuple[str, Value]]:
    """The values that are a known function of another one: its name, and that value.

    A function is known by its values at points from -5 to 5: what the derivation is worth, the
    check of the whole says.
    """
    found: dict[Value, tuple[str, Value]] = {}
    root: dict[Value, Value] = {}
    for value in values:
        moving = {root.get(o, o) for o in value.operands if not o.known}
        if len(moving) != 1 or value.op not in SLOPES or value.kind != "f":
            continue
        (start,) = moving
        if start.shape != value.shape or start.kind != "f":
            continue
        root[value] = start
        direct = value.op == "scipy.special.expit" and value.operands[0] is start
        name = SIGMOID if direct else _name(value, start)
        if name:
            found[value] = (name, start)
            del root[value]  # what is made of it is a function of it
    return found


def _name(value: Value, start: Value) -> str:
    try:
        with np.errstate(all="ignore"):
            computed = np.asarray(_computed(value, {start: _POINTS}), float)
            for name, function in _KNOWN.items():
                right = function(_POINTS)
                if computed.shape == right.shape and np.all(abs(computed - right) <= _NEAR):
                    return name
    except (TypeError, ValueError):
        return ""
    return ""


def _computed(value: Value, known: dict[Value, Array]) -> Any:
    """A value from that of another one, in NumPy."""
    if value in known:
        return known[value]
    if value.op == CONSTANT and np.ndim(value.array) == 0:
        return value.array
    if value.op in (INPUT, CONSTANT, FREEZE) or value.native is None or value.part is not None:
        raise ValueError
    args, kwargs = replace(
        (value.args, value.kwargs), lambda x: _computed(x, known) if isinstance(x, Value) else x
    )
    known[value] = value.native(*args, **kwargs)
    return known[value]


@dataclass(frozen=True)
class GivenCotangent(terms.BackwardTerm):
    """A cotangent that the backward pass is given.

    Args:
        text: its name, ``"d_y"``.
        about: what it belongs to, ``"the output"``.
    """

    text: str
    about: str


@dataclass(eq=False)
class Adjoint(terms.BackwardTerm):
    """The statement of one adjoint.

    Args:
        value: whose it is.
        parts: what it is the sum of, each with the value from which it flows back, or the given
            cotangent.
        whole: the sum of the parts that are terms.
        scattered: parts that are added at an index.
        cleared: entries that were overwritten, by index: to them nothing flows back.
        number: its equation.
    """

    value: Value
    parts: list[tuple[Term, Value | GivenCotangent]]
    whole: Term
    scattered: list[tuple[Scatter, Value]]
    cleared: list[tuple[tuple[Any, ...], Value]]
    number: int = 0


@dataclass
class BackwardPass:
    """The backward pass of a step.

    Args:
        adjoints: its statements, in order.
        inputs: of each input the adjoint, None if nothing flows back to it.
        functions: values that are a known function of another one.
        alias: values whose adjoint is that of another one, which has no name of its own.
    """

    adjoints: list[Adjoint]
    inputs: dict[Value, Adjoint | None]
    functions: dict[Value, tuple[str, Value]]
    alias: dict[Value, Value] = field(default_factory=dict[Value, Value])


class Accumulation:
    """Builds the backward pass of a traced step.

    Args:
        traced: the step.
        forward: writes operands.
        named: True for a value that the user gave a name.
    """

    def __init__(self, traced: Traced, forward: Forward, named: Callable[[Value], bool]) -> None:
        self._traced, self._forward, self._named = traced, forward, named
        self._arrays = ArrayScene(forward, traced.shapes)
        self._functions = forward.functions = recognised(traced.first.values)
        self._active = self._reached()
        self._uses = Counter(o for v in traced.first.values for o in set(self._operands(v)))
        self._sent: dict[Value, list[tuple[Part, Value | GivenCotangent]]] = {}
        self._made: list[Adjoint] = []
        self._alias: dict[Value, Value] = {}

    def run(self, given: Sequence[tuple[Value, GivenCotangent]]) -> BackwardPass:
        """From the cotangents of the outputs back to the inputs.

        Raises:
            Declined: the adjoint of an operation is not known here.
        """
        for value, cotangent in given:
            if value in self._active:
                term = terms.ref(cotangent, value.shape)
                self._sent.setdefault(value, []).append((term, cotangent))
        inputs: dict[Value, Adjoint | None] = {}
        for value in reversed(self._traced.first.values):
            sent = self._sent.pop(value, None)
            if value.op == INPUT:
                inputs[value] = None if sent is None else self._adjoint(value, sent)
            elif sent is not None:
                self._pass_on(value, sent)
        adjoints = self._made + [a for a in reversed(inputs.values()) if a is not None]
        for k, adjoint in enumerate(adjoints):
            adjoint.number = k + 1
        return BackwardPass(adjoints, inputs, self._functions, self._alias)

    def _operands(self, value: Value) -> list[Value]:
        return [self._functions[value][1]] if value in self._functions else value.operands

    def _reached(self) -> set[Value]:
        """The values through which a gradient may flow."""
        found: set[Value] = set()
        for value in self._traced.first.values:
            if value.kind not in "fc" or value.known or value.op in STEPS:
                continue
            if value.op == INPUT or any(o in found for o in self._operands(value)):
                found.add(value)
        return found

    def _pass_on(self, value: Value, sent: list[tuple[Part, Value | GivenCotangent]]) -> None:
        adjoint = self._adjoint(value, sent)
        whole = adjoint.whole
        marker = terms.ref(adjoint, whole.shape, value.kind == "c")
        uses = sum(
            sum(r is adjoint for r in _term(part).refs()) for _, part in self._rule(value, marker)
        )
        heads = ("T", "index", "neg")
        short = whole.head == "ref" or (whole.head in heads and whole.args[0].head == "ref")
        if adjoint.scattered or adjoint.cleared or (not short and (self._named(value) or uses > 1)):
            self._made.append(adjoint)
            d = marker
            if not self._named(value):
                self._borrow(value)
        else:
            d = whole
        for operand, part in self._rule(value, d):
            self._sent.setdefault(operand, []).append((part, value))

    def _borrow(self, value: Value) -> None:
        """A sum without a name lends that of an operand that is used nowhere else."""
        if value.op != "np.add":
            return
        for operand in value.operands:
            alone = self._uses[operand] == 1 and operand.op != INPUT
            if alone and self._named(operand) and operand.shape == value.shape:
                self._alias[value] = operand
                return

    def _rule(self, value: Value, d: Term) -> Iterator[tuple[Value, Part]]:
        """What each operand gets of the adjoint of a value."""
        for operand, part in self._rule_of(value, d):
            if operand in self._active:
                yield operand, part

    def _rule_of(self, value: Value, d: Term) -> Iterator[tuple[Value, Part]]:
        if value in self._functions:
            name, operand = self._functions[value]
            yield from self._slopes(value, name, (operand,), d)
        else:
            try:
                if not _is_plain(value):
                    raise unsupported(value)
                if value.op in SLOPES:
                    yield from self._slopes(value, value.op, value.args, d)
                    return
                sent = sent_by(self._arrays, value, d)
                if sent is None:
                    raise Declined(f"{value.op}, of which no adjoint is known here")
                yield from sent
            except Declined as refusal:
                where = refusal.where or place(value)
                raise Declined(
                    refusal.what, where=where,
                    remedy=refusal.remedy or "the operations of docs/how-to/derive.md",
                ) from None  # fmt: skip

    def _slopes(
        self, value: Value, name: str, items: Sequence[Any], d: Term
    ) -> Iterator[tuple[Value, Part]]:
        y = self._forward_ref(value)
        operands = [self._forward.operand(item, value) for item in items]
        known = len(operands) >= len(SLOPES[name]) and None not in items
        for slope, item in zip(SLOPES[name], items, strict=False):
            known &= slope is not None or item not in self._active
        if not known:
            raise unsupported(value)
        chosen = self._comparison(name, items)
        for slope, item in zip(SLOPES[name], items, strict=False):
            if slope is not None and isinstance(item, Value) and item in self._active:
                term = slope(d, y, *operands)
                if chosen is not None:
                    mask, first_wins = chosen
                    wins = first_wins == (item is items[0])
                    zero = number(0)
                    term = terms.where(mask, d, zero) if wins else terms.where(mask, zero, d)
                yield item, fitted(term, value, item.shape, item.kind == "c")

    def _comparison(self, name: str, items: Sequence[Any]) -> tuple[Term, bool] | None:
        """Where ``step`` itself compares the operands of a maximum: that, and who wins there."""
        larger = {"np.maximum": True, "np.fmax": True, "np.minimum": False, "np.fmin": False}
        if name not in larger or not all(isinstance(item, Value) for item in items):
            return None
        for value in self._traced.first.values:
            sign = {"np.greater": True, "np.greater_equal": True, "np.less": False,
                    "np.less_equal": False}.get(value.op)  # fmt: skip
            if sign is not None and set(value.operands) == set(items) and len(value.args) == 2:
                return self._forward_ref(value), (value.args[0] is items[0]) == (
                    sign == larger[name])  # fmt: skip
        return None

    def _forward_ref(self, value: Value) -> Term:
        return terms.ref(value, value.shape, value.kind == "c")

    def _adjoint(self, value: Value, sent: list[tuple[Part, Value | GivenCotangent]]) -> Adjoint:
        """The sum of what was sent to a value."""
        parts: list[tuple[Term, Value | GivenCotangent]] = []
        pieces: list[tuple[Piece, Value]] = []
        scattered: list[tuple[Scatter, Value]] = []
        cleared: list[tuple[tuple[Any, ...], Value]] = []
        for part, source in sent:
            if isinstance(part, Term):
                parts.append((part, source))
            elif isinstance(part, Piece):
                assert isinstance(source, Value)
                pieces.append((part, source))
            elif isinstance(part, ClearedPart):
                assert isinstance(source, Value)
                if len(sent) > 1:
                    raise Declined(
                        "an array that is read and later written in place", where=place(source),
                        remedy="a copy before the write",
                    )  # fmt: skip
                parts.append((part.term, source))
                cleared.append((part.at, source))
            else:
                assert isinstance(source, Value)
                scattered.append((part, source))
        for axis in dict.fromkeys(piece.axis for piece, _ in pieces):
            mine = [(p, s) for p, s in pieces if p.axis == axis]
            joined = self._joined(value, mine, axis)
            if joined is not None:
                parts.append((joined, mine[0][1]))
            else:
                scattered += [(Scatter(p.term, p.at, False), s) for p, s in mine]
        if not parts:
            zeros = Term("zeros", (), value, value.shape, value.kind == "c")
            parts = [(zeros, scattered[0][1])]
        parts.sort(key=lambda part: part[0].is_complex)
        whole = terms.add(*(term for term, _ in parts))
        if whole.shape != value.shape and (scattered or value.op == INPUT):
            whole = terms.broadcast(whole, value, value.shape)
            parts = [(whole, source) for _, source in parts[:1]]
        return Adjoint(value, parts, whole, scattered, cleared)

    def _joined(self, value: Value, pieces: list[tuple[Piece, Value]], axis: int) -> Term | None:
        """Pieces that make the whole axis, put together."""
        by_bounds: dict[Any, list[Term]] = {}
        for piece, _ in pieces:
            by_bounds.setdefault(piece.bounds, []).append(piece.term)
        ordered = sorted(by_bounds)
        ends: tuple[int, ...] = tuple(0 for _ in self._traced.shapes[value])
        for bounds in ordered:
            if tuple(start for start, _ in bounds) != ends:
                return None
            ends = tuple(end for _, end in bounds)
        if ends != tuple(shape[axis] for shape in self._traced.shapes[value]):
            return None
        rows = [terms.add(*by_bounds[bounds]) for bounds in ordered]
        if len(rows) == 1:
            return rows[0]
        listed = Term("list", tuple(rows), "list", (len(rows),), any(r.is_complex for r in rows))
        last = axis and axis == len(value.shape) - 1
        named: Mapping[str, str] = {"axis": "-1" if last else str(axis)} if axis else {}
        return call(
            "np.concatenate", listed, shape=value.shape, is_complex=value.kind == "c", **named
        )


_KEYWORDS = frozenset(
    "axis axes keepdims shape indices_or_sections ddof ord dtype casting copy optimize".split()
)


def _is_plain(value: Value) -> bool:
    """True for arguments of which the rules know what they mean."""
    if value.op in SLOPES or value.op in PRODUCTS:
        arrays = value.args
    else:
        arrays = () if value.op in JOINED else value.args[:1]
    listed = any(isinstance(item, (list, tuple)) for item in arrays)
    told = {name for name, item in value.kwargs.items() if (name, item) != ("order", "C")}
    return not listed and told <= _KEYWORDS


def _term(part: Part) -> Term:
    return part if isinstance(part, Term) else part.term


__all__ = ["Accumulation", "Adjoint", "BackwardPass", "GivenCotangent"]
