"""The error model: when can rounding have produced a gradient.

For each entry, with ``g`` the hand-derived value, ``r`` JAX's and ``c_k`` its noisy copies,

    s = rms_k(c_k - r) + BLOCK_FLOOR max_block rms_k(c_k - r) + eps |r| + tiny
    ratio = |g - r| / s          allowed: LIMIT

``eps`` and ``tiny`` are the rounding unit and the smallest normal number of the checked dtype.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.calibration import BLIND, BLOCK_FLOOR, LIMIT
from bpttcheck.oracles.estimate import rms

Array = NDArray[Any]

_DRAWN = 2**14


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
        sides: of a block that is wrong and not large, the hand-derived gradient, the reference and
            the widths, to be drawn.
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
    sides: tuple[Array, Array, Array] | None = field(default=None, repr=False, compare=False)

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
        sides=(g, r, s) if ratios[entry] > LIMIT and g.size <= _DRAWN else None,
    )
