"""Expressions of NumPy, simplified as they are built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Shape = tuple[int, ...]


class BackwardTerm:
    """What is known in the backward pass alone: adjoints and given cotangents."""


@dataclass(frozen=True)
class Term:
    """An expression.

    Args:
        head: what it is: ``"ref"`` (a value, or the adjoint of one), ``"number"``, ``"add"``,
            ``"mul"``, ``"div"``, ``"neg"``, ``"pow"``, ``"matmul"``, ``"T"``, ``"infix"``,
            ``"call"``, ``"index"``, ``"sum"``, ``"real"``, ``"imag"``, ``"conj"``, ``"list"``.
        args: its operands.
        info: what is referred to, the number, the function, the index or the axes.
        shape: its shape at the first size.
        is_complex: True for complex numbers.
    """

    head: str
    args: tuple[Term, ...] = ()
    info: Any = None
    shape: Shape = ()
    is_complex: bool = False

    def refs(self) -> Iterator[Any]:
        """What it refers to, with repetitions."""
        if self.head == "ref":
            yield self.info
        for arg in (*self.args, *(_terms_in(self.info) if self.head in ("index", "put") else ())):
            yield from arg.refs()


def _terms_in(at: Any) -> Iterator[Term]:
    """The expressions in an index."""
    if isinstance(at, Term):
        yield at
    elif isinstance(at, tuple):
        for part in at:
            yield from _terms_in(part)


def ref(what: Any, shape: Shape, is_complex: bool = False) -> Term:
    """A value or an adjoint."""
    return Term("ref", (), what, shape, is_complex)


def number(value: Any, text: str = "") -> Term:
    """A number; ``text`` if it is written otherwise."""
    return Term("number", (), (value, text), (), isinstance(value, complex))


def is_number(term: Term, value: Any) -> bool:
    """True for this plain number."""
    return term.head == "number" and not term.info[1] and term.info[0] == value


def add(*terms: Term) -> Term:
    """The sum; what multiplies every term alike is taken out."""
    flat: list[Term] = []
    for term in terms:
        flat.extend(term.args if term.head == "add" else (term,))
    if len(flat) == 1:
        return flat[0]
    shape = np.broadcast_shapes(*(t.shape for t in flat))
    flat = _joined_branches(flat)
    common = _common_factor(flat)
    if common is not None:
        rest = [_without(t, common) for t in flat]
        forward = all(not isinstance(what, BackwardTerm) for r in rest for what in r.refs())
        if forward and sum(map(_is_boolean, rest)) < 2:  # NumPy's sum of two of them is their "or"
            return mul(common, add_plain(rest, shape))
    return flat[0] if len(flat) == 1 else add_plain(flat, shape)


def _joined_branches(flat: list[Term]) -> list[Term]:
    """``where(c, a, 0) + where(c, 0, b)`` as ``where(c, a, b)``."""
    left: list[Term] = []
    for term in flat:
        for k, other in enumerate(left):
            if _is_where(term) and _is_where(other) and term.args[0] == other.args[0]:
                pairs = zip(term.args[1:], other.args[1:], strict=True)
                branches = [b if is_number(a, 0) else a for a, b in pairs if _any_zero(a, b)]
                if len(branches) == 2:
                    left[k] = where(term.args[0], *branches)
                    break
        else:
            left.append(term)
    return left


def _is_where(term: Term) -> bool:
    return term.head == "call" and term.info[0] == "np.where"


def _any_zero(a: Term, b: Term) -> bool:
    return is_number(a, 0) or is_number(b, 0)


def add_pair(a: Term, b: Term) -> Term:
    """The sum of two, as it stands."""
    return add_plain([a, b], np.broadcast_shapes(a.shape, b.shape))


def add_plain(flat: Sequence[Term], shape: Shape) -> Term:
    """The sum as it is, a term without a minus first."""
    ordered = sorted(flat, key=lambda t: t.head == "neg") if flat[0].head == "neg" else list(flat)
    return Term("add", tuple(ordered), None, shape, any(t.is_complex for t in flat))


def _common_factor(flat: Sequence[Term]) -> Term | None:
    """An adjoint by which every term is multiplied."""
    if len({t.shape for t in flat}) > 1 or len(flat) < 2:
        return None
    factors = [_factors(t) for t in flat]
    for factor in factors[0]:
        if isinstance(factor.info, BackwardTerm) and all(factor in some for some in factors):
            return factor
    return None


def _is_boolean(term: Term) -> bool:
    if term.head in ("neg", "mul"):
        return all(_is_boolean(arg) for arg in term.args)
    if term.head == "ref":
        return term.info.kind == "b"
    return term.head == "not" or (term.head == "infix" and term.info not in ("%", "//"))


def _factors(term: Term) -> Sequence[Term]:
    if term.head in ("neg", "div"):
        return _factors(term.args[0])
    return term.args if term.head == "mul" else (term,)


def _without(term: Term, factor: Term) -> Term:
    if term.head == "neg":
        return neg(_without(term.args[0], factor))
    if term.head == "div":
        return div(_without(term.args[0], factor), term.args[1])
    rest = list(_factors(term))
    rest.remove(factor)
    return mul(*rest)


def neg(term: Term) -> Term:
    """The negative."""
    if term.head == "neg":
        return term.args[0]
    if term.head == "number" and not term.info[1]:
        return number(-term.info[0])
    return Term("neg", (term,), None, term.shape, term.is_complex)


def sub(a: Term, b: Term) -> Term:
    """The difference."""
    return Term("add", (a, neg(b)), None, np.broadcast_shapes(a.shape, b.shape),
                a.is_complex or b.is_complex)  # fmt: skip


def mul(*factors: Term) -> Term:
    """The product, in this order; signs in front."""
    flat: list[Term] = []
    below: list[Term] = []
    minus = False
    for factor in factors:
        if factor.head == "neg":
            minus, factor = not minus, factor.args[0]
        # d * x / y reads better than d * (x / y).
        if factor.head == "div":
            below.append(factor.args[1])
            factor = factor.args[0]
        flat.extend(factor.args if factor.head == "mul" else (factor,))
    scale, flat = _scale(flat)
    minus, scale = (not minus, -scale) if scale < 0 else (minus, scale)
    flat = flat if scale == 1 and flat else [number(scale), *flat]
    if len(flat) == 1:
        made = flat[0]
    else:
        shape = np.broadcast_shapes(*(f.shape for f in flat))
        made = Term("mul", tuple(flat), None, shape, any(f.is_complex for f in flat))
    made = div(made, mul(*below)) if below else made
    return neg(made) if minus else made


def _scale(factors: Sequence[Term]) -> tuple[Any, list[Term]]:
    """The product of the plain real numbers, and the rest."""
    scale: Any = 1
    rest: list[Term] = []
    for factor in factors:
        if factor.head == "number" and not factor.info[1] and not factor.is_complex:
            scale = scale * factor.info[0]
        else:
            rest.append(factor)
    return scale, rest


def div(a: Term, b: Term) -> Term:
    """The quotient; what both are multiplied by alike is left out."""
    if a.head == "neg":
        return neg(div(a.args[0], b))
    both = a.head == "mul" and b.head == "mul"
    if both and a.args[0] == b.args[0] and a.args[0].head == "number":
        return div(mul(*a.args[1:]), mul(*b.args[1:]))
    shape = np.broadcast_shapes(a.shape, b.shape)
    return Term("div", (a, b), None, shape, a.is_complex or b.is_complex)


def power(a: Term, exponent: Term) -> Term:
    """The power."""
    if is_number(exponent, 1):
        return a
    if exponent.head == "number" and exponent.info[0] % 2 == 0 and a.head == "neg":
        a = a.args[0]
    shape = np.broadcast_shapes(a.shape, exponent.shape)
    return Term("pow", (a, exponent), None, shape, a.is_complex or exponent.is_complex)


def matmul(a: Term, b: Term) -> Term:
    """The matrix product."""
    if a.head == "neg":
        return neg(matmul(a.args[0], b))
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*lead, *a.shape[-2:-1], *(b.shape[-1:] if len(b.shape) > 1 else ()))
    return Term("matmul", (a, b), None, shape, a.is_complex or b.is_complex)


def transposed(term: Term) -> Term:
    """The transpose of a matrix; of more axes, the last two swapped."""
    if term.head in ("T", "swap"):
        return term.args[0]
    if term.head == "neg":
        return neg(transposed(term.args[0]))
    if len(term.shape) < 2:
        return term
    if term.head == "matmul" and all(len(a.shape) == 2 for a in term.args):
        a, b = term.args
        return matmul(transposed(b), transposed(a))
    shape = (*term.shape[:-2], term.shape[-1], term.shape[-2])
    head = "T" if len(shape) == 2 else "swap"
    return Term(head, (term,), None, shape, term.is_complex)


def infix(sign: str, a: Term, b: Term) -> Term:
    """A comparison or another operation of two operands."""
    return Term("infix", (a, b), sign, np.broadcast_shapes(a.shape, b.shape))


def call(name: str, *args: Term, shape: Shape | None = None, is_complex: bool | None = None,
         **named: str) -> Term:  # fmt: skip
    """A function of NumPy; the keywords are texts."""
    if shape is None:
        shape = np.broadcast_shapes(*(a.shape for a in args))
    if is_complex is None:
        is_complex = any(a.is_complex for a in args)
    return Term("call", args, (name, tuple(named.items())), shape, is_complex)


def where(condition: Term, a: Term, b: Term) -> Term:
    """``np.where``."""
    return call("np.where", condition, _branch(a, condition, 1), _branch(b, condition, 2))


def _branch(term: Term, condition: Term, which: int) -> Term:
    """A branch in which the same condition is not asked again."""
    if _is_where(term) and term.args[0] == condition:
        return term.args[which]
    if term.head == "mul":
        return mul(*(_branch(factor, condition, which) for factor in term.args))
    return term


def index(term: Term, at: Sequence[Any], shape: Shape) -> Term:
    """``term[at]``; parts are None, ``...``, integers, slices or terms.

    An axis of one entry that a sum has kept is not kept to be dropped.
    """
    if term.head == "neg":
        return neg(index(term.args[0], at, shape))
    dropped = {k for k, part in enumerate(at) if isinstance(part, int) and part == 0}
    plain = all(isinstance(part, int) or part == slice(None) for part in at)
    if term.head == "sum" and plain and len(at) <= len(term.shape):
        axes, keep = term.info
        if keep and dropped == set(axes):
            return total(term.args[0], axes, keep=False)
    return Term("index", (term,), tuple(_frozen(part) for part in at), shape, term.is_complex)


def _frozen(part: Any) -> Any:
    return ("slice", part.start, part.stop, part.step) if isinstance(part, slice) else part


def total(term: Term, axes: tuple[int, ...], *, keep: bool) -> Term:
    """The sum over axes."""
    if not axes:
        return term
    if term.head == "neg":
        return neg(total(term.args[0], axes, keep=keep))
    axes = tuple(sorted(axes))
    shape = tuple(
        1 if k in axes else size for k, size in enumerate(term.shape) if keep or k not in axes
    )
    return Term("sum", (term,), (axes, keep), shape, term.is_complex)


def real(term: Term) -> Term:
    """The real part."""
    if not term.is_complex:
        return term
    if term.head == "neg":
        return neg(real(term.args[0]))
    if term.head == "mul":
        units = [f for f in term.args if f.head == "number" and f.info[0] in (1j, -1j)]
        plain = [f for f in term.args if not f.is_complex]
        rest = [f for f in term.args if f not in units and f not in plain]
        if len(units) == 1 and len(rest) < 2:
            turned = mul(*plain, imag(rest[0])) if rest else number(0)
            return turned if units[0].info[0] == -1j else neg(turned)
        if not units and len(rest) == 1 and all(f.head in ("ref", "number") for f in plain):
            # A real factor stays outside where it is short.
            return mul(*(real(f) if f is rest[0] else f for f in term.args))
    return Term("real", (term,), None, term.shape, False)


def imag(term: Term) -> Term:
    """The imaginary part."""
    if term.head == "neg":
        return neg(imag(term.args[0]))
    return Term("imag", (term,), None, term.shape, False)


def conj(term: Term) -> Term:
    """The complex conjugate."""
    if not term.is_complex:
        return term
    if term.head == "conj":
        return term.args[0]
    if term.head == "number":
        return number(term.info[0].conjugate())
    if term.head in ("mul", "add", "neg", "T"):
        return replace(term, args=tuple(conj(a) for a in term.args))
    return Term("conj", (term,), None, term.shape, True)


def broadcast(term: Term, like: Any, shape: Shape) -> Term:
    """The term in the shape of a value."""
    if term.shape == shape:
        return term
    return Term("broadcast", (term,), like, shape, term.is_complex)


def fitted(term: Term, out: Any, shape: Shape, is_complex: bool) -> Term:
    """What an operand of this shape gets: summed where it was repeated.

    Args:
        term: what belongs to the result.
        out: the result, a value.
        shape: of the operand.
        is_complex: of the operand.
    """
    if not is_complex:
        term = real(term)
    lead = len(out.shape) - len(shape)
    summed = [k for k, size in enumerate(out.shape) if size > 1 and (
        k < lead or shape[k - lead] == 1)]  # fmt: skip
    if summed and (len(term.shape) < len(out.shape) or any(term.shape[k] == 1 for k in summed)):
        term = broadcast(term, out, out.shape)
    extra = len(term.shape) - len(shape)
    if extra > 0:
        term = total(term, tuple(range(extra)), keep=False)
    kept = tuple(
        k for k, (mine, own) in enumerate(zip(term.shape, shape, strict=False))
        if own == 1 and mine != 1
    ) if len(term.shape) == len(shape) else ()  # fmt: skip
    return total(term, kept, keep=True)
