"""Anybody's cell in NumPy with its weight gradients deferred, loaded when first used.

:func:`bpttcheck.deferred.layer` makes a layer of a cell: the loop over the steps computes what
flows back to the step before, and one call over the rows of all steps gives the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpttcheck.lazy import index

if TYPE_CHECKING:
    from bpttcheck.deferred.loop import DeferredLayer, layer

__all__ = ["DeferredLayer", "layer"]

_HOMES = dict.fromkeys(__all__, "loop")

__getattr__, __dir__ = index(__name__, _HOMES)
