"""The sum over time is a mean."""

from __future__ import annotations

from dataclasses import replace

from bpttcheck.diagnose.base import Evidence, Page, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "time-reduction",
    "A gradient is divided by the number of steps.",
    "d_W = sum over t of d_W[t]",
    "d_W /= T                     # the mean belongs to the loss, which put it into d_ys",
    "d_W = sum(d_W[t] for t in range(T))",
    "The block is the right one divided by T, for every T.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """The right block divided by T."""
    specimens = [s for s in evidence.specimens if s.problem.case.T > 1]
    if not evidence.sequence or not specimens:
        return None
    few = replace(evidence, specimens=specimens)
    residual = few.alone(lambda right, s: right / s.problem.case.T)
    if residual is None:
        return None
    return diagnosis(
        "time-reduction", f"{evidence.block} is a mean over the steps, but should be the sum",
        residual, factor="1/T",
    )  # fmt: skip
