"""The contribution of one time step counts twice."""

from __future__ import annotations

from bpttcheck.diagnose.base import Evidence, Page
from bpttcheck.diagnose.missing_term import one_step
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "doubled-term",
    "The sum over time has the term of one step twice.",
    "d_W = sum over t = 0 .. T-1 of d_W[t]",
    "d_W = d_W_last               # initialised with the last term\n"
    "for t in reversed(range(T)): d_W += d_W[t]   # and the last term again",
    "d_W = 0\nfor t in reversed(range(T)): d_W += d_W[t]",
    "The block equals the right sum plus once more the contribution of that step.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """One step's term counts twice."""
    return one_step(evidence, "doubled-term", 1.0, "counts twice in {block}")
