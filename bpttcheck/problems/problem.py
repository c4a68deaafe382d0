"""Problems: the regimes and masks that there are, and one sequence with its numbers.

A problem is a *structure* (:class:`bpttcheck.results.records.Case`) filled with values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck import trees
from bpttcheck.contract import is_float
from bpttcheck.results.records import Case

Array = NDArray[Any]

REGIMES = {
    "ordinary": "parameters, inputs, states and cotangents of natural size",
    "saturated": "parameters times 30: most units sit where their derivative is nearly zero",
    "near_kinks": "values a few rounding errors away from a coarse grid",
    "at_kinks": "values on a coarse grid: many pre-activations lie exactly on 0, 1 or 3",
    "vanishing": "parameters times 1e-3: gradients shrink at every step",
    "exploding": "parameters times 3: gradients may grow at every step",
    "long": "35, 70 or 300 steps: beyond any plausible truncation",
    "large_cotangents": "cotangents of 1e2 to 1e6: beyond any clip that was left on",
    "tiny_gradients": "cotangents of 1e-6 to 1e-25",
    "own_initial_state": "the initial state is exactly the cell's own",
    "zeros": "zero initial state, zero first input, zero biases, one cotangent at the last step",
    "sparse_inputs": "exact zeros among the inputs (entries, rows, half a sequence), equal rows",
    "tokens": "one-hot inputs, or integers up to 50",
    "large_inputs": "inputs up to some 30, beyond the thresholds in the code's own source",
    "small_inputs": "inputs of 1e-4 to 3e-2",
    "one_sign": "cotangents all negative, or all positive",
    "silent_outputs": "outputs, steps or whole rows that take no part in the loss",
    "biased_gates": "entries of 7 to 10 among the biases: some gates of a unit saturated together",
    "overflowing": "parameters times 1000: exponentials overflow",
}

GIVEN, NEAR_GIVEN = "given", "near_given"
REGIMES_OF_FUNCTIONS = {
    GIVEN: "the arguments that were handed in, args= or at=, as they are",
    NEAR_GIVEN: "values within 5 % of those that were handed in, the only ones that the code takes",
}

# Cases that share two compiled shapes: a short run then compiles three programs and not five.
FEW = 20
MASKS = ("none", "lengths", "holes", "empty_rows")


@dataclass(frozen=True)
class Template:
    """One compiled shape: exact widths, and room for T and B."""

    n_in: int
    n_hidden: int
    T: int
    B: int
    exact: bool = False


@dataclass(frozen=True)
class Problem:
    """One sequence with its cotangents, ready to be run.

    Arrays are time-major; ``mask`` is None if every step is real. ``original`` is True as long as
    the numbers are a function of ``case`` alone: who builds it sets it, and a copy lacks it.
    """

    case: Case
    params: Any
    xs: Array
    state0: Any
    mask: Array | None
    d_ys: Array
    d_state: Any
    original: bool = field(default=False, init=False, compare=False)

    @property
    def dtype(self) -> Any:
        """The checked dtype."""
        return np.dtype(self.case.dtype)

    @property
    def real(self) -> Array:
        """The mask, all true if there is none."""
        shape = self.xs.shape[:2]
        return np.ones(shape, bool) if self.mask is None else self.mask


def nearest(size: int, allowed: Sequence[int] | None) -> int:
    """``size``, or the smallest allowed one above it, or the largest of all."""
    if allowed is None or size in allowed:
        return size
    above = [one for one in allowed if one > size]
    return min(above) if above else max(allowed)


def in_float64(problem: Problem) -> Problem:
    """The same problem, its float32 values as float64."""
    return each_leaf(problem, lambda leaf: np.asarray(leaf, np.float64) if is_float(leaf) else leaf)


def simplified(problem: Problem, decimals: int) -> Problem:
    """The same problem with its values rounded, for reading."""

    def short(leaf: Any) -> Any:
        return np.round(leaf, decimals) if is_float(leaf) else leaf

    return each_leaf(problem, short)


def each_leaf(problem: Problem, change: Callable[[Any], Any]) -> Problem:
    """The problem with every array but the mask changed."""
    return replace(
        problem,
        params=trees.map_leaves(change, problem.params),
        xs=change(problem.xs),
        state0=trees.map_leaves(change, problem.state0),
        d_ys=change(problem.d_ys),
        d_state=trees.map_leaves(change, problem.d_state),
    )
