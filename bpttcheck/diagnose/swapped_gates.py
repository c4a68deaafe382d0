"""The gradients of two gates are exchanged."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from bpttcheck.diagnose.base import Array, Evidence, Page, Specimen, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "swapped-gates",
    "The gradients of two gates, or of two parameters of one shape, are exchanged.",
    "a = [a_i, a_f, a_g, a_o]  ->  d_a = [d_a_i, d_a_f, d_a_g, d_a_o], in the same order",
    "d_a = np.concatenate([d_a_f, d_a_i, d_a_g, d_a_o], axis=-1)",
    "d_a = np.concatenate([d_a_i, d_a_f, d_a_g, d_a_o], axis=-1)",
    "The block is the right one with two of its parts, n_hidden wide each, exchanged.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """Two parts of the block exchanged, or two blocks of one shape."""
    block = evidence.block
    if not evidence.specimens:
        return None
    for axis, i, j in _pairs(evidence.specimens[0], block):
        residual = evidence.alone(
            lambda right, s, at=(axis, i, j): _exchanged(right, s.problem.case.n_hidden, *at)
        )
        if residual is not None:
            return diagnosis(
                "swapped-gates", f"gates {i} and {j} of {block} are exchanged", residual,
                gates=[i, j],
            )  # fmt: skip
    for other in evidence.specimens[0].right:
        if other == block or not (other.startswith("d_params") and block.startswith("d_params")):
            continue
        residual = evidence.alone(lambda _, s, other=other: s.right[other])
        if residual is not None:
            return diagnosis(
                "swapped-gates", f"{block} holds what belongs into {other}", residual, other=other
            )
    return None


def _pairs(specimen: Specimen, block: str) -> Iterator[tuple[int, int, int]]:
    """Axis and two parts of it that are ``n_hidden`` wide."""
    H = specimen.problem.case.n_hidden
    for axis, size in enumerate(specimen.right[block].shape):
        if size % H == 0 and size > H:
            yield from ((axis, i, j) for i, j in combinations(range(size // H), 2))


def _exchanged(right: Array, H: int, axis: int, i: int, j: int) -> Array | None:
    if right.shape[axis] % H or right.shape[axis] // H <= j:
        return None
    parts = np.split(right, right.shape[axis] // H, axis)
    parts[i], parts[j] = parts[j], parts[i]
    return np.concatenate(parts, axis)
