"""Products over the rows of all steps of all sequences."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from bpttcheck.on_jax.form import JaxArray


def rows(sequence: JaxArray) -> JaxArray:
    """``(T, B, n)`` as ``(T B, n)``."""
    return sequence.reshape(-1, sequence.shape[-1])


def columns(sequence: JaxArray) -> JaxArray:
    """``(T, B, n)`` as ``(n, T B)``, in memory: see :func:`transposed`."""
    return transposed(rows(sequence))


def transposed(matrix: JaxArray) -> JaxArray:
    """The transpose, laid out in memory once.

    XLA would fold a transposition into each product that reads it. The product of a transposed
    matrix is slower on a CPU by more than the copy costs.
    """
    return lax.optimization_barrier(matrix.T)


def back_through(sequence: JaxArray, weights: JaxArray) -> JaxArray:
    """``sequence @ weights`` in all rows at once, ``(T, B, m)``."""
    T, B, _ = sequence.shape
    return (rows(sequence) @ weights).reshape(T, B, weights.shape[1])


def split(array: JaxArray, parts: int) -> list[JaxArray]:
    """The last axis in equal parts."""
    return jnp.split(array, parts, axis=-1)
