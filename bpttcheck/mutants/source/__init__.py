"""Wrong ways to write a cell's own ``step_vjp``: its source with one thing changed.

>>> from bpttcheck.cells import Elman
>>> wrong = next(m for m in source_mutants(Elman()) if m.diagnosis == "batch-reduction")
>>> wrong.sentence
"`'b': d_z.mean(axis=0)`, where `'b': d_z.sum(axis=0)` is right"
>>> cell = wrong.plant(Elman())

The changed source is compiled in the namespace of the defining module and bound to the same
instance. The rest of the cell stays as it is, and no module code runs a second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpttcheck.lazy import index

if TYPE_CHECKING:
    from bpttcheck.mutants.source.planting import RAISES, source_mutants, why_no_source

__all__ = ["RAISES", "source_mutants", "why_no_source"]

_HOMES = dict.fromkeys(__all__, "planting")

__getattr__, __dir__ = index(__name__, _HOMES)
