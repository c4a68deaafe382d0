"""The forward pass of a case: whether it is finite, or nearly not, and what the reference's is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck import trees
from bpttcheck.blocks import Block, of_state, state_T
from bpttcheck.errors import BpttcheckError
from bpttcheck.judge.case import GradientCase
from bpttcheck.judge.handwritten import Hand
from bpttcheck.judge.oracle import Reference
from bpttcheck.judge.own_noise import own_noise
from bpttcheck.judge.verdict import Judged, judge, rounding
from bpttcheck.problems.problem import Problem

Array = NDArray[Any]


def not_finite(hand: Hand, problem: Problem) -> str:
    """Which output of the native forward pass is first not finite, or ``""``."""
    broken = [name for name, value in hand.forward.items() if _broken(name, value, problem)]
    if not broken:
        return ""
    name = broken[0]
    where = np.argwhere(~np.isfinite(hand.forward[name]))[0]
    step = f" at t={where[0]}" if name == "ys" else ""
    return f"the forward pass is not finite (first in {name}{step})"


def _broken(name: str, value: Array, problem: Problem) -> bool:
    """True for what is not finite, unless the state started at an infinity, as a maximum does."""
    if np.isfinite(value).all():
        return False
    if Block(name).kind == "new_state" and not np.isnan(value).any():
        start = of_state(state_T(), problem.state0).get(Block(name).in_sequence)
        return start is None or not np.isinf(start).any()
    return True


def differing_outputs(case: GradientCase, reference: Reference) -> list[Judged]:
    """The outputs in which the reference's forward pass is not the native one, the worst first."""
    found = _compared(case, reference, {})
    if any(j.wrong for j in found):
        # A scan in another order, a state in logarithms: its own rounding is in the bar, too.
        found = _compared(case, reference, own_noise(case, lambda one: one.forward))
    return found


def _compared(case: GradientCase, reference: Reference, noise: Mapping[str, Array]) -> list[Judged]:
    """The outputs that differ.

    Args:
        case: the native ones.
        reference: the reference's, with its noisy copies.
        noise: how far rounding moves the native ones, copy by copy.
    """
    unit, tiny = rounding(case.problem.dtype)
    found: list[Judged] = []
    for name, spread in reference.forward.items():
        native = np.asarray(case.hand.forward[name], np.float64)
        # What is infinite on both sides, as a running maximum of nothing, is equal.
        same = np.isinf(native) & (native == spread.value)
        value = np.where(same, 0.0, spread.value)
        copies = np.where(same, 0.0, spread.copies)
        if name in noise:
            copies = np.concatenate([copies, value + np.sqrt(2) * noise[name]])
        j = judge(name, np.where(same, 0.0, native), value, copies, unit, tiny)
        if j.wrong or not j.usable:
            found.append(j)
    return sorted(found, key=lambda j: -np.nan_to_num(j.ratio, nan=np.inf))


def why_not_compared(differing: Sequence[Judged], operation: str) -> str:
    """Why a gradient of another forward pass is no reference.

    Args:
        differing: the outputs that differ, the worst first.
        operation: where the traced pass leaves the native one, or ``""``.
    """
    if operation:
        leaves = f"the traced forward pass leaves the native one at {operation}"
        return f"{leaves}; pass `reference=`"
    j = differing[0]
    if not j.usable:
        return f"the traced forward pass is not finite in {j.block} where the native one is"
    return (
        f"the traced forward pass differs from the native one in {j.block}; if it does in every "
        "case, the step changes its arguments, mixes its rows or draws random numbers, or "
        "`reference=` is needed"
    )


def nearly_overflows(case: GradientCase) -> bool:
    """True if the forward pass fails with parameters twice as large, or all arguments.

    ``p ** 62`` under a sum is still a number in float32 where its gradient overflows, and
    ``p ** 124`` is zero. A gradient that overflows where the forward pass is far from it is wrong.
    """
    problem = case.problem
    twice = replace(problem, params=_doubled(problem.params))
    both = replace(twice, xs=2 * problem.xs, state0=_doubled(problem.state0))
    for larger in (twice, both):
        try:
            forward = case.run.code.run(case.mode, larger).forward
        except BpttcheckError:
            return False
        if not all(np.isfinite(value).all() for value in forward.values()):
            return True
    return False


def _doubled(tree: Any) -> Any:
    return trees.map_leaves(lambda leaf: leaf * 2 if leaf.dtype.kind == "f" else leaf, tree)
