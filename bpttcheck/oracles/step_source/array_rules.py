"""The adjoints of operations on whole arrays: products, sums and means, pieces and their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.errors import Declined
from bpttcheck.oracles.step_source import terms
from bpttcheck.oracles.step_source.array_parts import (
    ArrayScene,
    ClearedPart,
    Piece,
    Rule,
    Scatter,
    Sent,
    axis_of,
    batched,
    given,
    unsupported,
)
from bpttcheck.oracles.step_source.forward import of
from bpttcheck.oracles.step_source.recording import PUT, Value
from bpttcheck.oracles.step_source.terms import Term, call, conj, div, fitted, mul, number, total


def matmul(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``d_A = d @ B.T`` and ``d_B = A.T @ d``."""
    a, b = v.args
    yield from _product(here, v, a, b, here.full(d, v))


def _product(here: ArrayScene, v: Value, a: Any, b: Any, d: Term) -> Sent:
    A, B = here.forward.operand(a), here.forward.operand(b)
    if () in (A.shape, B.shape) or (len(A.shape) == 1 and len(B.shape) > 2):
        raise unsupported(v)
    if len(A.shape) == 1 and len(B.shape) == 1:
        yield from given((a, mul(d, conj(B))), (b, mul(d, conj(A))))
        return
    if len(A.shape) == 1:
        outer = mul(_new_axis(A, 1), _new_axis(d, 0))
        yield from given((a, terms.matmul(d, conj(terms.transposed(B)))), (b, outer))
        return
    if len(B.shape) == 1:
        spread = _new_axis(d, len(d.shape))
        axes = tuple(range(len(A.shape) - 1))
        yield from given(
            (a, mul(spread, conj(B))), (b, total(mul(spread, conj(A)), axes, keep=False))
        )
        return
    for operand, term in (
        (a, terms.matmul(d, conj(terms.transposed(B)))),
        (b, terms.matmul(conj(terms.transposed(A)), d)),
    ):
        yield operand, batched(term, operand)


def dot(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``np.dot`` of at most two axes."""
    if any(len(getattr(item, "shape", ())) > 2 for item in v.args[:2]):
        raise unsupported(v)
    a, b = v.args[:2]
    yield from _product(here, v, a, b, here.full(d, v))


def outer(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``np.outer(a, b)``: ``d_a = d @ b`` and ``d_b = a @ d``."""
    a, b = v.args[:2]
    d = here.full(d, v)
    A, B = here.forward.operand(a), here.forward.operand(b)
    if not len(A.shape) == len(B.shape) == 1:
        raise unsupported(v)
    yield from given((a, terms.matmul(d, conj(B))), (b, terms.matmul(conj(A), d)))


def einsum(here: ArrayScene, v: Value, d: Term) -> Sent:
    """The letters of the result and of the other operands, summed to those of the operand."""
    text, *operands = v.args
    if not isinstance(text, str) or "." in text:
        raise unsupported(v)
    left, arrow, out = text.replace(" ", "").partition("->")
    groups = left.split(",")
    if not arrow:
        letters = sorted(set(left) - {","})
        out = "".join(x for x in letters if left.count(x) == 1)
    d = here.full(d, v)
    for k, (own, operand) in enumerate(zip(groups, operands, strict=True)):
        rest = [(g, o) for j, (g, o) in enumerate(zip(groups, operands, strict=True)) if j != k]
        around = set(out).union(*(set(g) for g, _ in rest))
        if len(set(own)) < len(own) or not set(own) <= around:
            raise unsupported(v)
        if isinstance(operand, Value):
            others = [conj(here.forward.operand(o)) for _, o in rest]
            pattern = ",".join([out, *(g for g, _ in rest)]) + "->" + own
            first = number(None, f'"{pattern}"')
            is_complex = d.is_complex or any(o.is_complex for o in others)
            made = call("np.einsum", first, d, *others, shape=operand.shape,
                        is_complex=is_complex)  # fmt: skip
            yield operand, made if operand.kind == "c" else terms.real(made)


def inverse(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``d_A = -Y.T @ d @ Y.T`` for ``Y = inv(A)``."""
    turned = conj(terms.transposed(of(v)))
    yield v.args[0], terms.neg(terms.matmul(terms.matmul(turned, here.full(d, v)), turned))


def solve(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``d_b`` solves ``A.T d_b = d``, and ``d_A = -d_b @ y.T``, for the solution of ``A y = b``."""
    a, b = v.args
    A, B = here.forward.operand(a), here.forward.operand(b)
    if len(A.shape) != len(B.shape):
        raise unsupported(v)
    turned = conj(terms.transposed(A))
    d_b = call("np.linalg.solve", turned, here.full(d, v), shape=v.shape)
    d_a = terms.neg(terms.matmul(d_b, conj(terms.transposed(of(v)))))
    yield a, batched(d_a, a)
    yield b, batched(d_b, b)


def _new_axis(term: Term, axis: int) -> Term:
    at = (*[slice(None)] * axis, None)
    return terms.index(term, at, (*term.shape[:axis], 1, *term.shape[axis:]))


PRODUCTS: dict[str, Rule] = {
    "np.matmul": matmul,
    "np.dot": dot,
    "np.outer": outer,
    "np.einsum": einsum,
    "np.linalg.inv": inverse,
    "np.linalg.solve": solve,
}
"""By operation."""


def summed(here: ArrayScene, v: Value, d: Term) -> Sent:
    """The same adjoint for every entry."""
    a = v.args[0]
    yield a, _spread(here, v, d, a)


def mean(here: ArrayScene, v: Value, d: Term) -> Sent:
    """The same, over the number of entries."""
    a = v.args[0]
    yield a, div(_spread(here, v, d, a), _count(here, v, a))


def _count(here: ArrayScene, v: Value, a: Value) -> Term:
    axes = _reduced(v, a)
    counts = [int(np.prod([s[k] for k in axes])) for s in here.shapes[a]]
    text = here.sizes.text(counts)
    if text:
        return number(counts[0], text if not text.isdigit() else "")
    factors = [here.sizes.text([s[k] for s in here.shapes[a]]) for k in axes]
    if not all(factors):
        raise Declined(f"{v.op} over a number of entries that no size explains")
    return number(counts[0], f"({' * '.join(factors)})")


def _spread(here: ArrayScene, v: Value, d: Term, a: Value) -> Term:
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


def spread_variance(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``np.var`` and ``np.std``."""
    a = v.args[0]
    A, axes = here.forward.operand(a), _reduced(v, a)
    mean = call("np.mean", A, shape=_ones(a.shape, axes), axis=repr(_one(axes)),
                keepdims="True")  # fmt: skip
    slope = mul(_spread(here, v, d, a), terms.sub(A, mean))
    if v.kwargs.get("ddof"):
        raise unsupported(v)
    if v.op == "np.var":
        yield a, div(mul(number(2), slope), _count(here, v, a))
    else:
        yield a, div(slope, mul(_count(here, v, a), _spread(here, v, of(v), a)))


def extreme(here: ArrayScene, v: Value, d: Term) -> Sent:
    """The entry that is the largest, or the smallest, gets all."""
    a = v.args[0]
    equal = terms.infix("==", here.forward.operand(a), _spread(here, v, of(v), a))
    yield a, mul(_spread(here, v, d, a), equal)


def norm(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``d * a / norm``, for the Euclidean norm of vectors."""
    a = v.args[0]
    if len(v.args) > 1 or v.kwargs.get("ord") is not None or a.kind == "c":
        raise unsupported(v)
    A = here.forward.operand(a)
    yield a, div(mul(_spread(here, v, d, a), A), _spread(here, v, of(v), a))


def cumsum(here: ArrayScene, v: Value, d: Term) -> Sent:
    """The sums from the other end."""
    a, axis = v.args[0], axis_of(v, 1, None)
    if axis is None:
        raise unsupported(v)
    said = str(axis)
    turned = call("np.flip", here.full(d, v), axis=said)
    summed = call("np.cumsum", turned, axis=said)
    yield a, call("np.flip", summed, axis=said)


def softmax(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``y * (d - sum(d * y))``; of the logarithm, ``d - exp(y) * sum(d)``."""
    a, y = v.args[0], of(v)
    axis = axis_of(v, 1, None)
    axes = tuple(range(len(v.shape))) if axis is None else (axis % len(v.shape),)
    d = here.full(d, v)
    if v.op.endswith("log_softmax"):
        yield a, terms.sub(d, mul(call("np.exp", y), total(d, axes, keep=True)))
    else:
        yield a, mul(y, terms.sub(d, total(mul(d, y), axes, keep=True)))


def logsumexp(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``d * exp(a - y)``."""
    a = v.args[0]
    grown = _spread(here, v, of(v), a)
    A = here.forward.operand(a)
    yield a, mul(_spread(here, v, d, a), call("np.exp", terms.sub(A, grown)))


def _reduced(v: Value, a: Value) -> tuple[int, ...]:
    axis = axis_of(v, 1, 0 if v.op.endswith(".reduce") else None)
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


SUMS: dict[str, Rule] = {
    "np.sum": summed,
    "np.add.reduce": summed,
    "np.mean": mean,
    "np.var": spread_variance,
    "np.std": spread_variance,
    "np.max": extreme,
    "np.amax": extreme,
    "np.min": extreme,
    "np.maximum.reduce": extreme,
    "np.linalg.norm": norm,
    "np.cumsum": cumsum,
    "scipy.special.softmax": softmax,
    "scipy.special.log_softmax": softmax,
    "scipy.special.logsumexp": logsumexp,
}
"""By operation."""


def transpose(here: ArrayScene, v: Value, d: Term) -> Sent:
    """The axes back in their order."""
    a, *rest = v.args
    axes = rest[0] if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else tuple(rest)
    axes = v.kwargs.get("axes") or axes or None
    if len(v.shape) < 2 or (axes in (None, (1, 0), [1, 0]) and len(v.shape) == 2):
        yield a, terms.transposed(here.full(d, v))
        return
    if axes is None or None in axes:
        axes = tuple(range(len(v.shape)))[::-1]
    back = tuple(int(k) for k in np.argsort([x % len(v.shape) for x in axes]))
    yield a, call("np.transpose", here.full(d, v), number(None, repr(back)), shape=a.shape)


def swapped(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``np.swapaxes``, its own inverse, and ``np.moveaxis``, with its arguments swapped."""
    a, first, second = v.args
    d = here.full(d, v)
    if {first % len(d.shape), second % len(d.shape)} == {len(d.shape) - 1, len(d.shape) - 2}:
        yield a, terms.transposed(d)
        return
    one, two = (second, first) if v.op == "np.moveaxis" else (first, second)
    yield a, call(v.op, d, number(one), number(two), shape=a.shape)


def last_two(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``a.mT``."""
    yield v.args[0], terms.transposed(here.full(d, v))


def reshape(here: ArrayScene, v: Value, d: Term) -> Sent:
    """The adjoint in the operand's shape."""
    a = v.args[0]
    if any(isinstance(item, str) for item in v.args):
        raise unsupported(v)  # another order
    yield a, Term("reshape", (here.full(d, v),), a, a.shape, d.is_complex)


def broadcast_to(here: ArrayScene, v: Value, d: Term) -> Sent:
    """The sum over the axes that were repeated."""
    a = v.args[0]
    yield a, fitted(d, v, a.shape, a.kind == "c")


def as_array(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``np.array``: of one array itself, of a list its rows."""
    (items, *_) = v.args
    if isinstance(items, Value):
        yield items, d
        return
    d = here.full(d, v)
    for k, item in enumerate(items):
        if isinstance(item, Value):
            yield item, terms.index(d, (k,), item.shape)
        elif isinstance(item, (list, tuple)):
            raise unsupported(v)


def stack(here: ArrayScene, v: Value, d: Term) -> Sent:
    """One entry of the new axis for each array."""
    arrays = v.args[0]
    axis = axis_of(v, 1, 0) % len(v.shape)
    d = here.full(d, v)
    for k, item in enumerate(arrays):
        if isinstance(item, Value):
            yield item, terms.index(d, (*[slice(None)] * axis, k), item.shape)


def concatenate(here: ArrayScene, v: Value, d: Term) -> Sent:
    """A slice for each array."""
    arrays = v.args[0]
    default = {"np.hstack": 1 if len(v.shape) > 1 else 0, "np.vstack": 0}.get(v.op)
    axis = default if default is not None else axis_of(v, 1, 0)
    alike = isinstance(arrays, (list, tuple)) and all(
        isinstance(a, Value) and len(a.shape) == len(v.shape) for a in arrays
    )
    if not alike or axis is None:
        raise unsupported(v)
    axis = int(axis) % len(v.shape)
    d = here.full(d, v)
    ends = [0] * len(here.shapes[v])
    for k, array in enumerate(arrays):
        starts = ends
        ends = [e + s[axis] for e, s in zip(starts, here.shapes[array], strict=True)]
        last = k == len(arrays) - 1
        at = (*[slice(None)] * axis, slice(
            here.bound(starts, v) if k else None, None if last else here.bound(ends, v)
        ))  # fmt: skip
        yield array, terms.index(d, at, array.shape)


def split(here: ArrayScene, v: Value, d: Term) -> Sent:
    """A piece of the adjoint of the whole."""
    a, sections = v.args[0], v.args[1] if len(v.args) > 1 else v.kwargs["indices_or_sections"]
    fixed = {"np.hsplit": 1, "np.vsplit": 0}
    axis = (fixed[v.op] if v.op in fixed else axis_of(v, 2, 0)) % len(v.shape)
    assert v.part is not None
    wholes, mine = here.shapes[a], here.shapes[v]
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
        here.bound([s for s, _ in bounds], v) or None,
        None if last else here.bound([e for _, e in bounds], v),
    ))  # fmt: skip
    yield a, Piece(here.full(d, v), axis, bounds, at)


def item(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``a[index]``: the adjoint at these entries."""
    a, at = v.args
    raw = at if isinstance(at, tuple) else (at,)
    full = slice(None)
    if all(p is None or p is Ellipsis or (isinstance(p, slice) and p == full) for p in raw):
        where = _new_axes(raw, len(v.shape))
        # The axes that are new have one entry.
        yield a, terms.index(d, where, a.shape) if len(d.shape) == len(v.shape) else d
        return
    parts = here.forward.parts(at)
    fancy = any(isinstance(p, Term) for p in parts)
    slices = [k for k, p in enumerate(raw) if isinstance(p, slice) and p != full]
    d = here.full(d, v)
    if len(slices) == 1 and all(isinstance(p, slice) for p in raw):
        axis = slices[0]
        if raw[axis].step in (None, 1):
            bounds = _bounds(raw[axis], [s[axis] for s in here.shapes[a]])
            yield a, Piece(d, axis, bounds, parts)
            return
    yield a, Scatter(d, parts, fancy)


def _new_axes(raw: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    kept = [p for p in raw if p is not Ellipsis]
    dots = next((k for k, p in enumerate(raw) if p is Ellipsis), len(raw))
    filled = [*raw[:dots], *[slice(None)] * (ndim - len(kept)), *raw[dots + 1 :]]
    while filled and filled[-1] is not None:
        filled.pop()
    return tuple(0 if p is None else slice(None) for p in filled)


def _bounds(part: slice, lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    ends: list[tuple[int, int]] = []
    for k, length in enumerate(lengths):
        start, stop = (
            getattr(end, "values", [end] * len(lengths))[k] for end in (part.start, part.stop)
        )
        ends.append(slice(start, stop).indices(length)[:2])
    return tuple(ends)


def put(here: ArrayScene, v: Value, d: Term) -> Sent:
    """``a[index] = value``: the entries that were overwritten get nothing."""
    base, at, value = v.args
    parts = here.forward.parts(at)
    d = here.full(d, v)
    yield base, ClearedPart(d, parts)
    if isinstance(value, Value):
        shape = np.empty(v.shape)[_plain(at)].shape
        yield value, fitted(terms.index(d, parts, shape), _Shape(shape), value.shape,
                            value.kind == "c")  # fmt: skip
    elif not np.isscalar(value):
        raise unsupported(v)


@dataclass(frozen=True)
class _Shape:
    shape: tuple[int, ...]


def _plain(at: Any) -> Any:
    if isinstance(at, tuple):
        return tuple(_plain(part) for part in at)
    if isinstance(at, slice):
        return slice(*(getattr(e, "values", [e])[0] for e in (at.start, at.stop, at.step)))
    if isinstance(at, Value):
        return np.zeros(at.shape, at.kind if at.kind == "b" else int)
    return at


PIECES: dict[str, Rule] = {
    "np.transpose": transpose,
    "ndarray.transpose": transpose,
    "np.matrix_transpose": last_two,
    "np.swapaxes": swapped,
    "np.moveaxis": swapped,
    "ndarray.reshape": reshape,
    "np.reshape": reshape,
    "np.ravel": reshape,
    "ndarray.flatten": reshape,
    "np.squeeze": reshape,
    "np.expand_dims": reshape,
    "np.broadcast_to": broadcast_to,
    "np.array": as_array,
    "np.asarray": as_array,
    "np.ascontiguousarray": as_array,
    "np.asanyarray": as_array,
    "np.stack": stack,
    "np.concatenate": concatenate,
    "np.concat": concatenate,
    "np.hstack": concatenate,
    "np.vstack": concatenate,
    "np.split": split,
    "np.array_split": split,
    "np.hsplit": split,
    "np.vsplit": split,
    "z[...]": item,
    PUT: put,
}
"""By operation."""

JOINED = frozenset(op for op, rule in PIECES.items() if rule in (as_array, stack, concatenate))
"""Operations on a list of arrays."""


_RULES = PRODUCTS | PIECES | SUMS


def sent(here: ArrayScene, v: Value, d: Term) -> Sent | None:
    """What each operand gets of the adjoint ``d``; None for an unknown operation."""
    rule = _RULES.get(v.op)
    return None if rule is None else rule(here, v, d)


def piece(here: ArrayScene, whole: Value, part: Value) -> Term | None:
    """An array as a slice of the one into which it was put, or None."""
    if _RULES.get(whole.op) is not concatenate:
        return None
    pieces = concatenate(here, whole, of(whole))
    return next((p for v, p in pieces if v is part and isinstance(p, Term)), None)
