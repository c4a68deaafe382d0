"""Only the gradient of the initial state is wrong."""

from __future__ import annotations

from bpttcheck.diagnose.base import Evidence, Page, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "initial-state",
    "The gradient of the initial state is missing or wrong, and everything else is right.",
    "d_state0 = d_state after the backward loop has gone through step t = 0",
    "return d_params, d_xs, np.zeros_like(h0)     # the initial state is no constant",
    "return d_params, d_xs, d_state               # what the loop leaves",
    "d_state0 is the only wrong block, in every problem.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """No other block is wrong, of a whole sequence."""
    if not evidence.sequence or not evidence.block.startswith("d_state0"):
        return None
    if evidence.run.subject.kind == "cell":
        return None  # one step shows it as d_previous_state
    others = {b for one in evidence.seen for b in one.wrong if not b.startswith("d_state0")}
    if others or not evidence.specimens:
        return None
    zero = all(not s.given(evidence.block).any() for s in evidence.specimens)
    what = "is zero: the initial state gets no gradient" if zero else "is wrong"
    return diagnosis("initial-state", f"{evidence.block} {what}, all else is right", 0.0)
