"""Wrong only where there is a mask."""

from __future__ import annotations

from bpttcheck.diagnose.base import Evidence, Page, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "mask-ignored",
    "The backward pass ignores the mask, or treats it in another way than the forward pass.",
    "mask[t] false:  d_state[t] = d_state[t+1],  d_xs[t] = 0,  no term in d_params",
    "d_p, d_state, d_x = step_vjp(params, cache[t], d_state, d_ys[t])      # padded rows too",
    "real = mask[t][:, None]\n"
    "d_p, d_new, d_x = step_vjp(params, cache[t], d_state * real, d_ys[t] * real)\n"
    "d_state = np.where(real, d_new, d_state)",
    "Every case in which the block is wrong has masked steps; cases without them are right.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """All wrong cases have a mask."""
    wrong = evidence.wrong_cases()
    plain = sum(case.mask == "none" for case in evidence.right_cases())
    if not evidence.sequence or not wrong or plain < 3:
        return None
    if any(case.mask == "none" for case in wrong):
        return None
    return diagnosis(
        "mask-ignored", f"{evidence.block} is wrong only where steps are masked", 0.0,
        wrong=len(wrong), right=plain,
    )  # fmt: skip
