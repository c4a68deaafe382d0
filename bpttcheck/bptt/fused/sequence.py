"""What the fused layers share: padding, rows of a whole sequence, blocks of steps.

In the loops of the layers NumPy's functions have local names and write to their last argument: with
``np.`` before it and ``out=`` in it, a small call costs a quarter more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bpttcheck.bptt.unroll import require_mask, require_sequence
from bpttcheck.contract import Array
from bpttcheck.errors import ContractError

# The factors of a block of steps are computed and used while they are in a core's cache.
_BLOCK_BYTES = 1 << 20
# A product over fewer rows than this is less efficient per row.
_ROWS_OF_A_PRODUCT = 1024
# Numbers at this distance map to the same sets of a core's first-level cache.
_CACHE_WAY_BYTES = 4096


def rows(array: Array) -> Array:
    """``(T, B, K)`` as ``(T B, K)``: every step of every sequence is one row."""
    T, B, K = array.shape
    return array.reshape(T * B, K)


def gate_by_gate(array: Array, count: int) -> Array:
    """A view ``(..., count, B, H)`` of an array ``(..., B, count H)``.

    Products need a row of all gates; everything entry by entry is two to four times as fast on
    small arrays that lie together, one for each gate.
    """
    *steps, B, width = array.shape
    return array.reshape(*steps, B, count, width // count).swapaxes(-3, -2)


def split(stacked: Array) -> list[Array]:
    """``(T, K, B, H)`` as K views ``(T, B, H)``."""
    return list(stacked.swapaxes(0, 1))


def repacked(weights: Array, order: list[int]) -> Array:
    """A copy of ``weights (K H, ...)`` with its ``K`` gates in another order."""
    return weights.reshape(len(order), -1, *weights.shape[1:])[order].reshape(weights.shape)


def without_padding(xs: Array, mask: Array | None) -> tuple[Array, Array | None]:
    """The inputs with zeros in the padding, and where the padding is.

    Values in the padding, NaN included, must not reach the products over all rows.

    Args:
        xs: the inputs ``(T, B, n_in)``.
        mask: ``(T, B)`` bool, true where the step is real; None: every step is.

    Returns:
        ``(xs, padded)`` with ``padded (T, B, 1)`` bool, or None where every step is real.

    Raises:
        ContractError: ``xs`` or ``mask`` has the wrong shape or dtype.
    """
    require_sequence(xs)
    if mask is None:
        return xs, None
    require_mask(mask, *xs.shape[:2])
    if mask.all():
        return xs, None
    padded = ~mask[:, :, None]
    return zero_where(xs, padded), padded


def zero_where(array: Array, padded: Array | None) -> Array:
    """A copy of ``array (T, B, K)`` with zeros in the padding; itself where there is none."""
    return array if padded is None else np.where(padded, 0.0, array)


def require_cotangents(d_ys: Array, ys_shape: tuple[int, ...]) -> None:
    """Reject an array that NumPy would silently broadcast to the shape of ``ys``.

    Raises:
        ContractError: ``d_ys`` has another shape than ``ys``.
    """
    if np.shape(d_ys) != ys_shape:
        raise ContractError(
            f"d_ys.shape={np.shape(d_ys)}, but expected that of ys, {ys_shape}", item="d_ys"
        )


def outputs(hs: Array, padded: Array | None) -> Array:
    """``ys``: the states after each step, zero in the padding, apart from the tape's memory."""
    ys = hs[1:].copy()
    if padded is not None:
        np.copyto(ys, 0.0, where=padded)
    return ys


def blocks(T: int, bytes_per_step: int, least: int = 1) -> list[slice]:
    """Slices that cover the steps ``T-1 .. 0``, the last block first; none is longer than it.

    Args:
        T: the steps.
        bytes_per_step: what a step reads and writes; a block of them fits a cache.
        least: steps that a block has at least, if there are so many.
    """
    length = max(_BLOCK_BYTES // max(bytes_per_step, 1), least, 1)
    return [slice(max(stop - length, 0), stop) for stop in range(T, 0, -length)]


def steps_for_products(B: int) -> int:
    """Steps whose rows together make a large product."""
    return -(-_ROWS_OF_A_PRODUCT // max(B, 1))


def add_product(total: Array, d: Array, operand: Array) -> None:
    """``total += d.T @ operand``, both of the same rows.

    BLAS reads ``d`` down its columns. Where its rows lie so that a column falls on one place of the
    cache, the transposed product is faster by more than it costs to transpose the result.
    """
    if d.strides[0] % _CACHE_WAY_BYTES:
        np.add(total, d.T @ operand, out=total)
    else:
        np.add(total, (operand.T @ d).T, out=total)


def longest(parts: list[slice]) -> int:
    """The number of steps of the longest block; 0 where there is none."""
    return max((part.stop - part.start for part in parts), default=0)


def backward(*sequences: Any) -> Iterator[tuple[Any, ...]]:
    """The steps of several sequences together, the last step first."""
    return zip(*(sequence[::-1] for sequence in sequences), strict=True)


def sum_of_rows(array: Array) -> Array:
    """The sum over the rows of ``array (R, K)``, as a product: BLAS sums in several parts."""
    return np.dot(np.ones(len(array), array.dtype), array)
