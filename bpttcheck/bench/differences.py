"""Finite differences: the whole gradient entry by entry, and their error against the step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.bench.form import Blocks, Ready, by_name
from bpttcheck.contract import Array, is_float
from bpttcheck.errors import Declined
from bpttcheck.problems.problem import Problem, each_leaf
from bpttcheck.subject.subject import Subject

# Seconds; a gradient that takes longer is not worth timing several times.
LONGEST = 10.0
STEPS = tuple(10.0 ** (k / 2) for k in range(-28, 1))


def every_entry(subject: Subject, problem: Problem) -> Ready:
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

    return Ready(run, blocks)


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
    """The loss whose gradient everybody computes; the terms are added up in float64."""
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
