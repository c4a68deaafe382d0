"""A row of a block is a copy of another one."""

from __future__ import annotations

import numpy as np

from bpttcheck.diagnose.base import Array, Evidence, Page, Specimen, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "broadcast-row",
    "One row of a gradient stands in the place of others.",
    "d_x[n] = d_z[n] @ U, row by row",
    "d_x[:] = d_z[0] @ U          # NumPy repeats the row without a word",
    "d_x = d_z @ U",
    "Every wrong row of the block equals a right row of the same block.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """Each row is the right one of this or of another place, along one axis."""
    for axis in (0, 1):
        found = [_sources(s, evidence.block, axis) for s in evidence.specimens]
        if not found or any(one is None for one in found):
            continue

        def predict(right: Array, s: Specimen, axis: int = axis) -> Array | None:
            sources = _sources(s, evidence.block, axis)
            return None if sources is None else np.take(right, sources, axis=axis)

        residual = evidence.alone(predict)
        if residual is not None:
            sources = found[0] or []
            moved = [f"{i} is row {j}" for i, j in enumerate(sources) if i != j]
            return diagnosis(
                "broadcast-row",
                f"{evidence.block} repeats a row (axis {axis}: {', '.join(moved[:3])})",
                residual, axis=axis, sources=sources,
            )  # fmt: skip
    return None


def _sources(specimen: Specimen, block: str, axis: int) -> list[int] | None:
    """For each row the right row that it equals; None if there is none, or if no row repeats."""
    hand, right = specimen.given(block), specimen.right[block]
    if hand.ndim <= axis or hand.shape[axis] < 2:
        return None
    g, r = np.moveaxis(hand, axis, 0), np.moveaxis(right, axis, 0)
    gaps = np.abs(g[:, None] - r[None]).reshape(len(g), len(r), -1).max(axis=2)
    own = np.diagonal(gaps)
    nearest = gaps.argmin(axis=1)
    scale = np.abs(r).max(initial=0.0)
    sources = [i if own[i] <= 1e-3 * scale else int(j) for i, j in enumerate(nearest)]
    repeated = len(set(sources)) < len(sources)
    return sources if repeated and sources != list(range(len(sources))) else None
