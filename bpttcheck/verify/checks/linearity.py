"""The backward pass is linear in its cotangent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import is_float
from bpttcheck.judge.run import Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Diagnosis
from bpttcheck.verify.checks.base import Check, Context
from bpttcheck.verify.law import Law, gradients, run_law, run_law_on


def linearity(context: Context) -> Tally:
    """Compares the gradient of a combined cotangent with the combined gradients.

    ``vjp(a c1 + b c2) = a vjp(c1) + b vjp(c2)`` for cotangents of very different size. Finds a clip
    that was left on, a threshold on the gradient, an output cotangent that is ignored or squared.
    """
    return run_law(context, LAW)


def on_problem(run: Run, problem: Problem) -> Tally:
    """The law on one given problem."""
    return run_law_on(run, LAW, problem)


def _factors(problem: Problem) -> tuple[float, float]:
    rng = np.random.default_rng([problem.case.seed, abs(problem.case.index), 13])
    a, b = rng.uniform(0.5, 2.0, 2) * rng.choice([-1.0, 1.0], 2)
    # In powers of two, so that neither factor rounds.
    return float(2.0 ** np.round(4 * a)), float(-(2.0 ** np.round(2 * b)))


def _second(problem: Problem) -> Problem:
    """The problem with its cotangents in another order: independent, and of the same size."""

    def turned(leaf: Any) -> Any:
        flat = np.asarray(leaf).reshape(-1)
        return np.roll(flat[::-1], 1).reshape(np.shape(leaf))

    return replace(
        problem,
        d_ys=turned(problem.d_ys),
        d_state=trees.map_leaves(turned, problem.d_state),
    )


def _combined_gradients(run: Run, problem: Problem) -> dict[str, Any]:
    a, b = _factors(problem)
    first, second = gradients(run, problem), gradients(run, _second(problem))
    with np.errstate(all="ignore"):  # inf - inf: the user's gradient is judged, not our sum of two
        return {
            block: a * np.asarray(one, np.float64) + b * np.asarray(second[block], np.float64)
            for block, one in first.items()
        }


def _combination(problem: Problem) -> Problem:
    a, b = _factors(problem)
    other = _second(problem)

    def mix(one: Any, two: Any) -> Any:
        if not is_float(one):
            return one
        return (a * np.asarray(one) + b * np.asarray(two)).astype(np.asarray(one).dtype)

    return replace(
        problem,
        d_ys=mix(problem.d_ys, other.d_ys),
        d_state=trees.map_leaves(mix, problem.d_state, other.d_state),
    )


def _gradient_of_combination(run: Run, problem: Problem) -> dict[str, Any]:
    return gradients(run, _combination(problem))


LAW = Law(
    "linearity",
    expected=_combined_gradients,
    actual=_gradient_of_combination,
    message="{block} is not linear in the cotangent: clipped, or no vector-Jacobian product",
    parts=lambda _, problem: [problem, _second(problem), _combination(problem)],
    place=lambda problem, block, entry: (_combination(problem), block, entry),
)


CHECK = Check(
    "linearity",
    linearity,
    on_problem,
    law=LAW,
    says=lambda finding: Diagnosis(
        "nonlinear", "the gradient is not linear in the cotangent", {"law": finding.check}
    ),
)
