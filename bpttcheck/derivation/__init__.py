"""The backward pass of a cell from its ``step``: automatic differentiation, written out.

>>> import bpttcheck
>>> made = bpttcheck.derive(bpttcheck.cells.Elman(), examples=0)
>>> made.source.splitlines()[0]
'def step_vjp(self, params, cache, d_state, d_y):'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpttcheck.lazy import index

if TYPE_CHECKING:
    from bpttcheck.derivation.derivation import Derivation, derive

__all__ = ["Derivation", "derive"]

_HOMES = dict.fromkeys(__all__, "derivation")

__getattr__, __dir__ = index(__name__, _HOMES)
