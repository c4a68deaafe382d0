"""The adjoints of operations on whole arrays: products, sums, and pieces put together or apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.derivation import terms
from bpttcheck.derivation.forward import Forward, of
from bpttcheck.derivation.recording import PUT, Value
from bpttcheck.derivation.terms import Term, call, conj, div, fitted, mul, number, total
from bpttcheck.derivation.traces import Sizes
from bpttcheck.errors import Declined


@dataclass(frozen=True)
class Piece:
    """The adjoint of a slice along one axis.

    Args:
        term: the adjoint.
        axis: the axis.
        bounds: start and end, at each size.
        at: the slice as an index.
    """

    term: Term
    axis: int
    bounds: tuple[tuple[int, int], ...]
    at: tuple[Any, ...]


@dataclass(frozen=True)
class Scatter:
    """The adjoint of some entries: to be added at an index.

    Args:
        term: the adjoint.
        at: the index.
        repeats: True if an entry may be met twice.
    """

    term: Term
    at: tuple[Any, ...]
    repeats: bool


@dataclass(frozen=True)
class Cleared:
    """The adjoint of an array of which some entries were then overwritten: they get nothing.

    Args:
        term: the adjoint.
        at: the index of what was overwritten.
    """

    term: Term
    at: tuple[Any, ...]


Part = Term | Piece | Scatter | Cleared
Sent = Iterator[tuple[Value, Part]]


class Arrays:
    """The adjoints of operations on arrays.

    Args:
        forward: writes operands.
        shapes: of each value, at every size.
    """

    def __init__(self, forward: Forward, shapes: dict[Value, Any]) -> None:
        self._forward, self._shapes = forward, shapes

    @property
    def _sizes(self) -> Sizes:
        return self._forward.sizes

    def sent(self, v: Value, d: Term) -> Sent | None:
        """What each operand gets of the adjoint ``d``; None for an unknown operation."""
        rule = _RULES.get(v.op)
        return None if rule is None else rule(self, v, d)

    def full(self, d: Term, v: Value) -> Term:
        """An adjoint in the shape of its value."""
        return terms.broadcast(d, v, v.shape)

    def matmul(self, v: Value, d: Term) -> Sent:
        """``d_A = d @ B.T`` and ``d_B = A.T @ d``."""
        a, b = v.args
        yield from self._product(v, a, b, self.full(d, v))

    def _product(self, v: Value, a: Any, b: Any, d: Term) -> Sent:
        A, B = self._forward.operand(a), self._forward.operand(b)
        if len(A.shape) == 1 and len(B.shape) == 1:
            yield from _given((a, mul(d, conj(B))), (b, mul(d, conj(A))))
            return
        if len(A.shape) == 1 and len(B.shape) == 2:
            outer = mul(_new_axis(A, 1), _new_axis(d, 0))
            yield from _given((a, terms.matmul(d, conj(terms.transposed(B)))), (b, outer))
            return
        if len(B.shape) == 1:
            spread = _new_axis(d, len(d.shape))
            axes = tuple(range(len(A.shape) - 1))
            yield from _given(
                (a, mul(spread, conj(B))), (b, total(mul(spread, conj(A)), axes, keep=False))
            )
            return
        if len(A.shape) == 1:
            raise _unsupported(v)
        for operand, term in (
            (a, terms.matmul(d, conj(terms.transposed(B)))),
            (b, terms.matmul(conj(terms.transposed(A)), d)),
        ):
            if isinstance(operand, Value):
                yield operand, _batched(term, operand)

    def dot(self, v: Value, d: Term) -> Sent:
        """``np.dot`` of at most two axes."""
        if any(len(getattr(item, "shape", ())) > 2 for item in v.args[:2]):
            raise _unsupported(v)
        a, b = v.args[:2]
        yield from self._product(v, a, b, self.full(d, v))

    def outer(self, v: Value, d: Term) -> Sent:
        """``np.outer(a, b)``: ``d_a = d @ b`` and ``d_b = a @ d``."""
        a, b = v.args[:2]
        d = self.full(d, v)
        A, B = self._forward.operand(a), self._forward.operand(b)
        yield from _given((a, terms.matmul(d, conj(B))), (b, terms.matmul(conj(A), d)))

    def einsum(self, v: Value, d: Term) -> Sent:
        """The letters of the result and of the other operands, summed to those of the operand."""
        text, *operands = v.args
        if not isinstance(text, str) or "." in text:
            raise _unsupported(v)
        left, arrow, out = text.replace(" ", "").partition("->")
        groups = left.split(",")
        if not arrow:
            letters = sorted(set(left) - {","})
            out = "".join(x for x in letters if left.count(x) == 1)
        d = self.full(d, v)
        for k, (own, operand) in enumerate(zip(groups, operands, strict=True)):
            rest = [(g, o) for j, (g, o) in enumerate(zip(groups, operands, strict=True)) if j != k]
            around = set(out).union(*(set(g) for g, _ in rest))
            if len(set(own)) < len(own) or not set(own) <= around:
                raise _unsupported(v)
            if isinstance(operand, Value):
                others = [conj(self._forward.operand(o)) for _, o in rest]
                pattern = ",".join([out, *(g for g, _ in rest)]) + "->" + own
                first = number(None, f'"{pattern}"')
                is_complex = d.is_complex or any(o.is_complex for o in others)
                made = call("np.einsum", first, d, *others, shape=operand.shape,
                            is_complex=is_complex)  # fmt: skip
                yield operand, made if operand.kind == "c" else terms.real(made)

    def transpose(self, v: Value, d: Term) -> Sent:
        """The axes back in their order."""
        a, *rest = v.args
        axes = rest[0] if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else tuple(rest)
        axes = v.kwargs.get("axes") or axes or None
        if len(v.shape) < 2 or (axes in (None, (1, 0), [1, 0]) and len(v.shape) == 2):
            yield a, terms.transposed(self.full(d, v))
            return
        if axes is None or None in axes:
            axes = tuple(range(len(v.shape)))[::-1]
        back = tuple(int(k) for k in np.argsort([x % len(v.shape) for x in axes]))
        yield a, call("np.transpose", self.full(d, v), number(None, repr(back)), shape=a.shape)

    def swapped(self, v: Value, d: Term) -> Sent:
        """``np.swapaxes``, its own inverse, and ``np.moveaxis``, with its arguments swapped."""
        a, first, second = v.args
        d = self.full(d, v)
        if {first % d_ndim(d), second % d_ndim(d)} == {d_ndim(d) - 1, d_ndim(d) - 2}:
            yield a, terms.transposed(d)
            return
        one, two = (second, first) if v.op == "np.moveaxis" else (first, second)
        yield a, call(v.op, d, number(one), number(two), shape=a.shape)

    def last_two(self, v: Value, d: Term) -> Sent:
        """``a.mT``."""
        yield v.args[0], terms.transposed(self.full(d, v))

    def reshape(self, v: Value, d: Term) -> Sent:
        """The adjoint in the operand's shape."""
        a = v.args[0]
        yield a, Term("reshape", (self.full(d, v),), a, a.shape, d.is_complex)

    def broadcast_to(self, v: Value, d: Term) -> Sent:
        """The sum over the axes that were repeated."""
        a = v.args[0]
        yield a, fitted(d, v, a.shape, a.kind == "c")

    def as_array(self, v: Value, d: Term) -> Sent:
        """``np.array``: of one array itself, of a list its rows."""
        (items, *_) = v.args
        if isinstance(items, Value):
            yield items, d
            return
        d = self.full(d, v)
        for k, item in enumerate(items):
            if isinstance(item, Value):
                yield item, terms.index(d, (k,), item.shape)
            elif isinstance(item, (list, tuple)):
                raise _unsupported(v)

    def stack(self, v: Value, d: Term) -> Sent:
        """One entry of the new axis for each array."""
        arrays = v.args[0]
        axis = _axis(v, 1, 0) % len(v.shape)
        d = self.full(d, v)
        for k, item in enumerate(arrays):
            if isinstance(item, Value):
                yield item, terms.index(d, (*[slice(None)] * axis, k), item.shape)

    def concatenate(self, v: Value, d: Term) -> Sent:
        """A slice for each array."""
        arrays = v.args[0]
        default = {"np.hstack": 1 if len(v.shape) > 1 else 0, "np.vstack": 0}.get(v.op)
        axis = int(default if default is not None else _axis(v, 1, 0)) % len(v.shape)
        if not isinstance(arrays, (list, tuple)) or not all(isinstance(a, Value) for a in arrays):
            raise _unsupported(v)
        if any(len(a.shape) != len(v.shape) for a in arrays):
            raise _unsupported(v)
        d = self.full(d, v)
        ends = [0] * len(self._shapes[v])
        for k, array in enumerate(arrays):
            starts = ends
            ends = [e + s[axis] for e, s in zip(starts, self._shapes[array], strict=True)]
            last = k == len(arrays) - 1
            at = (*[slice(None)] * axis, slice(
                self._bound(starts, v) if k else None, None if last else self._bound(ends, v)
            ))  # fmt: skip
            yield array, terms.index(d, at, array.shape)

    def piece(self, whole: Value, piece: Value) -> Term | None:
        """An array as a slice of the one into which it was put, or None."""
        if _RULES.get(whole.op) is not Arrays.concatenate:
            return None
        pieces = self.concatenate(whole, of(whole))
        return next((p for v, p in pieces if v is piece and isinstance(p, Term)), None)

    def _bound(self, values: Sequence[int], v: Value) -> Term | int:
        text = self._sizes.text(values)
        if not text:
            raise Declined(f"{v.op} at a place that no size explains")
        return int(text) if text.isdigit() else number(values[0], text)

    def split(self, v: Value, d: Term) -> Sent:
        """A piece of the adjoint of the whole."""
        a, sections = v.args[0], v.args[1] if len(v.args) > 1 else v.kwargs["indices_or_sections"]
        axis = {"np.hsplit": 1, "np.vsplit": 0}.get(v.op, _axis(v, 2, 0)) % len(v.shape)
        assert v.part is not None
        wholes, mine = self._shapes[a], self._shapes[v]
        if isinstance(sections, int):
            starts = [v.part * m[axis] for m in mine]
        elif v.part == 0:
            starts = [0] * len(mine)
        else:
            before = sections[v.part - 1]
            starts = list(getattr(before, "values", [before] * len(mine)))
        bounds = tuple((int(s), int(s) + m[axis]) for s, m in zip(starts, mine, strict=True))
        last = all(e == w[axis] for (_, e), w in zip(bounds, wholes, strict=True))
        at = (*[slice(None)] * axis, slice(
            self._bound([s for s, _ in bounds], v) or None,
            None if last else self._bound([e for _, e in bounds], v),
        ))  # fmt: skip
        yield a, Piece(self.full(d, v), axis, bounds, at)

    def item(self, v: Value, d: Term) -> Sent:
        """``a[index]``: the adjoint at these entries."""
        a, at = v.args
        raw = at if isinstance(at, tuple) else (at,)
        full = slice(None)
        if all(p is None or p is Ellipsis or (isinstance(p, slice) and p == full) for p in raw):
            where = self._new_axes(raw, len(v.shape))
            # The axes that are new have one entry.
            yield a, terms.index(d, where, a.shape) if len(d.shape) == len(v.shape) else d
            return
        parts = self._forward.parts(at)
        fancy = any(isinstance(p, Term) for p in parts)
        slices = [k for k, p in enumerate(raw) if isinstance(p, slice) and p != full]
        d = self.full(d, v)
        if len(slices) == 1 and all(isinstance(p, slice) for p in raw):
            axis = slices[0]
            if raw[axis].step in (None, 1):
                bounds = self._bounds(raw[axis], [s[axis] for s in self._shapes[a]])
                yield a, Piece(d, axis, bounds, parts)
                return
        yield a, Scatter(d, parts, fancy)

    def _new_axes(self, raw: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
        kept = [p for p in raw if p is not Ellipsis]
        dots = next((k for k, p in enumerate(raw) if p is Ellipsis), len(raw))
        filled = [*raw[:dots], *[slice(None)] * (ndim - len(kept)), *raw[dots + 1 :]]
        while filled and filled[-1] is not None:
            filled.pop()
        return tuple(0 if p is None else slice(None) for p in filled)

    def _bounds(self, part: slice, lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
        ends: list[tuple[int, int]] = []
        for k, length in enumerate(lengths):
            start, stop = (
                getattr(end, "values", [end] * len(lengths))[k] for end in (part.start, part.stop)
            )
            ends.append(slice(start, stop).indices(length)[:2])
        return tuple(ends)

    def put(self, v: Value, d: Term) -> Sent:
        """``a[index] = value``: the entries that were overwritten get nothing."""
        base, at, value = v.args
        parts = self._forward.parts(at)
        d = self.full(d, v)
        if isinstance(base, Value):
            yield base, Cleared(d, parts)
        if isinstance(value, Value):
            shape = np.empty(v.shape)[_plain(at)].shape
            yield value, fitted(terms.index(d, parts, shape), _Shape(shape), value.shape,
                                value.kind == "c")  # fmt: skip

    def sum(self, v: Value, d: Term) -> Sent:
        """The same adjoint for every entry."""
        a = v.args[0]
        yield a, self._spread(v, d, a)

    def mean(self, v: Value, d: Term) -> Sent:
        """The same, over the number of entries."""
        a = v.args[0]
        yield a, div(self._spread(v, d, a), self._count(v, a))

    def _count(self, v: Value, a: Value) -> Term:
        axes = _reduced(v, a)
        counts = [int(np.prod([s[k] for k in axes])) for s in self._shapes[a]]
        text = self._sizes.text(counts)
        if text:
            return number(counts[0], text if not text.isdigit() else "")
        factors = [self._sizes.text([s[k] for s in self._shapes[a]]) for k in axes]
        if not all(factors):
            raise Declined(f"{v.op} over a number of entries that no size explains")
        return number(counts[0], f"({' * '.join(factors)})")

    def _spread(self, v: Value, d: Term, a: Value) -> Term:
        """An adjoint with the axes that a sum has dropped."""
        axes = _reduced(v, a)
        if v.kwargs.get("keepdims") or len(d.shape) < len(v.shape) or not v.shape:
            return d
        at = tuple(None if k in axes else slice(None) for k in range(len(a.shape)))
        while at and at[-1] == slice(None):
            at = at[:-1]
        shape = tuple(1 if k in axes else s for k, s in zip(
            range(len(a.shape)), _kept(d.shape, axes, len(a.shape)), strict=True))  # fmt: skip
        return terms.index(d, at, shape)

    def spread_variance(self, v: Value, d: Term) -> Sent:
        """``np.var`` and ``np.std``."""
        a = v.args[0]
        A, axes = self._forward.operand(a), _reduced(v, a)
        mean = call("np.mean", A, shape=_ones(a.shape, axes), axis=repr(_one(axes)),
                    keepdims="True")  # fmt: skip
        slope = mul(self._spread(v, d, a), terms.sub(A, mean))
        if v.kwargs.get("ddof"):
            raise _unsupported(v)
        if v.op == "np.var":
            yield a, div(mul(number(2), slope), self._count(v, a))
        else:
            yield a, div(slope, mul(self._count(v, a), self._spread(v, of(v), a)))

    def extreme(self, v: Value, d: Term) -> Sent:
        """The entry that is the largest, or the smallest, gets all."""
        a = v.args[0]
        equal = terms.infix("==", self._forward.operand(a), self._spread(v, of(v), a))
        yield a, mul(self._spread(v, d, a), equal)

    def norm(self, v: Value, d: Term) -> Sent:
        """``d * a / norm``, for the Euclidean norm of vectors."""
        a = v.args[0]
        if len(v.args) > 1 or v.kwargs.get("ord") is not None or a.kind == "c":
            raise _unsupported(v)
        A = self._forward.operand(a)
        yield a, div(mul(self._spread(v, d, a), A), self._spread(v, of(v), a))

    def inverse(self, v: Value, d: Term) -> Sent:
        """``d_A = -Y.T @ d @ Y.T`` for ``Y = inv(A)``."""
        turned = conj(terms.transposed(of(v)))
        yield v.args[0], terms.neg(terms.matmul(terms.matmul(turned, self.full(d, v)), turned))

    def solve(self, v: Value, d: Term) -> Sent:
        """``d_b = solve(A.T, d)`` and ``d_A = -d_b @ y.T`` for ``y = solve(A, b)``."""
        a, b = v.args
        A, B = self._forward.operand(a), self._forward.operand(b)
        if len(A.shape) != len(B.shape):
            raise _unsupported(v)
        turned = conj(terms.transposed(A))
        d_b = call("np.linalg.solve", turned, self.full(d, v), shape=v.shape)
        d_a = terms.neg(terms.matmul(d_b, conj(terms.transposed(of(v)))))
        for operand, term in ((a, d_a), (b, d_b)):
            if isinstance(operand, Value):
                yield operand, _batched(term, operand)

    def cumsum(self, v: Value, d: Term) -> Sent:
        """The sums from the other end."""
        a, axis = v.args[0], _axis(v, 1, None)
        if axis is None:
            raise _unsupported(v)
        said = str(axis)
        turned = call("np.flip", self.full(d, v), axis=said)
        summed = call("np.cumsum", turned, axis=said)
        yield a, call("np.flip", summed, axis=said)

    def softmax(self, v: Value, d: Term) -> Sent:
        """``y * (d - sum(d * y))``; of the logarithm, ``d - exp(y) * sum(d)``."""
        a, y = v.args[0], of(v)
        axis = _axis(v, 1, None)
        axes = tuple(range(len(v.shape))) if axis is None else (axis % len(v.shape),)
        d = self.full(d, v)
        if v.op.endswith("log_softmax"):
            yield a, terms.sub(d, mul(call("np.exp", y), total(d, axes, keep=True)))
        else:
            yield a, mul(y, terms.sub(d, total(mul(d, y), axes, keep=True)))

    def logsumexp(self, v: Value, d: Term) -> Sent:
        """``d * exp(a - y)``."""
        a = v.args[0]
        grown = self._spread(v, of(v), a)
        A = self._forward.operand(a)
        yield a, mul(self._spread(v, d, a), call("np.exp", terms.sub(A, grown)))


@dataclass(frozen=True)
class _Shape:
    shape: tuple[int, ...]


def d_ndim(d: Term) -> int:
    """The number of axes."""
    return len(d.shape)


def _plain(at: Any) -> Any:
    if isinstance(at, tuple):
        return tuple(_plain(part) for part in at)
    if isinstance(at, slice):
        return slice(*(getattr(e, "values", [e])[0] for e in (at.start, at.stop, at.step)))
    if isinstance(at, Value):
        return np.zeros(at.shape, at.kind if at.kind == "b" else int)
    return at


def _given(*pairs: tuple[Any, Term]) -> Sent:
    for operand, term in pairs:
        if isinstance(operand, Value):
            yield operand, term if operand.kind == "c" else terms.real(term)


def _batched(term: Term, operand: Value) -> Term:
    """Summed over the leading axes along which an operand was repeated."""
    term = term if operand.kind == "c" else terms.real(term)
    extra = len(term.shape) - len(operand.shape)
    if extra:
        term = total(term, tuple(range(extra)), keep=False)
    kept = tuple(
        k for k, (a, b) in enumerate(zip(term.shape, operand.shape, strict=True)) if a != b
    )
    return total(term, kept, keep=True)


def _new_axis(term: Term, axis: int) -> Term:
    at = (*[slice(None)] * axis, None)
    return terms.index(term, at, (*term.shape[:axis], 1, *term.shape[axis:]))


def _axis(v: Value, position: int, default: Any) -> Any:
    if "axis" in v.kwargs:
        return v.kwargs["axis"]
    return v.args[position] if len(v.args) > position else default


def _reduced(v: Value, a: Value) -> tuple[int, ...]:
    axis = _axis(v, 1, 0 if v.op.endswith(".reduce") else None)
    if axis is None:
        return tuple(range(len(a.shape)))
    return tuple(k % len(a.shape) for k in (axis if isinstance(axis, tuple) else (axis,)))


def _one(axes: tuple[int, ...]) -> Any:
    return axes[0] if len(axes) == 1 else axes


def _ones(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if k in axes else s for k, s in enumerate(shape))


def _kept(shape: tuple[int, ...], axes: tuple[int, ...], ndim: int) -> Iterator[int]:
    left = iter(shape)
    for k in range(ndim):
        yield 1 if k in axes else next(left)


def _unsupported(v: Value) -> Declined:
    return Declined(f"{v.op} in this form, of which no adjoint is known here")


Rule = Callable[[Arrays, Value, Term], Sent]

_RULES: dict[str, Rule] = {
    "np.matmul": Arrays.matmul, "np.dot": Arrays.dot, "np.outer": Arrays.outer,
    "np.einsum": Arrays.einsum, "np.transpose": Arrays.transpose,
    "ndarray.transpose": Arrays.transpose, "np.matrix_transpose": Arrays.last_two,
    "np.swapaxes": Arrays.swapped, "np.moveaxis": Arrays.swapped,
    "ndarray.reshape": Arrays.reshape, "np.reshape": Arrays.reshape, "np.ravel": Arrays.reshape,
    "ndarray.flatten": Arrays.reshape, "np.squeeze": Arrays.reshape,
    "np.expand_dims": Arrays.reshape, "np.broadcast_to": Arrays.broadcast_to,
    "np.array": Arrays.as_array, "np.asarray": Arrays.as_array,
    "np.ascontiguousarray": Arrays.as_array, "np.asanyarray": Arrays.as_array,
    "np.stack": Arrays.stack, "np.concatenate": Arrays.concatenate,
    "np.concat": Arrays.concatenate, "np.hstack": Arrays.concatenate,
    "np.vstack": Arrays.concatenate, "np.split": Arrays.split, "np.array_split": Arrays.split,
    "np.hsplit": Arrays.split, "np.vsplit": Arrays.split, "z[...]": Arrays.item, PUT: Arrays.put,
    "np.sum": Arrays.sum, "np.add.reduce": Arrays.sum, "np.mean": Arrays.mean,
    "np.var": Arrays.spread_variance, "np.std": Arrays.spread_variance,
    "np.max": Arrays.extreme, "np.amax": Arrays.extreme, "np.min": Arrays.extreme,
    "np.maximum.reduce": Arrays.extreme,
    "np.linalg.inv": Arrays.inverse, "np.linalg.solve": Arrays.solve, "np.linalg.norm": Arrays.norm,
    "np.cumsum": Arrays.cumsum, "scipy.special.softmax": Arrays.softmax,
    "scipy.special.log_softmax": Arrays.softmax, "scipy.special.logsumexp": Arrays.logsumexp,
}  # fmt: skip
