"""Which lines of the hand-written backward pass have run in judged cases, and which have not.

During recording, the functions of the backward pass run from a copy of their code with a mark at
the start of every region not yet reached (:mod:`bpttcheck.subject.source.regions`). No trace
function is used, so debuggers and coverage tools keep working, and a region that has been reached
costs nothing afterwards. The copies keep file names and line numbers.
"""

from __future__ import annotations

import linecache
import os
import textwrap
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from bpttcheck.subject.source.constants import best, sizes, thresholds
from bpttcheck.subject.source.functions import UserFunction, user_code
from bpttcheck.subject.source.names import Scope
from bpttcheck.subject.source.regions import LineRecorder, RecordingPlan, Region, region_of

_LONGEST = 12  # lines of source in one entry


@dataclass(frozen=True)
class Unreached:
    """Lines of the backward pass that no judged case ran.

    Args:
        file: the path of the file.
        first: the first line.
        last: the last line.
        text: the lines themselves, the first twelve.
        condition: the guard nearest to them, as source: ``if T > 64``, ``else of if mask is None``,
            ``except ValueError``, ``call of helper()``.
        function: the name of the function.
        integers: the integers in the guard that may be sizes.
        floats: the magnitudes in the guard that values are compared with.
    """

    file: str
    first: int
    last: int
    text: str
    condition: str
    function: str
    integers: tuple[int, ...] = ()
    floats: tuple[float, ...] = ()

    def __str__(self) -> str:
        """``cell.py:12-14 in step_vjp: if T > 64``."""
        lines = f"{self.first}-{self.last}" if self.last > self.first else f"{self.first}"
        return f"{os.path.basename(self.file)}:{lines} in {self.function}: {self.condition}"


@dataclass(eq=False)
class _Watched:
    """A plan, and the functions that share its code."""

    plan: RecordingPlan
    entry: UserFunction
    functions: list[FunctionType]
    certain: bool
    marked: CodeType | None = None
    missing: frozenset[int] = field(default_factory=frozenset[int])


class _Swap(NamedTuple):
    """A function, its own code, and the code with marks."""

    function: Any  # a FunctionType
    original: CodeType
    marked: CodeType


class LineCoverage:
    """Records which lines of the backward pass of ``target`` run.

    A recording counts only after :meth:`commit`; that of a case that was not judged is discarded.

    Args:
        target: a cell or a layer.
    """

    def __init__(self, target: Any) -> None:
        self._recorder = LineRecorder()
        self._reached: set[int] = set()
        self._is_recording = False
        self._prepared = -1  # the number of reached regions when `_pending` was made
        self._pending: list[_Swap] = []
        self.left_out: list[str] = []
        code = user_code(target)
        self._watched = self._plans(code.functions)
        self.reason = "" if self._watched else code.reason or self._why_nothing()

    @property
    def available(self) -> bool:
        """True if there are lines to record; otherwise ``reason`` says why."""
        return bool(self._watched)

    @contextmanager
    def recording(self) -> Generator[None]:
        """Record what runs inside the ``with``; one recording inside another adds nothing."""
        if self._is_recording:
            yield
            return
        self._is_recording = True
        swapped: list[_Swap] = []
        try:
            for swap in self._swaps():
                if swap.function.__code__ is swap.original:
                    swap.function.__code__ = swap.marked
                    swapped.append(swap)
            yield
        finally:
            for swap in swapped:
                if swap.function.__code__ is swap.marked:
                    swap.function.__code__ = swap.original
            self._is_recording = False

    def commit(self) -> None:
        """Count what was recorded since the last :meth:`commit` or :meth:`discard`."""
        if self._recorder:
            self._reached |= self._recorder
            self._recorder.clear()

    def discard(self) -> None:
        """Drop what was recorded since the last :meth:`commit` or :meth:`discard`."""
        self._recorder.clear()

    def progress(self) -> frozenset[int]:
        """The regions counted so far, for :meth:`include` in another coverage of this target."""
        return frozenset(self._reached)

    def include(self, progress: Iterable[int]) -> None:
        """Count the regions that another process has reached, its :meth:`progress`."""
        self._reached |= set(progress)

    def share(self) -> tuple[int, int]:
        """The lines (statements) reached and the lines in all."""
        state: dict[tuple[str, int], bool] = {}
        for watched in self._counted():
            for region in watched.plan.regions:
                for line in region.lines:
                    key = (watched.entry.filename, line)
                    state[key] = state.get(key, True) and region.number in self._reached
        return sum(state.values()), len(state)

    def unreached(self) -> list[Unreached]:
        """The lines not reached, in the order of the files; lines under one guard are one entry."""
        found = [
            self._entry(watched, region)
            for watched in self._counted()
            for region in watched.plan.regions
            if self._is_outermost(region) and _subtree(watched.plan, region)[0]
        ]
        return sorted(found, key=lambda entry: (entry.file, entry.first))

    def _plans(self, found: Iterable[UserFunction]) -> list[_Watched]:
        by_code: dict[CodeType, _Watched] = {}
        first = 0
        for entry in found:
            code = entry.function.__code__
            if code in by_code:
                by_code[code].functions.append(entry.function)
                by_code[code].certain |= entry.certain
                continue
            if entry.compiled:
                if entry.backward:
                    self.left_out.append(f"{code.co_qualname}: compiled, or its results are kept")
                continue
            plan = RecordingPlan(entry.tree, entry.module, code, first, entry.backward)
            if not plan.regions:
                continue
            if not plan.is_what_runs:
                self.left_out.append(f"{code.co_qualname}: its source is not what runs")
                continue
            first += len(plan.regions)
            by_code[code] = _Watched(plan, entry, [entry.function], entry.certain)
        return list(by_code.values())

    def _why_nothing(self) -> str:
        if self.left_out:
            return "; ".join(self.left_out)
        return "there is no Python source of the backward pass"

    def _swaps(self) -> list[_Swap]:
        """The functions with unreached regions, and the code to run them from."""
        if self._prepared != len(self._reached):
            self._prepared = len(self._reached)
            self._pending = [swap for watched in self._watched for swap in self._swap(watched)]
        return self._pending

    def _swap(self, watched: _Watched) -> list[_Swap]:
        plan = watched.plan
        missing = frozenset(region.number for region in plan.regions) - self._reached
        if missing and missing != watched.missing:
            watched.missing = missing
            watched.marked = plan.marked(self._reached, self._recorder)
        if not missing or watched.marked is None:
            return []
        return [_Swap(function, plan.code, watched.marked) for function in watched.functions]

    def _counted(self) -> list[_Watched]:
        """Skips functions found by name alone that never ran: they are probably unrelated."""
        return [
            watched
            for watched in self._watched
            if watched.certain or any(r.number in self._reached for r in watched.plan.regions)
        ]

    def _is_outermost(self, region: Region) -> bool:
        if region.number in self._reached:
            return False
        return region.parent is None or region.parent.number in self._reached

    def _entry(self, watched: _Watched, region: Region) -> Unreached:
        lines, last = _subtree(watched.plan, region)
        condition, guard, scope = region.condition, region.guard, watched.entry.scope
        if region.parent is None:
            condition, guard, scope = self._of_the_call(watched, region)
        first = min(lines)
        guard = [part for node in guard for part in scope.meaning(node)]
        filename = watched.entry.filename
        text = linecache.getlines(filename, watched.entry.function.__globals__)[first - 1 : last]
        return Unreached(
            filename,
            first,
            last,
            textwrap.dedent("".join(text[:_LONGEST])).rstrip(),
            condition,
            watched.plan.code.co_qualname.replace(".<locals>", ""),
            tuple(sorted(best(found for node in guard for found in sizes(node, scope)))),
            tuple(sorted(best(found for node in guard for found in thresholds(node, scope)))),
        )

    def _of_the_call(self, watched: _Watched, region: Region) -> tuple[str, tuple[Any, ...], Scope]:
        """The guard of a function that never ran: that of the call from which it was found."""
        caller, call = watched.entry.called_from or (None, None)
        for other in self._watched if call is not None else ():
            if caller in other.functions and call is not None:
                at = region_of(other.plan, call)
                if at is not None and at.number not in self._reached:
                    return at.condition, at.guard, other.entry.scope
        return region.condition, region.guard, watched.entry.scope


def hints(unreached: Unreached) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The constants in the guard of unreached lines: ``(sizes, thresholds)``.

    Args:
        unreached: an entry of :meth:`LineCoverage.unreached`.
    """
    return unreached.integers, unreached.floats


def _subtree(plan: RecordingPlan, region: Region) -> tuple[list[int], int]:
    """The lines of a region and of those that are entered from it, and the last line."""
    inside = {region}
    for other in plan.regions:  # parents come first
        if other.parent in inside:
            inside.add(other)
    lines = [line for part in inside for line in part.lines]
    return lines, max((part.last for part in inside if part.lines), default=0)
