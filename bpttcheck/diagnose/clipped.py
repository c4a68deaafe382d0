"""The gradient is clipped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bpttcheck.diagnose.base import Evidence, Page, Specimen, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "clipped",
    "The gradient is cut off at a bound: clipping that was left on inside the backward pass.",
    "vjp(a * c) = a * vjp(c): a vector-Jacobian product is linear in its cotangent",
    "np.clip(d_W, -5, 5, out=d_W)           # inside the backward pass",
    "grads = backward(...)                  # the gradient itself\n"
    "update = clip(grads)                   # clipping belongs to the optimiser",
    "The block is the right one cut off at one bound, or scaled to one norm, in every problem.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """Cut off entry by entry, or scaled to a norm."""
    if not evidence.specimens:
        return None
    bounds = [np.abs(s.given(evidence.block)).max(initial=0.0) for s in evidence.specimens]
    if _one_number(bounds):
        c = float(bounds[0])
        residual = evidence.alone(lambda right, _: np.clip(right, -c, c))
        if residual is not None:
            return diagnosis(
                "clipped", f"{evidence.block} is clipped at {c:.6g}", residual, bound=c
            )
    for norms, what in _norms(evidence):
        if _one_number(norms):
            residual = evidence.alone(
                lambda right, s: right * _along(s.given(evidence.block), right)
            )
            if residual is not None:
                return diagnosis(
                    "clipped", f"{what} is scaled to the norm {norms[0]:.6g}", residual,
                    norm=float(norms[0]),
                )  # fmt: skip
    return None


def _norms(evidence: Evidence) -> Iterator[tuple[list[float], str]]:
    yield (
        [float(np.linalg.norm(s.given(evidence.block))) for s in evidence.specimens],
        (evidence.block),
    )

    def whole(specimen: Specimen) -> float:
        return float(np.sqrt(sum((specimen.given(b) ** 2).sum() for b in specimen.right)))

    yield [whole(s) for s in evidence.specimens], "the whole gradient"

    def parameters(specimen: Specimen) -> float:
        blocks = [b for b in specimen.right if b.startswith("d_params")]
        return float(np.sqrt(sum((specimen.given(b) ** 2).sum() for b in blocks)))

    yield [parameters(s) for s in evidence.specimens], "the gradient of the parameters"


def _one_number(values: list[float]) -> bool:
    """The same in every problem, or in a single one a number that somebody would type."""
    first = values[0]
    if not np.isfinite(first) or first == 0:
        return False
    if len(values) == 1:
        return abs(first - float(f"{first:.2g}")) <= 1e-6 * first
    return all(abs(v - first) <= 1e-5 * first for v in values)


def _along(hand: np.ndarray, right: np.ndarray) -> float:
    return float((hand * right).sum() / (right * right).sum())
