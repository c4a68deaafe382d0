"""Some entries of a block are zero, and the rest is right."""

from __future__ import annotations

import numpy as np

from bpttcheck.calibration import LIMIT
from bpttcheck.diagnose.base import Array, Evidence, Page, Specimen, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "zeroed-entry",
    "Some entries of a gradient are zero, the others are right.",
    "every entry of d_W is sum over rows of d_z[:, i] * x[:, j]",
    "d_W[1:] = ...                # an index that starts at 1\n"
    "for j in range(n - 1): ...   # a loop that stops one early",
    "d_W[:] = d_z.T @ x",
    "Where the hand-derived block is not zero it is right, and it is zero where it should not be.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """Right where it is not zero."""
    if not evidence.specimens or not all(_some_are_right(s, evidence) for s in evidence.specimens):
        return None
    residual = evidence.alone(_where_not_zero(evidence))
    if residual is None:
        return None
    first = evidence.specimens[0]
    missing = _missing(first, evidence)
    at = [int(i) for i in missing[0]]
    more = "" if len(missing) == 1 else f" and {len(missing) - 1} more"
    return diagnosis(
        "zeroed-entry", f"{evidence.block} is right but for entry {at}{more}, which is zero",
        residual, entries=[[int(i) for i in index] for index in missing[:20]],
    )  # fmt: skip


def _where_not_zero(evidence: Evidence):
    def predict(right: Array, specimen: Specimen) -> Array:
        return np.where(specimen.given(evidence.block) == 0, 0.0, right)

    return predict


def _missing(specimen: Specimen, evidence: Evidence) -> Array:
    hand, right = specimen.given(evidence.block), specimen.right[evidence.block]
    return np.argwhere((hand == 0) & (right != 0))


def _some_are_right(specimen: Specimen, evidence: Evidence) -> bool:
    """Not all zero: that is a path that is missing."""
    hand = specimen.given(evidence.block)
    kept = np.where(hand == 0, 0.0, specimen.right[evidence.block])
    return bool((hand != 0).any()) and specimen.residual({evidence.block: kept}) <= LIMIT
