"""The adjoints of sums, means and other numbers made of all entries along an axis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bpttcheck.errors import Declined
from bpttcheck.oracles.step_source import terms
from bpttcheck.oracles.step_source.array_parts import (
    ArrayScene,
    Rule,
    Sent,
    axis_of,
    unsupported,
)
from bpttcheck.oracles.step_source.forward import of
from bpttcheck.oracles.step_source.recording import Value
from bpttcheck.oracles.step_source.terms import Term, call, div, mul, number, total


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
