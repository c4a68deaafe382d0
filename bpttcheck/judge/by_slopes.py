"""A case without a reference: every block is judged by slopes along directions alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.calibration import DIFFERENCE_LIMIT, LIMIT
from bpttcheck.judge.case import GradientCase
from bpttcheck.judge.directions import (
    LONGEST_DIFFERENCE,
    NARROW,
    Vote,
    Witness,
    measured,
    random_direction,
)
from bpttcheck.judge.outcome import CaseOutcome
from bpttcheck.judge.own_noise import own_noise, own_rounding
from bpttcheck.judge.verdict import Judged
from bpttcheck.oracles.estimate import rms
from bpttcheck.problems.large import FIRST

Array = NDArray[Any]

# Directions through all blocks at a new size, of which the witnesses may abstain from one.
_AT_ONCE = 3
# Directions of one block, all of which must contradict the code before it is wrong.
_ATTEMPTS = 3


def judged_by_slopes(case: GradientCase, declined: Mapping[str, str]) -> CaseOutcome:
    """Every block in turn along directions, believed if several agree.

    Args:
        case: the case.
        declined: by oracle, why its gradient is not there; empty: none was asked.
    """
    outcome = CaseOutcome(case.problem, case.hand, declined=declined)
    structure = case.problem.case
    larger = structure.index >= FIRST
    if structure.T > LONGEST_DIFFERENCE and not larger:
        too_long = "JAX declined, and the sequence is too long for differences"
        return replace(outcome, skipped=too_long)
    # Where JAX was not asked the sizes are new: what begins at a size is no rounding error.
    if not declined or larger:
        at_once = _right_at_once(case, outcome)
        if at_once is not None:
            return at_once
    rounding_error = own_rounding(case)
    noise: dict[str, Array] | None = None  # asked for before a conviction: it costs a lot
    judged: list[Judged] = []
    votes: dict[str, Vote] = {}
    found: dict[str, Witness] = {}
    for block in case.hand.gradients:
        contradicted = 0
        for attempt in range(_ATTEMPTS):
            along = random_direction(case, [block], attempt)
            witness = _with_rounding(measured(case, along, {}), along, block, rounding_error)
            if _contradicts(witness):
                noise = own_noise(case) if noise is None else noise
                witness = _with_noise(witness, along, block, noise)
            found[block] = witness
            if not _contradicts(witness):
                break
            contradicted += 1
        judged.append(_judged(block, found[block]))
        if contradicted == _ATTEMPTS:
            votes[block] = Vote.WRONG
    spoke = frozenset(witness.by for witness in found.values() if np.isfinite(witness.bar))
    return replace(outcome, judged=judged, votes=votes, witnesses=found, spoke=spoke)


def _contradicts(witness: Witness) -> bool:
    return bool(np.isfinite(witness.bar)) and not witness.covers(witness.hand)


def _with_rounding(
    witness: Witness, along: Mapping[str, Array], block: str, error: Mapping[str, Array]
) -> Witness:
    """The witness with a bar that holds at kinks, and with what rounding does to the product."""
    if witness.estimate.hull is not None:
        witness = _at_a_kink(witness, witness.estimate.hull)
    if block not in error:
        return witness
    more = abs(float((error[block] * along[block]).sum()))
    return replace(witness, noise=witness.noise + more)


def _with_noise(
    witness: Witness, along: Mapping[str, Array], block: str, noise: Mapping[str, Array]
) -> Witness:
    if block not in noise:
        return witness
    moved = (noise[block] * along[block]).reshape(len(noise[block]), -1).sum(axis=1)
    return replace(witness, noise=witness.noise + float(rms(moved)))


def _right_at_once(case: GradientCase, outcome: CaseOutcome) -> CaseOutcome | None:
    """At a new size: one direction through all blocks, each moved in proportion to its gradient.

    A spot check's bar will do.

    Returns:
        The outcome; None where it contradicts, and every block is asked for itself.
    """
    gradients = case.hand.gradients
    sizes = {b: float(np.linalg.norm(np.asarray(g, np.float64))) for b, g in gradients.items()}
    largest = max(sizes.values(), default=0.0)
    if not (np.isfinite(largest) and largest > 0):
        return None
    for attempt in range(_AT_ONCE):
        along = random_direction(case, list(gradients), attempt)
        along = {b: v / max(sizes[b], 1e-3 * largest) for b, v in along.items()}
        witness = measured(case, along, {}, NARROW)
        if np.isfinite(witness.bar):
            break
    else:
        if case.problem.case.index < FIRST:
            return None
        # So wide that every block for itself would cost more than all else.
        return replace(outcome, skipped="the differences abstain at this size")
    size = abs(float(witness.estimate.value))
    if not (witness.bar <= 1e-4 * size and witness.covers(witness.hand)):
        return None
    judged = [
        replace(_judged(block, witness), null=not np.any(gradient))
        for block, gradient in gradients.items()
    ]
    return replace(outcome, judged=judged, spoke=frozenset({witness.by}))


def _at_a_kink(witness: Witness, hull: tuple[float, float]) -> Witness:
    """Anything between the one-sided slopes is right at a kink."""
    low, high = sorted(hull)
    middle, half = (low + high) / 2, (high - low) / 2
    wide = replace(witness.estimate, value=middle, error=half / DIFFERENCE_LIMIT)
    return replace(witness, estimates={witness.by: wide})


def _judged(block: str, witness: Witness) -> Judged:
    """A witness in the terms of a block: ratios are scaled to the limit of the other oracle."""
    value, bar = float(witness.estimate.value), witness.bar
    if not np.isfinite(bar):
        return Judged(block, np.nan, (), witness.hand, value, bar, np.nan, np.inf, usable=False)
    gap = abs(value - witness.hand)
    ratio = np.inf if gap else 0.0
    if bar and np.isfinite(gap):
        ratio = gap / bar * LIMIT / DIFFERENCE_LIMIT
    size = abs(value)
    resolution = DIFFERENCE_LIMIT * bar / size if size else np.inf
    null = value == 0 and witness.hand == 0
    return Judged(
        block, ratio, (), witness.hand, value, bar, gap / size if size else gap, resolution,
        blind=bool(size > 0 and bar > 0.1 * size) and not null, null=null,
    )  # fmt: skip
