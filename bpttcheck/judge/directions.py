"""Slopes along directions: what oracles measure beside the products with a gradient, and the vote.

Where a block differs from its reference, the direction is that of the difference; where nothing
differs, random ones look over the reference's shoulder.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.blocks import Block, d_state0, of_state
from bpttcheck.calibration import DIFFERENCE_LIMIT, LIMIT
from bpttcheck.errors import BpttcheckError, Declined
from bpttcheck.judge.case import GradientCase
from bpttcheck.judge.oracle import Oracle, Reference
from bpttcheck.judge.verdict import Judged, rounding
from bpttcheck.oracles.autodiff.autodiff import Spread
from bpttcheck.oracles.estimate import Estimate, rms
from bpttcheck.problems.problem import FEW, Problem

Array = NDArray[Any]

# Above this many steps the differences cost more than they tell; JAX judges alone.
LONGEST_DIFFERENCE = 40
NARROW = 1e-6
"""A relative bar narrow enough for a spot check: hand and reference agree already, to rounding."""

# Beyond the first round, witnesses look at every so many cases in which hand and JAX agree.
_LOOKED_AT = 3


class Vote(enum.Enum):
    """What the oracles together say about one block of one case."""

    RIGHT = "right"
    WRONG = "wrong"
    CONTRADICTION = "contradiction"
    ABSTAIN = "abstain"


_SILENT = Estimate(np.float64(np.nan), np.float64(np.inf))


@dataclass(frozen=True)
class Witness:
    """What oracles measure along one direction ``v``, beside the two candidates for it.

    Args:
        estimates: by oracle, its estimate of dL/ds.
        hand: ``<g, v>``.
        reference: ``<r, v>``; NaN where no oracle gave a gradient.
        noise: how far rounding alone moves such a product.
        own: what the oracle that gave ``r`` measures along the direction itself; None: not asked.
    """

    estimates: Mapping[str, Estimate]
    hand: float
    reference: float
    noise: float
    own: Estimate | None = None

    @property
    def by(self) -> str:
        """The oracle that is heard: the one whose error bar is the narrowest."""
        return min(self.estimates, key=lambda n: float(self.estimates[n].error), default="")

    @property
    def estimate(self) -> Estimate:
        """What that oracle says."""
        return self.estimates.get(self.by, _SILENT)

    @property
    def bar(self) -> float:
        """The total bar: the estimate's own and that of the products."""
        return float(self.estimate.error) + self.noise

    def covers(self, candidate: float) -> bool:
        """True if the estimate does not contradict ``candidate``."""
        if not np.isfinite(self.bar):
            return True
        return abs(float(self.estimate.value) - candidate) <= DIFFERENCE_LIMIT * self.bar

    @property
    def speaks(self) -> bool:
        """True if the bar is narrow enough to tell the candidates apart, or there is but one."""
        if not np.isfinite(self.bar):
            return False
        if not np.isfinite(self.reference):
            return True
        return not (self.covers(self.hand) and self.covers(self.reference))

    @property
    def consistent(self) -> bool:
        """True if the oracle that gave the gradient does not contradict itself."""
        if self.own is None:
            return True
        gap = abs(float(self.own.value) - self.reference)
        return gap <= LIMIT * (self.noise + float(self.own.error))


def measured(
    case: GradientCase,
    along: Mapping[str, Array],
    spreads: Mapping[str, Spread],
    enough: float = 0.0,
) -> Witness:
    """What the witnesses say along a direction.

    Args:
        case: the case.
        along: block name -> direction.
        spreads: the reference's blocks; empty if there is none.
        enough: a relative bar at which they may stop; 0: as narrow as it gets.
    """
    unit, tiny = rounding(case.problem.dtype)
    mine = theirs = magnitude = 0.0
    noise = np.zeros(1)
    with np.errstate(all="ignore"):
        for block, v in along.items():
            g = np.asarray(case.hand.gradients[block], np.float64)
            mine += float((g * v).sum())
            magnitude += float(np.abs(g * v).sum())
            if block in spreads:
                s = spreads[block]
                theirs += float((s.value * v).sum())
                axes = tuple(range(1, s.copies.ndim))
                noise = noise + ((s.copies - s.value) * v).sum(axis=axes)
    estimates: dict[str, Estimate] = {}
    for oracle in case.witnesses:
        try:
            estimates[oracle.name] = oracle.directional(case.problem, along, case.template, enough)
        except BpttcheckError:
            continue  # it does not speak here
    # Below the smallest normal number rounding is absolute.
    smallest = tiny * sum(float(np.abs(v).sum()) for v in along.values())
    total = float(rms(noise)) + 4 * unit * magnitude + smallest
    if not np.isfinite(total):
        total = 0.0
    return Witness(estimates, mine, theirs if spreads else np.nan, total)


def random_direction(case: GradientCase, blocks: Sequence[str], attempt: int) -> dict[str, Array]:
    """Random unit directions, a function of the case."""
    structure = case.problem.case
    rng = np.random.default_rng([structure.seed, abs(structure.index), 7, attempt, len(blocks)])
    out: dict[str, Array] = {}
    for block in blocks:
        v = rng.standard_normal(np.shape(case.hand.gradients[block]))
        v = np.where(_movable(case.problem, block, np.shape(v)), v, 0.0)
        out[block] = v / (np.linalg.norm(v) or 1.0)
    return out


def _movable(problem: Problem, block: str, shape: tuple[int, ...]) -> Array:
    """Where an input is finite: nobody moves a state that starts at -inf."""
    leaf = of_state(d_state0(), problem.state0).get(Block(block).in_sequence)
    return np.ones(shape, bool) if leaf is None else np.isfinite(np.asarray(leaf))


def along_the_difference(
    case: GradientCase, oracle: Oracle, reference: Reference, j: Judged
) -> Witness:
    """What witnesses, and the oracle's own slope, say along the very direction of a difference.

    Args:
        case: the case.
        oracle: the one that gave the reference.
        reference: its gradient.
        j: a block that differs from it.
    """
    gap = np.nan_to_num(
        np.asarray(case.hand.gradients[j.block], np.float64) - reference.gradients[j.block].value,
        nan=1.0, posinf=1.0, neginf=-1.0,
    )  # fmt: skip
    along = {j.block: gap / np.linalg.norm(gap / np.abs(gap).max()) / np.abs(gap).max()}
    witness = measured(case, along, reference.gradients)
    try:
        own = oracle.directional(case.problem, along, case.template)
    except Declined:
        return witness
    return replace(witness, own=own)


def vote(judged: Judged, witness: Witness | None) -> Vote:
    """Who is believed when the hand-derived block differs from the reference.

    Args:
        judged: the block beside the reference.
        witness: what oracles measure along the disagreement; None if none was asked.
    """
    if not judged.usable or judged.blind:
        return Vote.ABSTAIN
    if not judged.wrong:
        return Vote.RIGHT
    if witness is None:
        return Vote.WRONG
    if not witness.consistent:
        return Vote.CONTRADICTION
    contradicted = witness.speaks and not witness.covers(witness.reference)
    return Vote.CONTRADICTION if contradicted else Vote.WRONG


@dataclass(frozen=True)
class SpotCheck:
    """What witnesses say where hand and reference agree.

    Args:
        spoke: the oracles that said anything.
        contradictions: the blocks in which they contradict both.
    """

    spoke: frozenset[str] = frozenset()
    contradictions: Mapping[str, Witness] = field(default_factory=dict)


def spot_check(case: GradientCase, reference: Reference, judged: Sequence[Judged]) -> SpotCheck:
    """Where hand and reference agree, one direction; all blocks get their turn."""
    structure = case.problem.case
    index, first = structure.index, structure.index < FEW
    if structure.T > LONGEST_DIFFERENCE or not (first or index % _LOOKED_AT == 0):
        return SpotCheck()
    blocks = [j.block for j in judged if j.usable and not j.blind and not j.null]
    if not blocks:
        return SpotCheck()
    turn = (index if first else index // _LOOKED_AT) % (len(blocks) + 1)
    chosen = blocks if turn == len(blocks) else [blocks[turn]]
    spoke: set[str] = set()
    for attempt in range(2):
        along = random_direction(case, chosen, attempt)
        witness = measured(case, along, reference.gradients, NARROW if attempt == 0 else 0.0)
        if not np.isfinite(witness.bar):
            return SpotCheck(frozenset(spoke))
        spoke.add(witness.by)
        if witness.covers(witness.reference):
            return SpotCheck(frozenset(spoke))
    # Twice contradicted: ask along each block alone, for one of another scale may have misled both.
    alone = {block: _alone(case, block, reference) for block in chosen}
    contradictions = {block: witness for block, witness in alone.items() if witness is not None}
    return SpotCheck(frozenset(spoke), contradictions)


def _alone(case: GradientCase, block: str, reference: Reference) -> Witness | None:
    """What contradicts the reference along two directions of one block, or None."""
    found: list[Witness] = []
    for attempt in range(2, 5):
        along = random_direction(case, [block], attempt)
        witness = measured(case, along, reference.gradients)
        if np.isfinite(witness.bar) and not witness.covers(witness.reference):
            found.append(witness)
    return found[-1] if len(found) > 1 else None
