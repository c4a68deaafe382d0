"""The backward pass depends on the size of its cotangent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.calibration import LIMIT
from bpttcheck.diagnose.base import Evidence, Page, Specimen, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "nonlinear",
    "The gradient is right for cotangents of one size and wrong for those of another.",
    "vjp(a * c) = a * vjp(c)",
    "if np.abs(d_y).max() > 10: d_y = d_y / 2          # a guard against explosion left in\n"
    "d_h[np.abs(d_h) < 1e-8] = 0                       # a threshold",
    "no branch on the value of a cotangent anywhere in the backward pass",
    "The same problem with its cotangents scaled by a power of two is right.",
)

_FACTORS = (2.0**-24, 2.0**24)


def fit(evidence: Evidence) -> Diagnosis | None:
    """Right once the cotangents are scaled."""
    if not evidence.specimens:
        return None
    for factor in _FACTORS:
        residuals = [_scaled(s, factor, evidence.block) for s in evidence.specimens]
        if all(r is not None and r <= LIMIT for r in residuals):
            size = "smaller" if factor < 1 else "larger"
            return diagnosis(
                "nonlinear", f"{evidence.block} is right for {size} cotangents: not linear in them",
                max(r for r in residuals if r is not None), factor=factor,
            )  # fmt: skip
    return None


def _scaled(specimen: Specimen, factor: float, block: str) -> float | None:
    p = specimen.problem

    def by(leaf: Any) -> Any:
        return (leaf * factor).astype(leaf.dtype)

    changed = replace(p, d_ys=by(p.d_ys), d_state=trees.map_leaves(by, p.d_state))
    hand = specimen.run.hand(specimen.mode, changed)
    reference = specimen.run.jax(specimen.mode, changed, specimen.template)
    fresh = replace(specimen, problem=changed, hand=hand, reference=reference)
    right = fresh.right[block]
    return fresh.residual({block: right}) if np.abs(right).max(initial=0.0) > 0 else None
