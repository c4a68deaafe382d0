"""The adjoints of what moves entries: transposes, shapes, and pieces put together or apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.oracles.step_source import terms
from bpttcheck.oracles.step_source.array_parts import (
    ArrayScene,
    ClearedPart,
    Piece,
    Rule,
    Scatter,
    Sent,
    axis_of,
    unsupported,
)
from bpttcheck.oracles.step_source.recording import PUT, Value
from bpttcheck.oracles.step_source.terms import Term, call, fitted, number


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
    axis = int(default if default is not None else axis_of(v, 1, 0)) % len(v.shape)
    if not isinstance(arrays, (list, tuple)) or not all(isinstance(a, Value) for a in arrays):
        raise unsupported(v)
    if any(len(a.shape) != len(v.shape) for a in arrays):
        raise unsupported(v)
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
    if isinstance(base, Value):
        yield base, ClearedPart(d, parts)
    if isinstance(value, Value):
        shape = np.empty(v.shape)[_plain(at)].shape
        yield value, fitted(terms.index(d, parts, shape), _Shape(shape), value.shape,
                            value.kind == "c")  # fmt: skip


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


def d_ndim(d: Term) -> int:
    """The number of axes."""
    return len(d.shape)


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
