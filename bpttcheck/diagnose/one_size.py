"""Wrong only at one size."""

from __future__ import annotations

from collections.abc import Callable

from bpttcheck.diagnose.base import Evidence, Page, diagnosis
from bpttcheck.results.records import Case, Diagnosis

PAGE = Page(
    "one-size",
    "The gradient is wrong at some sizes and right at all others.",
    "nothing in the formulas depends on a particular size",
    "if n_in == n_hidden: d_U = d_U.T         # a shape check that a square matrix passes\n"
    "d_W[:8] = ...                            # a constant that was meant to be n_hidden",
    "sizes taken from the shapes of the arguments",
    "Every case in which the block is wrong shares that size, and no case of that size is right.",
)

_TRAITS: tuple[tuple[str, Callable[[Case], object]], ...] = (
    ("n_in == n_hidden", lambda c: c.n_in == c.n_hidden or None),
    ("n_in == n_hidden > 1", lambda c: 1 < c.n_in == c.n_hidden or None),
    ("n_hidden", lambda c: c.n_hidden),
    ("n_in", lambda c: c.n_in),
    ("B", lambda c: c.B),
    ("T", lambda c: c.T),
    ("n_in and n_hidden", lambda c: (c.n_in, c.n_hidden)),
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """One trait tells the wrong cases from the right ones."""
    wrong, right = evidence.wrong_cases(), evidence.right_cases()
    if len(wrong) < 2 or len(right) < 5:
        return None
    if all(case.regime == "long" for case in wrong):
        return None  # long sequences have one width: their length explains as much
    for name, trait in _TRAITS:
        values = {trait(case) for case in wrong}
        value = next(iter(values))
        others = {trait(case) for case in right}
        if len(values) > 1 or value is None or value in others:
            continue
        said = name if value is True else f"{name} = {value}"
        return diagnosis(
            "one-size", f"{evidence.block} is wrong only where {said}", 0.0,
            wrong=len(wrong), right=len(right),
        )  # fmt: skip
    return None
