"""Diagnoses: what is wrong with a gradient, told by the pattern of its error; one file each.

Adding a diagnosis takes its file and its line in :data:`NAMES`. A file holds ``PAGE``, which
``bpttcheck explain`` prints, and ``fit(evidence)``, which returns a
:class:`bpttcheck.results.records.Diagnosis` or None. Loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    PAGES: dict[str, str]

NAMES = (
    "impure",
    "uninitialised",
    "range",
    "mask_ignored",
    "initial_state",
    "clipped",
    "nonlinear",
    "sign",
    "transposed",
    "swapped_gates",
    "batch_reduction",
    "time_reduction",
    "one_size",
    "saturated",
    "truncated",
    "missing_term",
    "doubled_term",
    "scale",
    "zeroed_entry",
    "broadcast_row",
    "missing_path",
    "doubled_path",
    "wrong_derivative",
    "wrong_operand",
    "precision",
    "wrong_cotangent",
)
"""Every diagnosis by its file, in the order in which they are tried: the most specific first."""

CODES = tuple(name.replace("_", "-") for name in NAMES)
"""The stable codes."""

__all__ = ["CODES", "NAMES", "PAGES"]


def module(code: str) -> Any:
    """The module of a code."""
    return importlib.import_module(f"{__name__}.{code.replace('-', '_')}")


def __getattr__(name: str) -> Any:
    if name != "PAGES":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    pages = {code: str(module(code).PAGE) for code in CODES}
    globals()["PAGES"] = pages
    return pages
