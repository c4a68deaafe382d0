"""Wrong only where units saturate."""

from __future__ import annotations

from bpttcheck.diagnose.base import Evidence, Page, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "saturated",
    "The gradient is right for ordinary values and wrong where units saturate.",
    "f'(z) tends to 0 for large |z|, smoothly: no case of its own",
    "d_z = np.where(np.abs(z) > 10, 0.1, 1 - h**2)    # a floor against vanishing",
    "d_z = d_h * (1 - h**2)",
    "Every case in which the block is wrong has large parameters; ordinary cases are right.",
)

# The grid of the kinks has parameters of 2, large enough for a unit to saturate now and then.
_LARGE = {"saturated", "exploding", "at_kinks", "near_kinks", "overflowing", "biased_gates",
          "large_inputs", "tokens"}  # fmt: skip


def fit(evidence: Evidence) -> Diagnosis | None:
    """All wrong cases are saturated ones."""
    wrong = {case.regime for case in evidence.wrong_cases()}
    ordinary = sum(case.regime == "ordinary" for case in evidence.right_cases())
    if "saturated" not in wrong or not wrong <= _LARGE or ordinary < 3:
        return None
    sentence = f"{evidence.block} is wrong only where units saturate"
    return diagnosis("saturated", sentence, 0.0, wrong=len(evidence.wrong_cases()), right=ordinary)
