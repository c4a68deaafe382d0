"""Runs a program's native NumPy code unmodified and records every branch it takes.

A difference quotient is an estimate of a derivative only if the program took the same branches at
every point that it uses. The branches are the arguments of comparisons, ``maximum``, ``clip``,
``abs``, ``sign``, sorting, rounding and their kin; ``where`` and ``if`` branch on comparisons.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.branches.events import Event
from bpttcheck.oracles.branches.recorded import Recorded, unwrap
from bpttcheck.oracles.branches.recorder import BranchRecorder

Array = NDArray[Any]
Function = Callable[[list[Array]], list[Array]]


@dataclass(frozen=True)
class Difference:
    """The first branch that two runs took differently.

    Args:
        event: the branch, ``"maximum at cell.py:12: z = np.maximum(z, 0)"``.
        from_tie: true if the first run lay exactly on the threshold there.
    """

    event: str
    from_tie: bool


@dataclass(frozen=True, eq=False)
class Pattern:
    """Every branch of one run; equal to another if and only if all branches are the same.

    A tie (exactly at a threshold) is a branch of its own, so a point on a kink is equal to none of
    its neighbours in a direction that leaves the kink.

    Args:
        events: the branches in order.
        unseen: where values left NumPy (``float(z)``): branches on them are not in the pattern.
        narrowest: the item size in bytes of the narrowest floating result seen (4: float32).
    """

    events: tuple[Event, ...]
    unseen: tuple[str, ...] = ()
    narrowest: int = 8

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        return tuple((event.name, event.key) for event in self.events)

    def __eq__(self, other: object) -> bool:
        """True if every branch is the same."""
        return isinstance(other, Pattern) and self._key == other._key

    def __hash__(self) -> int:
        """Of the branches."""
        return hash(self._key)

    @cached_property
    def margin(self) -> float:
        """The smallest distance of a decision from its threshold, relative; ``inf`` without any.

        Relative to the largest argument that the same line was given anywhere in the run: an entry
        compared with zero has no scale of its own.
        """
        groups: defaultdict[tuple[str, Any], list[Event]] = defaultdict(list)
        for event in self.events:
            groups[event.name, event.line].append(event)
        return min((_margin(group) for group in groups.values()), default=np.inf)

    def difference(self, other: Pattern) -> Difference | None:
        """The first branch where ``other`` departs from this run, or ``None``."""
        for mine, its, key, its_key in zip(self.events, other.events, self._key, other._key):  # noqa: B905 - see below
            if key != its_key:
                alike = mine.name == its.name and mine.codes.shape == its.codes.shape
                tied = alike and bool(np.any(mine.ties[mine.codes != its.codes]))
                return Difference(str(mine), tied)
        # Equal so far: one run took more branches, which only values unseen here can cause.
        if len(self.events) == len(other.events):
            return None
        longer = max(self.events, other.events, key=len)
        return Difference(str(longer[min(len(self.events), len(other.events))]), from_tie=False)


def record(function: Function, point: Sequence[Array]) -> tuple[list[Array], Pattern | None]:
    """Run ``function`` at ``point`` and say which branches it took.

    The outputs have the same bits as those of a plain run.

    Args:
        function: takes a list of arrays, returns a list of arrays; plain NumPy inside.
        point: the arrays to run it on; never written to.

    Returns:
        The outputs as plain arrays, and the pattern; ``None`` for a pattern if the code runs on
        plain arrays only (a compiled extension that refuses a subclass).
    """
    recorder = BranchRecorder()
    try:
        with recorder, np.errstate(all="ignore"):
            outputs = function([np.array(leaf).view(Recorded) for leaf in point])
            outputs = [unwrap(output) for output in outputs]
    except Exception:
        # Perhaps only because of the subclass: the plain run decides, and raises what is real.
        return plain(function, point), None
    events = tuple(kind(*fields) for kind, fields in recorder.events)
    return outputs, Pattern(events, tuple(recorder.unseen), recorder.narrowest)


def plain(function: Function, point: Sequence[Array]) -> list[Array]:
    """Run ``function`` on copies of ``point`` without recording."""
    with np.errstate(all="ignore"):
        return [np.asarray(output) for output in function([np.array(leaf) for leaf in point])]


def _margin(group: list[Event]) -> float:
    scale = max(event.scale for event in group)
    gaps = [float(np.nanmin(event.gaps)) for event in group if not np.all(np.isnan(event.gaps))]
    gap = min(gaps, default=np.inf)
    return 0.0 if gap == 0 else gap / max(scale, np.finfo(np.float64).tiny)
