"""How far the loss curves of right gradients are apart: the band that rounding alone makes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Envelope:
    """The band ``[low, high]`` around the loss curves of several runs.

    At the step ``t``, with the largest and the smallest loss of the runs, and a loss that is the
    mean of ``N`` terms::

        s[t]    = largest[t] - smallest[t]                                (1)
        w[t]    = max of s over the steps up to t                         (2a)
                + sqrt(N) ulps of largest[t]                              (2b)
        low[t]  = smallest[t] - w[t]                                      (3)
        high[t] = largest[t] + w[t]                                       (4)

    Why not the range ``s`` alone: of ``n + 1`` curves that nothing tells apart, one is outside of
    the range of the others with probability ``2 / (n + 1)``, at every step.

    Why (2b): the runs share one program, and with it the order in which the terms are added.
    Another program adds them in another order. The rounding errors of a sum are like a random walk
    (Higham and Mary, 2019, "A new approach to probabilistic rounding error analysis"): ``sqrt(N)``
    halves of an ulp for either program.

    Args:
        losses: ``(steps, runs)``.
        terms: ``N``.
    """

    losses: np.ndarray
    terms: int

    @property
    def smallest(self) -> np.ndarray:
        """The smallest loss of the runs, ``(steps,)``."""
        return self.losses.min(axis=1)

    @property
    def largest(self) -> np.ndarray:
        """The largest loss of the runs, ``(steps,)``."""
        return self.losses.max(axis=1)

    @property
    def width(self) -> np.ndarray:
        """``w``, by how much the band is wider than the range on either side, ``(steps,)``."""
        apart = np.maximum.accumulate(self.largest - self.smallest)  # (1), (2a)
        return apart + np.sqrt(self.terms) * np.spacing(self.largest)  # (2b)

    def within_range(self, curve: np.ndarray) -> float:
        """The share of steps at which the curve is within the range of the runs."""
        return float(np.mean((self.smallest <= curve) & (curve <= self.largest)))

    def reach(self, curve: np.ndarray) -> np.ndarray:
        """How far the curve is outside of the range, in ``w``: above 1 it is outside the band."""
        outside = np.maximum(self.smallest - curve, curve - self.largest)
        return np.maximum(outside, 0.0) / self.width

    def leaves(self, curve: np.ndarray) -> int | None:
        """The first step at which the curve is outside of the band, or None; NaN is outside."""
        outside = np.flatnonzero(~(self.reach(curve) <= 1.0))  # (3), (4)
        return int(outside[0]) if len(outside) else None

    def of_the_others(self) -> list[tuple[Envelope, np.ndarray]]:
        """For each run the envelope of the others, and its own curve: runs known to be right."""
        return [
            (Envelope(np.delete(self.losses, run, axis=1), self.terms), self.losses[:, run])
            for run in range(self.losses.shape[1])
        ]
