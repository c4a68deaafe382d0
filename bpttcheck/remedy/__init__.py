"""Edits of the user's own source that mend a wrong gradient, each proved by all checks.

>>> import bpttcheck
>>> right = bpttcheck.check(bpttcheck.cells.Elman(), examples=5)
>>> bpttcheck.remedy.remedies(bpttcheck.cells.Elman(), right)
()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpttcheck.lazy import index

if TYPE_CHECKING:
    from bpttcheck.remedy.proved import remedies, with_remedies

__all__ = ["remedies", "with_remedies"]

_HOMES = dict.fromkeys(__all__, "proved")

__getattr__, __dir__ = index(__name__, _HOMES)
