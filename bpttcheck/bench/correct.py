"""The right gradient, and how far from it a form may be before it is refused.

Right is what JAX autodiff finds in float64. A gradient whose inputs change by one rounding unit
``u`` changes by a ``spread``; nobody can be held to less. The limit of a block ``g`` is

    100 (spread + u sqrt(T) max|g|)

with the spread the largest of three draws. It guards the benchmark, no more: ``bpttcheck verify``
is what judges a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.bench.form import Blocks
from bpttcheck.contract import is_float
from bpttcheck.errors import ContractError, GradientMismatch
from bpttcheck.judge.run import Run
from bpttcheck.problems.problem import Problem, each_leaf, in_float64
from bpttcheck.subject.subject import Subject

_MARGIN, _DRAWS, _DIRECTIONS = 100.0, 3, 3
_BARS = 32.0  # the limit of a verdict by differences, in error bars


@dataclass(frozen=True)
class Right:
    """The right gradient of one problem.

    Args:
        gradient: block by block, float64.
        limits: the largest error allowed in each block.
    """

    gradient: Blocks
    limits: dict[str, float]

    def worst(self, found: Blocks) -> tuple[str, float, float]:
        """``(block, error, limit)`` of the block nearest to its limit or furthest beyond.

        Error and limit are relative to the largest entry of the block.
        """
        return max((self._one(name, found[name]) for name in self.gradient), key=_excess)

    def error(self, found: Blocks) -> float:
        """The largest relative error of all blocks."""
        return max(self._one(name, found[name])[1] for name in self.gradient)

    def _one(self, name: str, given: Any) -> tuple[str, float, float]:
        right = self.gradient[name]
        if np.shape(given) != right.shape:
            raise ContractError(
                f"{name}.shape={np.shape(given)}, but should be {right.shape}", item=name
            )
        top = float(np.abs(right).max(initial=0.0)) or 1.0
        gap = np.abs(np.asarray(given, np.float64) - right).max(initial=0.0)
        error = float(gap) if np.isfinite(gap) else float("inf")
        return name, error / top, self.limits[name] / top


def right(at: Callable[[Problem], Blocks], problem: Problem) -> Right:
    """The gradient by ``at`` in float64, with its limits.

    Args:
        at: computes the gradient of a problem of these sizes.
        problem: the point.

    Raises:
        ContractError: the gradient is not finite, so that nothing could be compared with it.
    """
    exact, unit = in_float64(problem), float(np.finfo(problem.dtype).eps) / 2
    gradient = {name: np.asarray(g, np.float64) for name, g in at(exact).items()}
    bad = [name for name, g in gradient.items() if not np.isfinite(g).all()]
    if bad:
        raise ContractError(f"{bad[0]} is not finite at {problem.case}: nothing was timed")
    copies = [at(_rounded(exact, unit, seed)) for seed in range(_DRAWS)]
    limits = {name: _limit(g, [copy[name] for copy in copies], unit, len(problem.xs))
              for name, g in gradient.items()}  # fmt: skip
    return Right(gradient, limits)


def by_differences(subject: Subject, problem: Problem, gradient: Blocks) -> float:
    """The largest disagreement of a float64 gradient with differences, relative to their value.

    For what JAX declines: along a few random directions, judged by the error bars of the
    differences.

    Raises:
        GradientMismatch: the two disagree.
        ContractError: differences cannot judge either.
    """
    exact = in_float64(problem)
    run = Run(subject, 0, (problem.case.dtype,))
    worst, heard = 0.0, 0
    for seed in range(_DIRECTIONS):
        rng = np.random.default_rng(seed)
        along = {name: rng.standard_normal(g.shape) for name, g in gradient.items()}
        estimate = run.difference(exact, along)
        if estimate.abstains:
            continue
        heard += 1
        slope = float(sum((gradient[name] * along[name]).sum() for name in gradient))
        gap = abs(slope - float(estimate.value))
        if gap > _BARS * float(estimate.error):
            raise GradientMismatch(
                f"{subject.name}: the gradient is off by {gap:.2g} along a random direction, where"
                f" differences are sure to {float(estimate.error):.1g} [{problem.case}]: nothing"
                " was timed; `bpttcheck verify` says where and why"
            )
        worst = max(worst, gap / max(abs(slope), 1e-300))
    if not heard:
        raise ContractError(f"neither JAX nor differences can judge {subject.name}: nothing timed")
    return worst


def _rounded(problem: Problem, unit: float, seed: int) -> Problem:
    """Every input moved by up to one rounding unit."""
    rng = np.random.default_rng(seed)

    def move(leaf: Any) -> Any:
        return leaf * (1 + unit * rng.uniform(-1, 1, leaf.shape)) if is_float(leaf) else leaf

    return each_leaf(problem, move)


def _limit(gradient: Any, copies: list[Any], unit: float, T: int) -> float:
    spread = max(float(np.abs(copy - gradient).max(initial=0.0)) for copy in copies)
    return _MARGIN * (spread + unit * T**0.5 * float(np.abs(gradient).max(initial=0.0)))


def _excess(found: tuple[str, float, float]) -> float:
    _, error, limit = found
    return error / limit if limit else float(error > 0)
