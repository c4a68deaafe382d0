"""The sum over the batch is a mean, or only some rows of the batch count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bpttcheck import trees
from bpttcheck.diagnose.base import Array, Evidence, Page, Specimen, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "batch-reduction",
    "A parameter's gradient does not sum over the rows of the batch.",
    "d_W = sum over rows n of outer(d_z[n], x[n]) = d_z.T @ x        d_b = sum over rows of d_z",
    "d_b = d_z.mean(axis=0)       # the mean belongs to the loss, which put it into d_y\n"
    "d_b = d_z[0]                 # right for a batch of one",
    "d_b = d_z.sum(axis=0)",
    "The block is the right one divided by B, or the right one of a single row of the batch.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """A mean over the batch, or one row of it."""
    specimens = [s for s in evidence.specimens if s.problem.case.B > 1]
    if not specimens:
        return None
    few = replace(evidence, specimens=specimens)
    block = evidence.block
    residual = few.alone(lambda right, s: right / s.problem.case.B)
    if residual is not None:
        return diagnosis(
            "batch-reduction", f"{block} is a mean over the batch, but should be the sum (times B)",
            residual, factor="1/B",
        )  # fmt: skip
    for row, name in ((0, "first"), (-1, "last")):
        residual = few.alone(lambda _, s, row=row: _of_row(s, row, block))
        if residual is not None:
            return diagnosis(
                "batch-reduction", f"{block} counts only the {name} row of the batch", residual,
                row=row,
            )  # fmt: skip
    return None


def _of_row(specimen: Specimen, row: int, block: str) -> Array:
    """The right block if only one row has a cotangent."""
    p = specimen.problem

    def only(leaf: Array, axis: int) -> Array:
        keep = np.zeros(leaf.shape[axis], leaf.dtype)
        keep[row] = 1
        return leaf * keep.reshape([-1 if a == axis else 1 for a in range(leaf.ndim)])

    changed = replace(
        p, d_ys=only(p.d_ys, 1), d_state=trees.map_leaves(lambda leaf: only(leaf, 0), p.d_state)
    )
    return specimen.right_for(changed)[block]
