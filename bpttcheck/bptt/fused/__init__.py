"""Whole-sequence NumPy forms of the built-in cells, loaded when first used.

Each has the parameters of the cell that it fuses, and names it as ``reference``, so that
``bpttcheck.check`` judges it by that cell. Adding one takes its file, one line in ``_HOMES`` and
one in :data:`FUSED`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpttcheck.bptt.fused.elman import FusedElman
    from bpttcheck.bptt.fused.gru_reset_after import FusedGRUResetAfter
    from bpttcheck.bptt.fused.gru_reset_before import FusedGRUResetBefore
    from bpttcheck.bptt.fused.lstm import FusedLSTM

__all__ = ["FUSED", "FusedElman", "FusedGRUResetAfter", "FusedGRUResetBefore", "FusedLSTM"]

_HOMES = {
    "FusedElman": "elman",
    "FusedGRUResetAfter": "gru_reset_after",
    "FusedGRUResetBefore": "gru_reset_before",
    "FusedLSTM": "lstm",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bpttcheck.bptt.fused' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"bpttcheck.bptt.fused.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _factory(class_name: str) -> Callable[..., Any]:
    def make(**options: Any) -> Any:
        return getattr(importlib.import_module(__name__), class_name)(**options)

    return make


FUSED: dict[str, Callable[..., Any]] = {
    "elman": _factory("FusedElman"),
    "lstm": _factory("FusedLSTM"),
    "gru_reset_before": _factory("FusedGRUResetBefore"),
    "gru_reset_after": _factory("FusedGRUResetAfter"),
}
"""Every fused layer by the name of the cell that it fuses; call the value to make the layer."""
