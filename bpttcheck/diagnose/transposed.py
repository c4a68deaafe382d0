"""A matrix is transposed: the gradient of a weight, or a weight in the backward product."""

from __future__ import annotations

import numpy as np

from bpttcheck.diagnose import surgery
from bpttcheck.diagnose.base import Array, Evidence, Page, Specimen, diagnosis
from bpttcheck.results.records import Diagnosis, Finding

PAGE = Page(
    "transposed",
    "A matrix is transposed where it should not be, or the reverse.",
    "z = x @ U.T + h @ W.T   ->   d_W = d_z.T @ h,  d_h = d_z @ W,  d_x = d_z @ U",
    "d_W = h.T @ d_z              # the right shape only where W is square\nd_h = d_z @ W.T",
    "d_W = d_z.T @ h\nd_h = d_z @ W",
    "The block equals the transpose of the right one, or the right one computed with a transposed "
    "weight. Sizes that coincide (n_in = n_hidden) are where it hides from a shape check.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """The block transposed, or made with a transposed weight."""
    block = evidence.block
    residual = evidence.alone(_turned)
    if residual is not None:
        return diagnosis("transposed", f"{block} is the right gradient transposed", residual)
    found = surgery.best(evidence, surgery.TRANSPOSED)
    if found is None:
        return None
    cut, residual = found
    return diagnosis(
        "transposed", f"{block} is computed with a transposed weight in the product at {cut.where}",
        residual, where=cut.where,
    )  # fmt: skip


def _turned(right: Array, specimen: Specimen) -> Array | None:
    if right.ndim < 2 or right.shape[-1] < 2 or right.shape[-2] < 2:
        return None
    turned = np.swapaxes(right, -1, -2)
    return turned if turned.shape == right.shape else np.reshape(turned, right.shape)


def of(finding: Finding) -> Diagnosis | None:
    """The diagnosis of a finding of the check ``contract``: a shape the wrong way round."""
    if "transposed?" not in finding.message:
        return None
    return Diagnosis("transposed", f"{finding.block} has the shape of its transpose", {})
