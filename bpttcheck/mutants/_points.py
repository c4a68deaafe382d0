"""Right backward passes at random values, to compare a wrong one with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Array, is_cell, is_float
from bpttcheck.mutants._call import VjpCall, VjpResult
from bpttcheck.mutants._planted import cell_call, layer_call


@dataclass(frozen=True)
class CallPoint:
    """A call of the right backward pass at random values, and its result."""

    call: VjpCall
    right: VjpResult


def draw_point(target: Any, size: tuple[int, int], seed: int, B: int = 3, T: int = 3) -> CallPoint:
    """A call of a right target at random values, a function of ``seed`` alone.

    The state is one that the target reached, moved a little; of a cell it is one step.

    Args:
        target: a right cell or layer.
        size: ``(n_in, n_hidden)``.
        seed: seed of the values.
        B: the number of rows.
        T: the number of steps of a layer.
    """
    rng = np.random.default_rng([seed, *size])
    params = {key: _spread_out(rng, np.asarray(v)) for key, v in target.init(rng, *size).items()}
    dtype = next((value.dtype for value in params.values()), np.dtype(np.float64))
    xs = rng.standard_normal((T, B, size[0])).astype(dtype)

    def moved(leaf: Any) -> Any:
        noise = 0.1 * rng.standard_normal(np.shape(leaf))
        return (leaf + noise).astype(np.asarray(leaf).dtype) if is_float(leaf) else np.array(leaf)

    def cotangent(leaf: Any) -> Array:
        return rng.standard_normal(np.shape(leaf)).astype(dtype) * float(is_float(leaf))

    own = target.initial_state(params, B)
    if is_cell(target):
        state, _, _ = target.step(params, own, xs[0])
        state, y, record = target.step(params, trees.map_leaves(moved, state), xs[1])
        call = cell_call(
            target, params, record, trees.map_leaves(cotangent, state), cotangent(y)
        )  # fmt: skip
    else:
        _, state, _ = target.forward(params, xs, own)
        ys, state, tape = target.forward(params, xs, trees.map_leaves(moved, state))
        call = layer_call(
            target, params, tape, trees.map_leaves(cotangent, state), cotangent(ys)
        )  # fmt: skip
    return CallPoint(call, call.right())


def _spread_out(rng: np.random.Generator, value: Array) -> Array:
    """Values moved a little, so that none is special: a zero bias hides bugs."""
    width = float(np.sqrt(np.mean(value**2))) if value.size else 0.0
    return (value + 0.3 * (width or 0.5) * rng.standard_normal(value.shape)).astype(value.dtype)


def differ(a: Array, b: Array) -> bool:
    """True if two gradients differ by more than rounding, or in shape."""
    if np.shape(a) != np.shape(b):
        return True
    a, b = np.asarray(a), np.asarray(b)
    scale = max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0))
    eps = np.finfo(b.dtype).eps if b.dtype.kind == "f" else 0.0
    with np.errstate(all="ignore"):
        gap = np.abs(a - b).max(initial=0.0)
    return not gap <= np.sqrt(eps) * scale
