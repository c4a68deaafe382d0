"""A number and how wrong it may be: what every oracle returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Estimate:
    """A value with an error bar: one standard width, not a bound.

    Args:
        value: the estimate, a float64 array of any shape (a scalar for a directional derivative).
        error: the bar, entry by entry, of the same shape and never negative; ``inf`` where the
            oracle abstains.
        evaluations: forward evaluations spent.
        note: why the bar is wide or infinite, or ``""``.
    """

    value: NDArray[Any] | np.floating[Any] | float
    error: NDArray[Any] | np.floating[Any] | float
    evaluations: int = 0
    note: str = ""

    @property
    def abstains(self) -> bool:
        """True if no entry of the estimate means anything."""
        return not bool(np.isfinite(self.error).any())

    def distance(self, other: Any) -> NDArray[Any]:
        """``|other - value| / error`` entry by entry; zero where the two are equal."""
        gap = np.abs(np.asarray(other, np.float64) - self.value)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(gap == 0, 0.0, gap / self.error)
