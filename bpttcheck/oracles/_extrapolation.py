"""Ridders' extrapolation of central differences to step zero, with a bar.

A central difference is ``D(h) = L' + a₂h² + a₄h⁴ + ...``. The last ``j + 1`` rows determine a
polynomial in ``h²``, whose value at zero is ``T_j = Σ c_k D(h_k)``. The bar of ``T_j`` is the
larger of its disagreement with the two estimates of one order less and the rounding that reaches
it, ``sqrt(Σ (c_k·blur_k)²)``. Without this floor the least disagreement among many noisy
numbers would be taken for accuracy.

Source: Ridders, C. J. F. (1982), Advances in Engineering Software 4(2), 75-76.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


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


def weights_at_zero(nodes: Vector) -> Vector:
    """The ``c`` with ``Σ c_k p(nodes_k) = p(0)`` for each polynomial of degree below ``len(c)``."""
    itself = np.eye(len(nodes), dtype=bool)
    gaps = np.where(itself, 1.0, nodes[None, :] - nodes[:, None])
    return np.prod(np.where(itself, 1.0, nodes[None, :] / gaps), axis=1)


def extrapolate(
    steps: Sequence[float], values: Sequence[float], blurs: Sequence[float]
) -> Extrapolated:
    """The best estimate of ``values`` at step zero that uses the last row.

    Args:
        steps: falling, at least two.
        values: the central differences at ``steps``.
        blurs: the standard width of the rounding in each of ``values``.
    """
    h, d, b = np.asarray(steps), np.asarray(values), np.asarray(blurs)
    best = Extrapolated(float(d[-1]), math.inf, math.inf)
    for order in range(1, len(h)):
        first = len(h) - order - 1
        c = weights_at_zero(h[first:] ** 2)
        value = float(c @ d[first:])
        lower = float(weights_at_zero(h[first + 1 :] ** 2) @ d[first + 1 :])
        older = float(weights_at_zero(h[first:-1] ** 2) @ d[first:-1])
        disagreement = max(abs(value - lower), abs(value - older))
        found = Extrapolated(value, disagreement, math.hypot(*(c * b[first:])))
        if found.bar <= best.bar:
            best = found
    return best
