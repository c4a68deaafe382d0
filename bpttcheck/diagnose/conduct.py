"""Methods that are not pure functions, as found by the check `purity`."""

from __future__ import annotations

from bpttcheck.diagnose.base import Evidence, Page, Rule
from bpttcheck.results.records import Diagnosis, Finding

_IMPURE_PAGE = Page(
    "impure",
    "A method is not a pure function: it changes its arguments, remembers calls, or is random.",
    "step and step_vjp return the same for the same arguments, and change none of them",
    "d_state += d_y                   # changes the caller's array\n"
    "self.d_W += d_z.T @ x            # accumulates across calls\n"
    "return self._buffer              # overwritten by the next call",
    "d_h = d_state + d_y\nd_W = d_z.T @ x",
    "The method is called several times in several orders and everything is compared bit by bit.",
)


def _fit_impure(evidence: Evidence) -> Diagnosis | None:
    """Never by a gradient: the check `purity` says it."""
    del evidence
    return None


def impure(finding: Finding) -> Diagnosis:
    """The diagnosis of a finding of the check ``purity``."""
    return Diagnosis("impure", finding.message, {"method": finding.method, "item": finding.block})


IMPURE = Rule(_IMPURE_PAGE, _fit_impure)
"""A method changes its arguments, remembers calls, or draws random numbers."""


_UNINITIALISED_PAGE = Page(
    "uninitialised",
    "Part of an array made by np.empty is read before anything was written to it.",
    "every entry of a gradient is a sum of terms, and a sum of no terms is zero",
    "d_xs = np.empty_like(xs)\n"
    "for b in range(0, B - 3, 4):            # a last, partial block of rows is left out\n"
    "    d_xs[:, b : b + 4] = ...",
    "d_xs = np.zeros_like(xs)                # or write every entry\n"
    "for b in range(0, B, 4):\n"
    "    d_xs[:, b : b + 4] = ...",
    "np.empty and np.empty_like, called from the user's modules, are filled with NaN and with\n"
    "ordinary numbers in turn: a result that differs was read from memory that nobody wrote. One\n"
    "call at a time is filled to find the line.",
)


def _fit_uninitialised(evidence: Evidence) -> Diagnosis | None:
    """Never by a gradient: the check `purity` says it."""
    del evidence
    return None


def uninitialised(method: str, item: str, file: str, line: int, message: str) -> Diagnosis:
    """The diagnosis of memory that the check ``purity`` saw read before it was written."""
    evidence = {"method": method, "item": item, "file": file, "line": line}
    return Diagnosis("uninitialised", message, evidence)


UNINITIALISED = Rule(_UNINITIALISED_PAGE, _fit_uninitialised)
"""A result holds memory that was never written."""
