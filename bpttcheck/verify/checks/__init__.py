"""The checks, in the order in which they run; one file each, loaded when first used.

Adding a check takes its file and its line in :data:`NAMES`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bpttcheck.traits import trait

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
    "jvp",
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


def names_for(target: Any) -> tuple[str, ...]:
    """The checks of a function with a signature, or those of a cell or a layer."""
    signature = trait(target, "signature")
    if signature is not None:
        padded = any(leaf.kind == "within" for leaf in signature.leaves)
        more = {"jvp": trait(target, "jvp") is not None, "masking": padded}
        return tuple(n for n in NAMES if n in _OF_FUNCTIONS or more.get(n))
    forward_mode = trait(target, "step_jvp") or trait(target, "jvp")
    others = ("vjp",) if forward_mode else ("vjp", "jvp")
    return tuple(name for name in NAMES if name not in others)


def __getattr__(name: str) -> Any:
    if name != "CHECKS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    checks = {n: importlib.import_module(f"{__name__}.{n}").CHECK for n in NAMES}
    globals()["CHECKS"] = checks
    return checks
