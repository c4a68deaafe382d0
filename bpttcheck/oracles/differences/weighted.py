"""The scalar ``L(s) = Σ_k <weights_k, outputs_k(point + s·direction)>`` that oracles differentiate.

Weights and direction are scaled by powers of two to magnitudes near one, which changes no bit of
the derivative but its exponent: weights of 1e-30 or 1e+30 then cost nothing in accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.errors import ContractError

Array = NDArray[Any]


@dataclass(frozen=True)
class Scaled:
    """Arrays in float64 divided by ``2**exponent``, so that the largest entry is in [0.5, 1)."""

    arrays: tuple[NDArray[np.float64], ...]
    exponent: int

    @property
    def is_zero(self) -> bool:
        """True if every entry is zero."""
        return not any(bool(array.any()) for array in self.arrays)


def scaled(arrays: Sequence[Array]) -> Scaled:
    """``arrays`` brought near one; exact but for entries 2**1000 times smaller than the largest."""
    wide = [np.asarray(array, np.float64) for array in arrays]
    largest = max((float(np.max(np.abs(array), initial=0.0)) for array in wide), default=0.0)
    exponent = math.frexp(largest)[1] if 0 < largest < math.inf else 0
    return Scaled(tuple(np.ldexp(array, -exponent) for array in wide), exponent)


def rescale(value: float, exponent: int) -> float:
    """``value * 2**exponent``, infinite where that overflows."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)


def total(products: NDArray[np.float64]) -> float:
    """The sum of all entries, rounded once."""
    return math.fsum(products.ravel().tolist())


def norm(values: NDArray[np.float64]) -> float:
    """The Euclidean norm, safe where the squares would overflow or underflow."""
    return math.hypot(*values.ravel().tolist())


def flat(arrays: Sequence[Array]) -> NDArray[np.float64]:
    """All entries of all arrays in one float64 vector."""
    if not arrays:
        return np.zeros(0)
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])


def require_like(name: str, given: Sequence[Array], like: str, expected: Sequence[Array]) -> None:
    """Raise unless ``given`` has the shapes of ``expected``.

    Raises:
        ContractError: with both lists of shapes.
    """
    shapes = [np.shape(array) for array in given]
    wanted = [np.shape(array) for array in expected]
    if shapes != wanted:
        raise ContractError(
            f"{name} has shapes {shapes}, expected those of {like}, {wanted}", item=name
        )
