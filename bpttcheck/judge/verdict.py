"""The error model: when can rounding have produced a gradient, and who is believed.

For each entry, with ``g`` the hand-derived value, ``r`` JAX's and ``c_k`` its noisy copies,

    s = rms_k(c_k - r) + BLOCK_FLOOR max_block rms_k(c_k - r) + eps |r| + tiny
    ratio = |g - r| / s          allowed: LIMIT

``eps`` and ``tiny`` are the rounding unit and the smallest normal number of the checked dtype.
"""

from __future__ import annotations

import enum
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


@dataclass(frozen=True)
class Witness:
    """A finite difference along one direction beside the two candidates for it.

    Args:
        difference: the estimate of dL/ds.
        hand: ``<g, v>``.
        jax: ``<r, v>``; NaN where JAX is silent.
        noise: how far rounding alone moves such a product.
        forward_mode: JAX's forward mode along the direction if it contradicts ``jax``, else None.
    """

    difference: Estimate
    hand: float
    jax: float
    noise: float
    forward_mode: float | None = None

    @property
    def bar(self) -> float:
        """The total bar: the difference's own and that of the products."""
        return float(self.difference.error) + self.noise

    def covers(self, candidate: float) -> bool:
        """True if the difference does not contradict ``candidate``."""
        if not np.isfinite(self.bar):
            return True
        return abs(float(self.difference.value) - candidate) <= DIFFERENCE_LIMIT * self.bar

    @property
    def speaks(self) -> bool:
        """True if the bar is narrow enough to tell the candidates apart, or JAX is silent."""
        if not np.isfinite(self.bar):
            return False
        return not np.isfinite(self.jax) or not (self.covers(self.hand) and self.covers(self.jax))


def vote(judged: Judged, witness: Witness | None, jax_is_consistent: bool) -> Vote:
    """Who is believed when the hand-derived block differs from JAX's.

    Args:
        judged: the block beside JAX.
        witness: differences along the disagreement; None if there are none.
        jax_is_consistent: JAX's forward mode agrees with its reverse mode.
    """
    if not judged.usable or judged.blind:
        return Vote.ABSTAIN
    if not judged.wrong:
        return Vote.RIGHT
    if not jax_is_consistent:
        return Vote.CONTRADICTION
    if witness is None or not witness.speaks or witness.covers(witness.jax):
        return Vote.WRONG
    return Vote.CONTRADICTION
