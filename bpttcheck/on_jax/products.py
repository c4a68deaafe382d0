"""Products over the rows of all steps of all sequences."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax

from bpttcheck.on_jax.form import JaxArray

_FEW_ROWS = 8


def rows(sequence: JaxArray) -> JaxArray:
    """``(T, B, n)`` as ``(T B, n)``."""
    return sequence.reshape(-1, sequence.shape[-1])


def columns(sequence: JaxArray) -> JaxArray:
    """``(T, B, n)`` as ``(n, T B)``, in memory: see :func:`transposed`."""
    return transposed(rows(sequence))


def transposed(matrix: JaxArray) -> JaxArray:
    """The transpose, laid out in memory once.

    XLA would fold a transposition into each product that reads it, but on a CPU the product of a
    transposed matrix is slower by more than the cost of the copy.
    """
    return lax.optimization_barrier(matrix.T)


def is_few(step: JaxArray) -> bool:
    """True if a step ``(B, n)`` has few rows, so that call overhead dominates."""
    return step.shape[0] <= _FEW_ROWS


def in_all_steps(function: Callable[[JaxArray], JaxArray], sequence: JaxArray) -> JaxArray:
    """A function of rows ``(R, n)`` on ``sequence (T, B, n)``, all steps at once: ``(T, B, m)``."""
    T, B, _ = sequence.shape
    found = function(rows(sequence))
    return found.reshape(T, B, found.shape[1])


def back_through(sequence: JaxArray, weights: JaxArray) -> JaxArray:
    """``sequence @ weights`` in all rows at once, ``(T, B, m)``."""
    return in_all_steps(lambda d: d @ weights, sequence)


def back_through_parts(parts: Sequence[JaxArray], weights: JaxArray) -> JaxArray:
    """:func:`back_through` of a sequence whose last axis is cut in parts, not put together."""
    ends = list(itertools.accumulate(part.shape[-1] for part in parts))
    cut = jnp.split(weights, ends[:-1])
    return sum(back_through(part, W) for part, W in zip(parts, cut, strict=True))


def split(array: JaxArray, parts: int) -> list[JaxArray]:
    """The last axis in equal parts."""
    return jnp.split(array, parts, axis=-1)
