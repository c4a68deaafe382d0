"""The working tree beside another revision, in one run: ``bpttcheck bench --compare BASE``.

``revisions`` checks the revision out and times both in turns, ``child`` is the process of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpttcheck.lazy import index

if TYPE_CHECKING:
    from bpttcheck.cli.beside.revisions import (
        RevisionTask,
        checked_out,
        compare_revisions,
        resolved,
        revision,
    )

__all__ = ["RevisionTask", "checked_out", "compare_revisions", "resolved", "revision"]

_HOMES = dict.fromkeys(__all__, "revisions")

__getattr__, __dir__ = index(__name__, _HOMES)
