"""Ridders' extrapolation of central differences to step zero, with a bar.

A central difference is ``D(h) = L' + a₂h² + a₄h⁴ + ...``. The last ``j + 1`` rows determine a
polynomial in ``h²``, whose value at zero is ``T_j = Σ c_k D(h_k)``. The bar of ``T_j`` is the
larger of its disagreement with the two estimates of one order less and the rounding that reaches
it, ``sqrt(Σ (c_k·blur_k)²)``. Without this floor the least disagreement among many noisy
numbers would be taken for accuracy. Two orders that agree by luck are told by the next one.

Source: Ridders, C. J. F. (1982), Advances in Engineering Software 4(2), 75-76.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_WIDTHS = 4.0  # of rounding that a difference of two estimates may be


@dataclass(frozen=True)
class Extrapolated:
    """An estimate and the two parts of its bar."""

    value: float
    disagreement: float
    rounding: float

    @property
    def bar(self) -> float:
        """The larger part."""
        return max(self.disagreement, self.rounding)


class Tableau:
    """Central differences row by row, each extrapolated with all before it.

    ``T[i, j] = T[i, j-1] + (T[i, j-1] - T[i-1, j-1]) / ((h[i-j] / h[i])² - 1)``, and the same for
    the coefficients ``c`` of the rows in it.
    """

    def __init__(self) -> None:
        self._steps: list[float] = []
        self._blurs: list[float] = []
        self._values: list[float] = []
        self._coefficients: list[Vector] = []

    def add(self, step: float, value: float, blur: float) -> Extrapolated:
        """The best estimate at step zero among those that use the new row.

        Args:
            step: shorter than all before it.
            value: the central difference at ``step``.
            blur: the standard width of the rounding in ``value``.
        """
        self._steps.append(step)
        self._blurs.append(blur)
        rows = len(self._steps)
        values, coefficients = [value], [np.eye(1, rows, rows - 1)[0]]
        best, orders = Extrapolated(value, math.inf, math.inf), list[Extrapolated]()
        for order in range(1, rows):
            share = 1 / ((self._steps[-1 - order] / step) ** 2 - 1)
            lower, older = values[-1], self._values[order - 1]
            c, c_older = coefficients[-1], self._coefficients[order - 1]
            values.append(lower + share * (lower - older))
            coefficients.append(c + share * (c - np.append(c_older, 0.0)))
            found = Extrapolated(
                values[-1],
                max(abs(values[-1] - lower), abs(values[-1] - older)),
                math.hypot(*(coefficients[-1] * self._blurs)),
            )
            orders.append(found)
            if found.bar <= best.bar:
                best = found
        self._values, self._coefficients = values, coefficients
        return _not_lucky(best, orders)


def _not_lucky(best: Extrapolated, orders: list[Extrapolated]) -> Extrapolated:
    """``best`` with a bar that reaches the estimate of the next order, but for its rounding.

    Two estimates that happen to agree, and are wrong both, are told by the next one.
    """
    following = next((f for b, f in pairwise(orders) if b is best), None)
    if following is None:
        return best
    gap = abs(following.value - best.value)
    if gap <= _WIDTHS * following.rounding:
        return best
    return replace(best, disagreement=max(best.disagreement, gap))
