"""The formula leaves the range of a short format, where the right gradient does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bpttcheck.calibration import LIMIT
from bpttcheck.diagnose.base import Evidence, Page, Specimen, diagnosis
from bpttcheck.errors import BpttcheckError
from bpttcheck.problems.problem import in_float64
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "range",
    "The gradient overflows or underflows in the checked dtype only; in float64 the code is right.",
    "float32 holds 1e-38 to 3e38; exp(89) is no float32 number",
    "e = np.exp(z); d_z = d_s * e / (1 + e)**2        # inf / inf = NaN from z = 45 on",
    "s = 1 / (1 + np.exp(-z)); d_z = d_s * s * (1 - s)",
    "The block is NaN, Inf or zero in float32 where JAX's value is an ordinary float32 number, and "
    "the same code in float64 agrees with JAX.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """NaN, Inf or zero in float32, right in float64."""
    found = [s for s in evidence.specimens if s.problem.dtype != np.float64]
    if not found or len(found) < len(evidence.specimens):
        return None
    residuals = [_in_double(s, evidence.block) for s in found]
    if any(not (r <= LIMIT) for r in residuals):
        return None
    lost = [_lost(s, evidence.block) for s in found]
    if not all(lost):
        return None
    return diagnosis(
        "range", f"{evidence.block} {lost[0]} in float32, and is right in float64", max(residuals)
    )


def _in_double(specimen: Specimen, block: str) -> float:
    try:
        hand = specimen.run.hand(specimen.mode, in_float64(specimen.problem))
    except BpttcheckError:
        return np.inf
    return replace(specimen, hand=hand).residual({block: specimen.right[block]})


def _lost(specimen: Specimen, block: str) -> str:
    hand, right = specimen.given(block), specimen.right[block]
    if not np.isfinite(hand).all():
        return "overflows"
    gap = np.abs(hand - right)
    worst = hand.reshape(-1)[int(gap.argmax())] if gap.size else 1.0
    return "underflows to zero" if worst == 0 else ""
