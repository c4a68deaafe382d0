"""Small problems that distinguish a changed backward pass from the right one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_X, d_previous_state, of_params, of_state
from bpttcheck.contract import Array, is_float

_ROUNDING = 1e-11
"""Relative to the largest entry of a block; a change that matters is never so small everywhere."""

Gradients = dict[str, Array]


@dataclass(frozen=True)
class StepProblem:
    """One step of a cell with its cotangents, in float64.

    Args:
        params: the parameters.
        state: the state before the step.
        x: the input, ``(B, n_in)``.
        d_state: cotangent of the new state.
        d_y: cotangent of the output, ``(B, n_out)``.
    """

    params: dict[str, Array]
    state: Any
    x: Array
    d_state: Any
    d_y: Array

    def arguments(self, target: Any, at_rest: bool = False) -> tuple[Any, Any, Any, Array]:
        """Fresh ``(params, cache, d_state, d_y)`` for one call of a ``step_vjp``.

        Args:
            target: the cell.
            at_rest: True for cotangents of zero.
        """
        params = {key: value.copy() for key, value in self.params.items()}
        state = trees.map_leaves(np.copy, self.state)
        cache = target.step(params, state, self.x.copy())[2]
        fresh = np.zeros_like if at_rest else np.copy
        return params, cache, trees.map_leaves(fresh, self.d_state), fresh(self.d_y)

    def run(self, target: Any, step_vjp: Callable[..., Any]) -> Gradients:
        """The result of ``step_vjp``, by block.

        Raises:
            Exception: whatever ``step_vjp`` raises; a ValueError if it returns no gradients.
        """
        d_params, d_state, d_x = step_vjp(*self.arguments(target))
        blocks = of_params(d_params, sorted(d_params))
        blocks |= {**of_state(d_previous_state(), d_state), D_X: d_x}
        return {name: np.asarray(value) for name, value in blocks.items()}


def problem(
    target: Any,
    rng: np.random.Generator,
    size: tuple[int, int],
    B: int,
    *,
    scale: float = 1.0,
    d_state: float = 1.0,
    d_y: float = 1.0,
) -> StepProblem:
    """A random problem, whose state has been reached in two steps.

    Args:
        target: the cell.
        rng: the source of the numbers.
        size: ``(n_in, n_hidden)``.
        B: batch rows.
        scale: parameters are multiplied by this; 30 saturates most units.
        d_state: size of the cotangent of the new state; 0: none.
        d_y: size of the cotangent of the output; 0: none.
    """
    drawn = {key: np.asarray(value) for key, value in target.init(rng, *size).items()}
    params = {k: _double(scale * v if is_float(v) else v) for k, v in drawn.items()}
    state = trees.map_leaves(_double, target.initial_state(params, B))
    for _ in range(2):
        state = target.step(params, state, rng.standard_normal((B, size[0])))[0]
    x = rng.standard_normal((B, size[0]))
    y = target.step(params, trees.map_leaves(np.copy, state), x.copy())[1]

    def cotangent(leaf: Any) -> Array:
        if is_float(leaf):
            return d_state * rng.standard_normal(np.shape(leaf))
        return np.zeros_like(leaf)

    return StepProblem(
        params, state, x, trees.map_leaves(cotangent, state), d_y * rng.standard_normal(y.shape)
    )


class RunsBackward(Protocol):
    """A problem on which a backward pass can be run."""

    def run(self, target: Any, backward: Callable[..., Any], /) -> Gradients:
        """The gradients of ``backward``, by block."""
        ...


def compare(right: Gradients, one: RunsBackward, target: Any, step_vjp: Callable[..., Any]) -> str:
    """How ``step_vjp`` differs from the right one, whose gradients are given.

    Returns:
        ``"raises"``, ``"misshapen"`` (gradients of other names, shapes or dtypes), ``"differs"``,
        ``"rounding"``, or ``""`` for bitwise equality.
    """
    try:
        wrong = one.run(target, step_vjp)
    except Exception:
        return "raises"
    if _shapes(wrong) != _shapes(right):
        return "misshapen"
    if all(np.array_equal(right[k], wrong[k], equal_nan=True) for k in right):
        return ""
    return "rounding" if all(_close(right[k], wrong[k]) for k in right) else "differs"


def _shapes(gradients: Gradients) -> dict[str, Any]:
    return {name: (value.shape, value.dtype) for name, value in gradients.items()}


def _close(right: Array, wrong: Array) -> bool:
    gap = _ROUNDING * np.abs(right[np.isfinite(right)]).max(initial=0.0)
    return np.allclose(wrong, right, rtol=0.0, atol=gap, equal_nan=True)


def _double(leaf: Any) -> Any:
    return np.asarray(leaf).astype(np.float64) if is_float(leaf) else leaf
