"""The checks, in the order in which they run; one file each, loaded when first used.

Adding a check takes its file and its line in :data:`NAMES`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpttcheck.verify.checks.base import Check

    CHECKS: dict[str, Check]

NAMES = (
    "contract",
    "purity",
    "arguments",
    "step_vjp",
    "sequence_vjp",
    "vjp",
    "initial_state",
    "linearity",
    "batch_additivity",
    "time_splitting",
    "causality",
    "masking",
    "zero_length",
)
"""The file of every check, which is its public name."""

_OF_FUNCTIONS = ("contract", "purity", "arguments", "vjp", "linearity", "batch_additivity")

__all__ = ["CHECKS", "NAMES", "names_for"]


def names_for(is_function: bool) -> tuple[str, ...]:
    """The checks of a function with a signature, or those of cells and layers."""
    return _OF_FUNCTIONS if is_function else tuple(name for name in NAMES if name != "vjp")


def __getattr__(name: str) -> Any:
    if name != "CHECKS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    checks = {n: importlib.import_module(f"{__name__}.{n}").CHECK for n in NAMES}
    globals()["CHECKS"] = checks
    return checks
