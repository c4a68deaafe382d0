"""A failure that is kept: stored, loaded, judged again, and as a script that needs NumPy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpttcheck.lazy import index

if TYPE_CHECKING:
    from bpttcheck.replay.record import Stored
    from bpttcheck.replay.stored import DIRECTORY, delete, example, listed, load, rerun, store

__all__ = ["DIRECTORY", "Stored", "delete", "example", "listed", "load", "rerun", "store"]

_HOMES = {
    "DIRECTORY": "stored",
    "Stored": "record",
    "delete": "stored",
    "example": "stored",
    "listed": "stored",
    "load": "stored",
    "rerun": "stored",
    "store": "stored",
}

__getattr__, __dir__ = index(__name__, _HOMES)
