"""A method changes what it is given, remembers, or draws random numbers."""

from __future__ import annotations

from bpttcheck.diagnose.base import Evidence, Page
from bpttcheck.results.records import Diagnosis, Finding

PAGE = Page(
    "impure",
    "A method is no function of its arguments: it changes them, remembers calls, or is random.",
    "step and step_vjp return the same for the same arguments, and change none of them",
    "d_state += d_y                   # changes the caller's array\n"
    "self.d_W += d_z.T @ x            # piles up across calls\n"
    "return self._buffer              # overwritten by the next call",
    "d_h = d_state + d_y\nd_W = d_z.T @ x",
    "The method is called several times in several orders and everything is compared bit by bit.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """Never by a gradient: the check `purity` says it."""
    del evidence
    return None


def of(finding: Finding) -> Diagnosis:
    """The diagnosis of a finding of the check ``purity``."""
    return Diagnosis("impure", finding.message, {"method": finding.method, "item": finding.block})
