"""The error model: when can rounding have produced a gradient, and who is believed.

For each entry, with ``g`` the hand-derived value, ``r`` JAX's and ``c_k`` its noisy copies,

    s = rms_k(c_k - r) + BLOCK_FLOOR max_block rms_k(c_k - r) + eps |r| + tiny
    ratio = |g - r| / s          allowed: LIMIT

``eps`` and ``tiny`` are the rounding unit and the smallest normal number of the checked dtype.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.calibration import BLIND, BLOCK_FLOOR, DIFFERENCE_LIMIT, LIMIT
from bpttcheck.oracles.estimate import Estimate, rms

Array = NDArray[Any]


class Vote(enum.Enum):
    """What the oracles together say about one block of one case."""

    RIGHT = "right"
    WRONG = "wrong"
    CONTRADICTION = "contradiction"
    ABSTAIN = "abstain"


@dataclass(frozen=True)
class Judged:
    """One block of one case beside its reference.

    Args:
        block: the block's name.
        ratio: largest ``|g - r| / s``; inf if the hand value is not finite and the reference is.
        entry: where.
        hand: the hand-derived value there.
        value: the reference's value there.
        width: the width ``s`` there.
        relative: largest error relative to the block's largest entry.
        resolution: smallest relative error of the whole block that the case could have seen.
        blind: the block's own noise hides it: no evidence.
        null: the reference is exactly zero: nothing but an additive error could be seen.
        usable: the reference and its copies are finite.
    """

    block: str
    ratio: float
    entry: tuple[int, ...]
    hand: float
    value: float
    width: float
    relative: float
    resolution: float
    blind: bool = False
    null: bool = False
    usable: bool = True

    @property
    def wrong(self) -> bool:
        """True if rounding does not explain the difference."""
        return self.usable and not self.blind and self.ratio > LIMIT


def rounding(dtype: Any) -> tuple[float, float]:
    """``(eps, tiny)`` of a dtype."""
    info = np.finfo(dtype)
    return float(info.eps), float(info.tiny)


def width(value: Array, copies: Array, unit: float, tiny: float) -> Array:
    """The width ``s`` of every entry of a block.

    Args:
        value: the reference ``r``.
        copies: its noisy copies, stacked in front.
        unit: rounding unit of the checked dtype.
        tiny: its smallest normal number.
    """
    with np.errstate(all="ignore"):
        spread = rms(copies - value)
        return spread + BLOCK_FLOOR * spread.max(initial=0.0) + unit * np.abs(value) + tiny


def judge(block: str, hand: Any, value: Array, copies: Array, unit: float, tiny: float) -> Judged:
    """Compare one block with its reference."""
    g, r = np.asarray(hand, np.float64), np.asarray(value, np.float64)
    if r.size == 0:
        return Judged(block, 0.0, (), 0.0, 0.0, 0.0, 0.0, np.inf, null=True)
    s = width(r, copies, unit, tiny)
    if not (np.isfinite(r).all() and np.isfinite(s).all()):
        return Judged(block, np.nan, (), np.nan, np.nan, np.nan, np.nan, np.inf, usable=False)
    with np.errstate(all="ignore"):
        error = np.abs(g - r)
        ratios = np.where(np.isfinite(error), error / s, np.inf)
        entry = tuple(int(i) for i in np.unravel_index(int(np.argmax(ratios)), r.shape))
        largest = float(np.abs(r).max())
        seen = np.min(np.where(r == 0, np.inf, s / np.abs(r)))
    return Judged(
        block,
        float(ratios[entry]),
        entry,
        float(g[entry]),
        float(r[entry]),
        float(s[entry]),
        float(error.max() / largest) if largest else float(error.max() > 0),
        float(LIMIT * seen),
        blind=bool(largest > 0 and s.max() > BLIND * largest),
        null=largest == 0,
    )


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
