"""Diagnoses: what is wrong with a gradient, identified by the pattern of its error.

Adding a diagnosis takes a :class:`bpttcheck.diagnose.base.Rule` in the file of its kind and its
line in ``_HOMES``. A rule has a page, which ``bpttcheck explain`` prints, and ``fit(evidence)``.
Loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpttcheck.diagnose.base import Rule

    PAGES: dict[str, str]

_HOMES = {
    "impure": "conduct",
    "uninitialised": "conduct",
    "early-return": "values",
    "range": "values",
    "mask-ignored": "steps",
    "initial-state": "steps",
    "clipped": "values",
    "nonlinear": "values",
    "sign": "paths",
    "transposed": "axes",
    "swapped-gates": "axes",
    "batch-reduction": "axes",
    "time-reduction": "steps",
    "one-size": "axes",
    "time-order": "order",
    "off-by-one": "order",
    "saturated": "values",
    "truncated": "steps",
    "missing-term": "steps",
    "doubled-term": "steps",
    "scale": "values",
    "zeroed-entry": "values",
    "broadcast-row": "axes",
    "permuted": "order",
    "overwritten": "order",
    "missing-path": "paths",
    "doubled-path": "paths",
    "wrong-derivative": "paths",
    "wrong-operand": "paths",
    "precision": "paths",
    "wrong-cotangent": "paths",
    "mixed-rows": "order",
}

CODES = tuple(_HOMES)
"""The stable codes, in the order in which they are tried: the most specific first."""

__all__ = ["CODES", "PAGES", "rule"]


def rule(code: str) -> Rule:
    """The diagnosis of a code."""
    home = importlib.import_module(f"{__name__}.{_HOMES[code]}")
    return getattr(home, code.replace("-", "_").upper())


def __getattr__(name: str) -> Any:
    if name != "PAGES":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    pages = {code: str(rule(code).page) for code in CODES}
    globals()["PAGES"] = pages
    return pages
