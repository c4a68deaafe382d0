"""One output has the wrong sign."""

from __future__ import annotations

from bpttcheck.verify.diagnose.base import Evidence, Page, diagnosis
from bpttcheck.verify.results import Diagnosis

PAGE = Page(
    "sign",
    "One output of the backward pass has the wrong sign.",
    "d_z = d_h * f'(z)            for h = f(z)\n"
    "d_f -= d_h * n               for h = ... - f * n: minus, since d h / d f = -n",
    "d_z = d_h * (z - h)          # the two terms of a difference exchanged\n"
    "d_f = d_h * n                # the minus of (1 - f) forgotten",
    "d_f = -d_h * n",
    "The hand-derived block is the right one times -1, entry by entry.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """The block is minus the right one."""
    residual = evidence.alone(lambda right, _: -right)
    if residual is None:
        return None
    return diagnosis("sign", f"{evidence.block} is right but for its sign", residual, factor=-1.0)
