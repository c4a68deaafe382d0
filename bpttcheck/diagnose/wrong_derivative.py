"""The derivative of a nonlinear function is another function's, or is missing."""

from __future__ import annotations

from bpttcheck.diagnose import surgery
from bpttcheck.diagnose.base import Evidence, Page, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "wrong-derivative",
    "The local derivative of an activation or gate is not that of the forward pass.",
    "h = tanh(z):    d_z = d_h * (1 - h**2)\ns = sigmoid(z): d_z = d_s * s * (1 - s)",
    "d_z = d_h * (1 - z**2)       # the pre-activation in place of the activation\n"
    "d_z = d_h * h * (1 - h)      # the derivative of another activation\n"
    "d_z = d_s                    # no derivative at all",
    "d_z = d_h * (1 - h**2)       # h = tanh(z), from the cache",
    "The block equals JAX's gradient with that one derivative replaced, in every problem.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """One local derivative replaced by another."""
    found = surgery.best(evidence, surgery.DERIVATIVE)
    if found is None:
        return None
    cut, residual = found
    return diagnosis(
        "wrong-derivative",
        f"the derivative of {cut.text} at {cut.where} is {cut.instead} (h its value, z its "
        "argument)",
        residual, where=cut.where, instead=cut.instead,
    )  # fmt: skip
