"""Digits are lost: part of the computation runs in a shorter format."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import is_float
from bpttcheck.diagnose import wrong_cotangent
from bpttcheck.diagnose.base import Array, Evidence, Page, Specimen, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "precision",
    "The gradient has fewer right digits than its dtype holds.",
    "every array of the backward pass has the dtype of the inputs",
    "d_W = np.zeros(W.shape, np.float32)     # an accumulator that is shorter than its terms\n"
    "1 - np.tanh(z)**2 by np.exp             # a formula that cancels",
    "d_W = np.zeros_like(W)",
    "Every entry is a float32 (or float16) number though the problem is float64; or the same code "
    "is right in float64 and wrong in float32 by more than rounding can explain.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """Every entry fits a shorter format and is right in that format."""
    specimens = evidence.specimens
    for short in (np.float16, np.float32):
        if specimens and all(_fits_in(s, short, evidence.block) for s in specimens):
            unit = float(np.finfo(short).eps)
            name = np.dtype(short).name
            return diagnosis(
                "precision", f"{evidence.block} went through {name}: only its digits are right",
                0.0, format=name, relative_error=unit,
            )  # fmt: skip
        residual = evidence.explained(lambda s, short=short: _cotangents_in(s, short))
        if residual is not None:
            name = np.dtype(short).name
            return diagnosis(
                "precision", f"the cotangents went through {name}", residual, format=name
            )
    return _cancels(evidence)


def _cotangents_in(specimen: Specimen, short: type) -> dict[str, Array]:
    """The right gradient of cotangents rounded to a shorter format."""
    p = specimen.problem

    def rounded(leaf: Any) -> Any:
        return leaf.astype(short).astype(leaf.dtype) if is_float(leaf) else leaf

    with np.errstate(all="ignore"):
        changed = replace(p, d_ys=rounded(p.d_ys), d_state=trees.map_leaves(rounded, p.d_state))
        return specimen.right_for(changed)


def _fits_in(specimen: Specimen, short: type, block: str) -> bool:
    if np.finfo(specimen.problem.dtype).eps >= np.finfo(short).eps:
        return False
    hand, right = specimen.given(block), specimen.right[block]
    with np.errstate(all="ignore"):
        exact = bool((hand == hand.astype(short).astype(np.float64)).all())
        gap = np.abs(hand - right).max(initial=0.0)
    return exact and bool(gap <= 8 * np.finfo(short).eps * np.abs(right).max(initial=0.0))


def _cancels(evidence: Evidence) -> Diagnosis | None:
    """Small, without a pattern, and of a size that no formula of the right dtype has."""
    if not evidence.specimens:
        return None
    errors = [_relative(s, evidence.block) for s in evidence.specimens]
    unit = float(np.finfo(np.float32).eps)
    double = all(s.problem.dtype == np.float64 for s in evidence.specimens)
    if double and all(1e-3 * unit < e < 1e2 * unit for e in errors):
        if wrong_cotangent.fit(evidence) is not None:
            return None  # which says where
        return diagnosis(
            "precision", f"{evidence.block} has about the digits of float32, and no pattern",
            0.0, relative_error=max(errors),
        )  # fmt: skip
    return None


def _relative(specimen: Specimen, block: str) -> float:
    hand, right = specimen.given(block), specimen.right[block]
    return float(np.abs(hand - right).max(initial=0.0) / (np.abs(right).max(initial=0.0) or 1.0))
