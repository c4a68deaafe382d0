"""Whole-sequence NumPy forms of the built-in cells, loaded when first used.

Each has the parameters of the cell that it fuses, and names it as ``reference``, so that
``bpttcheck.check`` judges it by that cell. Adding one takes its file, one line in ``_HOMES`` and
one in :data:`FUSED`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bpttcheck.lazy import factory, index

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

__getattr__, __dir__ = index(__name__, _HOMES)

FUSED: dict[str, Callable[..., Any]] = {
    "elman": factory(__name__, "FusedElman"),
    "lstm": factory(__name__, "FusedLSTM"),
    "gru_reset_before": factory(__name__, "FusedGRUResetBefore"),
    "gru_reset_after": factory(__name__, "FusedGRUResetAfter"),
}
"""Every fused layer by the name of the cell that it fuses; call the value to make the layer."""
