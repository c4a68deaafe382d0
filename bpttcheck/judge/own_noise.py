"""The rounding noise of the hand-written code itself: how far its own operations move its numbers.

Code that rebuilds its states, or subtracts numbers that are nearly equal, may be right and lose
digits that a reference's way to the same numbers keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.calibration import LAW_COPIES
from bpttcheck.errors import BpttcheckError
from bpttcheck.judge.case import GradientCase
from bpttcheck.judge.handwritten import SEQUENCE, Hand, HandWritten
from bpttcheck.judge.oracle import Reference
from bpttcheck.judge.verdict import Judged, judge, rounding
from bpttcheck.problems.noisy_array import copies as noisy_copies
from bpttcheck.problems.noisy_array import deviations
from bpttcheck.problems.problem import Problem, in_float64

Array = NDArray[Any]
_COPIES = 6  # for the comparison of two forms of the same code


def own_noise(
    case: GradientCase, part: Callable[[Hand], Mapping[str, Array]] = lambda one: one.gradients
) -> dict[str, Array]:
    """How far noise in every operation of the code itself moves its numbers, copy by copy.

    And how far they move from call to call. From the mean of the copies, not from the number that
    is judged: where that one took a branch which no copy takes, it is wrong and not noisy.

    Args:
        case: the case.
        part: which numbers; the gradients unless told otherwise.
    """

    def numbers(problem: Any) -> dict[str, Array]:
        return dict(part(case.run.code.run(case.mode, problem)))

    structure = case.problem.case
    seeds = (structure.seed, abs(structure.index), 31)
    found = noisy_copies(numbers, case.problem, seeds, LAW_COPIES)
    # Sums whose order changes from call to call: their spread is noise, too.
    again = [numbers(case.problem) for _ in range(LAW_COPIES)]
    groups = [group for group in (found, again) if group]
    return {
        block: np.nan_to_num(np.concatenate([deviations(group, block) for group in groups]))
        for block in part(case.hand)
    }


def own_rounding(case: GradientCase) -> dict[str, Array]:
    """How far the float32 gradient is from the same code in float64.

    Without a reference there is no noise to tell what rounding does to ``1 - tanh^2`` in a
    saturated cell. A block that is lost in it becomes blind, not right.
    """
    if case.problem.dtype == np.float64:
        return {}
    try:
        double = case.run.code.run(case.mode, in_float64(case.problem))
    except BpttcheckError:
        return {}  # code for float32 alone
    with np.errstate(all="ignore"):  # inf - inf
        return {
            block: np.nan_to_num(np.asarray(g, np.float64) - np.asarray(case.hand.gradients[block]))
            for block, g in double.gradients.items()
        }


def within_own_noise(
    case: GradientCase, reference: Reference, judged: Sequence[Judged], known: frozenset[str]
) -> list[Judged]:
    """The wrong blocks once more, with the noise of the hand-written code in their error bars.

    Args:
        case: the case.
        reference: what it is compared with.
        judged: all blocks, beside the reference alone.
        known: blocks that are not asked about.
    """
    noise = own_noise(case)
    unit, tiny = rounding(case.problem.dtype)
    found: list[Judged] = []
    for j in judged:
        if j.wrong and np.isfinite(j.hand) and j.block in noise and j.block not in known:
            spread = reference.gradients[j.block]
            # Each of the two noises counts whole: the rms over all copies would halve them.
            copies = np.concatenate([spread.copies, spread.value + np.sqrt(2) * noise[j.block]])
            value = case.hand.gradients[j.block]
            again = judge(j.block, value, spread.value, copies, unit, tiny)
            j = again if again.usable else j
        found.append(j)
    return found


def unlike(code: HandWritten, problem: Problem, found: Mapping[str, Array]) -> str:
    """The first block in which another form of the code differs by more than the code's rounding.

    Args:
        code: the hand-written code.
        problem: the point.
        found: the gradients and the results of the other form there, by block.

    Returns:
        The name of the block, or an empty text.
    """

    def numbers(problem: Problem) -> dict[str, Array]:
        hand = code.run(SEQUENCE, problem)
        return {**hand.gradients, **hand.forward}

    value = numbers(problem)
    noisy = noisy_copies(numbers, problem, (1, 2), _COPIES)
    if noisy is None:
        return "what runs on no subclass of ndarray"
    unit, tiny = rounding(problem.dtype)
    for block, expected in value.items():
        stack = np.stack([np.asarray(copy[block], np.float64) for copy in noisy])
        if judge(block, found[block], np.asarray(expected), stack, unit, tiny).wrong:
            return block
    return ""
