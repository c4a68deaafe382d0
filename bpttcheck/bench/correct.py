"""The reference gradient, and the largest error with which an implementation is still timed.

The reference is JAX autodiff in float64. A gradient whose inputs change by one rounding unit ``u``
changes by a ``spread``, so no implementation can be required to be closer. The limit of a block
``g`` is

    100 (spread + u sqrt(T) max|g|)

with the spread the largest of three draws. It only guards the benchmark: ``bpttcheck verify``
judges a backward pass.

Finite differences appear twice: as an implementation, entry by entry, and as an error over the
step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.bench.form import Blocks, PreparedRun, by_name
from bpttcheck.contract import Array, is_float
from bpttcheck.errors import ContractError, Declined, GradientMismatch
from bpttcheck.judge.run import Run
from bpttcheck.problems.problem import Problem, each_leaf, in_float64
from bpttcheck.subject.subject import Subject

_MARGIN, _DRAWS, _DIRECTIONS = 100.0, 3, 3
_BARS = 32.0  # the limit of a verdict by differences, in error bars


@dataclass(frozen=True)
class Right:
    """The reference gradient of one problem.

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
        return max((self._one(name, found[name]) for name in self._shared(found)), key=_excess)

    def error(self, found: Blocks) -> float:
        """The largest relative error of all blocks."""
        return max(self._one(name, found[name])[1] for name in self._shared(found))

    def _shared(self, found: Blocks) -> list[str]:
        """All blocks, but for gradients that the code of a function does not return."""
        return [name for name in self.gradient if name in found]

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
        ContractError: the gradient is not finite, so nothing can be compared with it.
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

    Used where JAX declines: along a few random directions, judged by the error bars of the
    differences.

    Raises:
        GradientMismatch: the two disagree.
        ContractError: differences abstain, too.
    """
    exact = in_float64(problem)
    run = Run(subject, 0, (problem.case.dtype,))
    worst, heard = 0.0, 0
    for seed in range(_DIRECTIONS):
        rng = np.random.default_rng(seed)
        along = {name: rng.standard_normal(g.shape) for name, g in gradient.items()}
        estimate = run.oracles["differences"].directional(exact, along)
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


# Seconds; a gradient that takes longer is not worth timing several times.
LONGEST = 10.0
STEPS = tuple(10.0 ** (k / 2) for k in range(-28, 1))


def every_entry(subject: Subject, problem: Problem) -> PreparedRun:
    """Central differences in every entry of parameters, inputs and initial state.

    The step is the cube root of the dtype's precision, times the entry where that is above one.

    Raises:
        Declined: it would take too long.
    """
    loss = _loss(subject, problem)
    copy = each_leaf(problem, np.array)
    moving = [copy.xs, *copy.params.values(), *filter(is_float, trees.leaves(copy.state0))]
    started = time.perf_counter()
    loss(copy)
    seconds = 2 * sum(leaf.size for leaf in moving) * (time.perf_counter() - started)
    if seconds > LONGEST:
        raise Declined(f"finite differences would take {seconds:.0f} s")
    width = float(np.cbrt(np.finfo(problem.dtype).eps))

    def slopes(leaf: Array) -> Array:
        if not is_float(leaf):
            return np.zeros(leaf.shape)
        found = np.empty(leaf.shape)
        for entry in np.ndindex(leaf.shape):
            kept = leaf[entry]
            leaf[entry] = kept + width * max(1.0, abs(float(kept)))
            up, above = float(leaf[entry]), loss(copy)
            leaf[entry] = kept - width * max(1.0, abs(float(kept)))
            found[entry] = (above - loss(copy)) / (up - float(leaf[entry]))
            leaf[entry] = kept
        return found

    def run() -> Any:
        d_params = {key: slopes(leaf) for key, leaf in copy.params.items()}
        return d_params, slopes(copy.xs), trees.map_leaves(slopes, copy.state0)

    def blocks(result: Any) -> Blocks:
        return by_name(problem, *result)

    return PreparedRun(run, blocks)


def errors_against_steps(
    subject: Subject, problem: Problem, gradient: Blocks, steps: tuple[float, ...] = STEPS
) -> list[float]:
    """The relative error of central differences along one random direction, for each step.

    Args:
        subject: what is differentiated.
        problem: the point.
        gradient: the right gradient there.
        steps: lengths, in units of the direction, whose entries are standard normal.
    """
    rng = np.random.default_rng(0)
    direction = {key: rng.standard_normal(np.shape(g)) for key, g in gradient.items()}
    slope = float(sum((gradient[key] * direction[key]).sum() for key in gradient))
    loss = _loss(subject, problem)

    def at(distance: float) -> float:
        return loss(_moved(problem, direction, distance))

    found = [(at(h) - at(-h)) / (2 * h) for h in steps]
    return [abs(one - slope) / max(abs(slope), 1e-300) for one in found]


def _moved(problem: Problem, direction: Blocks, distance: float) -> Problem:
    def move(leaf: Any, name: str) -> Any:
        by = direction.get(name)
        return leaf if by is None else (leaf + distance * by).astype(leaf.dtype)

    paths = iter(trees.structure(problem.state0).paths)
    return replace(
        problem,
        params={key: move(leaf, f"d_params[{key!r}]") for key, leaf in problem.params.items()},
        xs=move(problem.xs, "d_xs"),
        state0=trees.map_leaves(lambda leaf: move(leaf, f"d_state0{next(paths)}"), problem.state0),
    )


def _loss(subject: Subject, problem: Problem) -> Callable[[Problem], float]:
    """The loss that all implementations differentiate; its terms are summed in float64."""
    layer = subject.layer
    d_ys = problem.d_ys.astype(np.float64)
    d_state = trees.leaves(trees.map_leaves(lambda _, d: d, problem.state0, problem.d_state))
    floats = [is_float(leaf) for leaf in trees.leaves(problem.state0)]

    def loss(at: Problem) -> float:
        ys, state, _ = layer.forward(at.params, at.xs, at.state0)
        ends = trees.leaves(trees.map_leaves(lambda _, leaf: leaf, at.state0, state))
        total = float((d_ys * ys).sum())
        for end, d, moving in zip(ends, d_state, floats, strict=True):
            total += float((np.asarray(d, np.float64) * end).sum()) if moving else 0.0
        return total

    return loss
