"""Ridders' extrapolation of central differences to step zero, with a bar.

A central difference is ``D(h) = L' + a₂h² + a₄h⁴ + ...``. The last ``j + 1`` rows determine a
polynomial in ``h²``, whose value at zero is ``T_j = Σ c_k D(h_k)``. The bar of ``T_j`` is the
larger of its disagreement with the two estimates of one order less and the rounding that reaches
it, ``noise·sqrt(Σ (c_k/h_k)²/2)``. Without this floor the least disagreement among many noisy
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


def extrapolate(steps: Sequence[float], values: Sequence[float], noise: float) -> Extrapolated:
    """The best estimate of ``values`` at step zero that uses the last row.

    Args:
        steps: falling, at least two.
        values: the central differences at ``steps``.
        noise: the standard width of the rounding of ``L`` itself.
    """
    h, d = np.asarray(steps), np.asarray(values)
    best = Extrapolated(float(d[-1]), math.inf, math.inf)
    for order in range(1, len(h)):
        last = h[-order - 1 :]
        c = weights_at_zero(last**2)
        value = float(c @ d[-order - 1 :])
        lower = float(weights_at_zero(last[1:] ** 2) @ d[-order:])
        older = float(weights_at_zero(last[:-1] ** 2) @ d[-order - 1 : -1])
        found = Extrapolated(
            value,
            max(abs(value - lower), abs(value - older)),
            noise * math.sqrt(0.5) * float(np.linalg.norm(c / last)),
        )
        if found.bar <= best.bar:
            best = found
    return best
