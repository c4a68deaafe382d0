"""One output is the right one times a constant."""

from __future__ import annotations

import numpy as np

from bpttcheck.diagnose.base import Evidence, Page, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "scale",
    "One output of the backward pass is a constant times the right one.",
    "L = sum_t <d_ys[t], ys[t]> + <d_state_T, state_T>: no factor 1/2, 1/B or 1/T of its own",
    "d_W = 2 * d_z.T @ x          # a factor of the loss that is in d_y already\n"
    "d_W = 0.999 * d_z.T @ x      # a decay or learning rate left in the gradient",
    "d_W = d_z.T @ x",
    "One factor, the same in every problem whatever T and B are, makes the block right.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """The same factor in every problem."""
    factors = [_factor(s.given(evidence.block), s.right[evidence.block])
               for s in evidence.specimens]  # fmt: skip
    if not factors or any(f is None or f == 0 for f in factors):
        return None
    if sum(np.count_nonzero(s.right[evidence.block]) for s in evidence.specimens) < 2:
        return None  # one number is a multiple of any other
    factor = float(np.median([f for f in factors if f is not None]))
    residual = evidence.alone(lambda right, _: factor * right)
    if residual is None or evidence.alone(lambda right, _: np.zeros_like(right)) is not None:
        return None  # the second: zero to rounding, which is a path that is missing
    return diagnosis(
        "scale", f"{evidence.block} is the right gradient times {_said(factor)}", residual,
        factor=factor,
    )  # fmt: skip


def _factor(hand: np.ndarray, right: np.ndarray) -> float | None:
    size = float((right * right).sum())
    if not size or not np.isfinite(hand).all():
        return None
    # From the gap, not the product: a factor of 1 + 1e-12 keeps its digits.
    return 1 + float(((hand - right) * right).sum()) / size


def _said(factor: float) -> str:
    gap = factor - 1
    return f"{factor:.6g}" if abs(gap) > 1e-3 else f"1 {'+' if gap > 0 else '-'} {abs(gap):.2g}"
