"""A result holds memory that was never written."""

from __future__ import annotations

from bpttcheck.diagnose.base import Evidence, Page
from bpttcheck.results.records import Diagnosis

PAGE = Page(
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


def fit(evidence: Evidence) -> Diagnosis | None:
    """Never by a gradient: the check `purity` says it."""
    del evidence
    return None


def of(method: str, item: str, file: str, line: int, message: str) -> Diagnosis:
    """The diagnosis of memory that the check ``purity`` saw read before it was written."""
    evidence = {"method": method, "item": item, "file": file, "line": line}
    return Diagnosis("uninitialised", message, evidence)
