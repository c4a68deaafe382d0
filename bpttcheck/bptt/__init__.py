"""Backpropagation through time: any cell unrolled over a sequence and differentiated by hand.

Loaded when first used. What is called as its module, is imported from it: ``bptt.unroll.unroll``,
``bptt.backpropagate.backpropagate`` (both also ``bpttcheck.unroll`` and
``bpttcheck.backpropagate``), ``bptt.flow.flow``, ``bptt.real_time.real_time`` and
``bptt.sum_over_paths.sum_over_paths``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpttcheck.lazy import index

if TYPE_CHECKING:
    from bpttcheck.bptt.checkpoint import checkpointed, stored_bytes
    from bpttcheck.bptt.engine import NativeEngine
    from bpttcheck.bptt.jacobian import jacobians
    from bpttcheck.bptt.layer import CellLayer
    from bpttcheck.bptt.truncation import Truncated

__all__ = ["CellLayer", "NativeEngine", "Truncated", "checkpointed", "jacobians", "stored_bytes"]

_HOMES = {
    "CellLayer": "layer",
    "NativeEngine": "engine",
    "Truncated": "truncation",
    "checkpointed": "checkpoint",
    "jacobians": "jacobian",
    "stored_bytes": "checkpoint",
}

__getattr__, __dir__ = index(__name__, _HOMES)
