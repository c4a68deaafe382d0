"""A number with an error bar: what every oracle returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def rms(deviations: NDArray[Any]) -> NDArray[Any]:
    """The root mean square over the first axis, without overflow or underflow.

    Args:
        deviations: ``(K, ...)``.
    """
    with np.errstate(all="ignore"):
        top = np.abs(deviations).max(initial=0.0)
        scale = top if np.isfinite(top) and top > 0 else 1.0
        return scale * np.sqrt(np.mean((deviations / scale) ** 2, axis=0))


@dataclass(frozen=True)
class Estimate:
    """A value with an error bar: one standard width, not a bound.

    Args:
        value: the estimate, a float64 array of any shape (a scalar for a directional derivative).
        error: the bar, entry by entry, of the same shape and never negative; ``inf`` where the
            oracle abstains.
        evaluations: forward evaluations spent.
        note: why the bar is wide or infinite, or ``""``.
        hull: at a kink, the interval between the one-sided slopes where both could be measured:
            every subgradient of the outputs along the direction lies in it. None elsewhere.
    """

    value: NDArray[Any] | np.floating[Any] | float
    error: NDArray[Any] | np.floating[Any] | float
    evaluations: int = 0
    note: str = ""
    hull: tuple[float, float] | None = None

    @property
    def abstains(self) -> bool:
        """True if every entry has an infinite error bar."""
        return not bool(np.isfinite(self.error).any())

    def distance(self, other: Any) -> NDArray[Any]:
        """``|other - value| / error`` entry by entry; zero where the two are equal."""
        gap = np.abs(np.asarray(other, np.float64) - self.value)
        with np.errstate(all="ignore"):
            return np.where(gap == 0, 0.0, gap / self.error)
