"""Correct cells over random problems: each block once, measured under several sets of constants."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibration.cells import correct
from benchmarks.common import DTYPES, Compared, compared, problems
from bpttcheck.calibration import BLIND, BLOCK_FLOOR, COPIES, DIFFERENCE_LIMIT, LIMIT
from bpttcheck.judge import verdict
from bpttcheck.judge.case import GradientCase
from bpttcheck.judge.directions import LONGEST_DIFFERENCE, measured, random_direction
from bpttcheck.judge.run import SEQUENCE, Hand, Run
from bpttcheck.oracles.autodiff import autodiff, programs
from bpttcheck.oracles.autodiff.autodiff import Spread
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.subject import Subject

Array = NDArray[np.float64]
Width = tuple[int, float]
Group = tuple[str, ...]  # (cell, regime, dtype)
Case = tuple[str, str, str, int]

LIMITS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
COUNTS = (2, 4, 8, 16)
FLOORS = (0.0, 0.01, 0.05, 0.2)
BLINDS = (1e-3, 1e-2, 1e-1)
DIFFERENCE_LIMITS = (2.0, 4.0, 8.0, 16.0)
STANDING: Width = (COPIES, BLOCK_FLOOR)

WIDTHS: tuple[Width, ...] = tuple(
    dict.fromkeys(
        [STANDING, *((k, BLOCK_FLOOR) for k in COUNTS), *((COPIES, floor) for floor in FLOORS)]
    )
)
"""The ``(copies, block floor)`` under which every block is measured."""


def measure(block: Compared, width: Width) -> tuple[float, float, float]:
    """``(ratio, noise, seen)`` of one block under other constants.

    ``ratio`` is the largest error over its width ``s``; ``noise`` the largest ``s`` as a share of
    the block's largest entry, 0 for a block that is exactly zero; ``seen`` the resolution at
    limit 1.
    """
    copies, floor = width
    g, r = np.asarray(block.hand, np.float64), np.asarray(block.value, np.float64)
    with mock.patch.object(verdict, "BLOCK_FLOOR", floor), np.errstate(all="ignore"):
        s = verdict.width(r, block.copies[:copies], block.unit, block.tiny)
        error = np.abs(g - r)
        ratio = np.where(np.isfinite(error), error / s, np.inf).max(initial=0.0)
        largest = np.abs(r).max(initial=0.0)
        seen = np.min(np.where(r == 0, np.inf, s / np.abs(r)), initial=np.inf)
    return float(ratio), float(s.max(initial=0.0) / largest) if largest else 0.0, float(seen)


@dataclass
class Records:
    """One row for each block of each case."""

    case: list[Case] = field(default_factory=list)
    null: list[bool] = field(default_factory=list)
    measured: list[list[tuple[float, float, float]]] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)

    def add(self, case: Case, blocks: Iterable[Compared]) -> None:
        """Measure the blocks of one case: ``(cell, regime, dtype, number)``."""
        for block in blocks:
            value = np.asarray(block.value)
            if not (np.isfinite(value).all() and np.isfinite(block.copies).all()):
                continue
            self.case.append(case)
            self.null.append(not value.any())
            self.measured.append([measure(block, width) for width in WIDTHS])

    def seen_as(self, width: Width) -> View:
        """The rows under one ``(copies, floor)``."""
        table = np.array([row[WIDTHS.index(width)] for row in self.measured]).reshape(-1, 3)
        return View(self.case, np.array(self.null, bool), *table.T)


@dataclass(frozen=True)
class View:
    """All rows under one set of constants, as columns."""

    case: Sequence[Case]
    null: NDArray[np.bool_]
    ratio: Array
    noise: Array
    seen: Array

    @property
    def cases(self) -> int:
        """How many cases there are."""
        return len(set(self.case))

    def clear(self, blind: float = BLIND) -> NDArray[np.bool_]:
        """The rows that are evidence."""
        return self.noise <= blind

    def alarms(self, limit: float = LIMIT, blind: float = BLIND) -> int:
        """Cases in which a block that is evidence is called wrong."""
        rows = np.flatnonzero(self.clear(blind) & (self.ratio > limit))
        return len({self.case[i] for i in rows})

    def largest(self, blind: float = BLIND) -> tuple[float, str]:
        """The largest ratio and where it was."""
        (worst,) = self.worst_cells(1, blind) or [(0.0, ("nowhere",), 0)]
        return worst[0], ", ".join(worst[1])

    def worst_cells(self, count: int, blind: float = BLIND) -> list[tuple[float, Group, int]]:
        """The cells of the largest ratios: that ratio, where it was, and the cell's alarms."""
        worst: dict[str, tuple[float, Group]] = {}
        alarms: dict[str, set[Case]] = {}
        for i in np.flatnonzero(self.clear(blind)):
            case, ratio = self.case[i], float(self.ratio[i])
            worst[case[0]] = max(worst.get(case[0], (-1.0, case[:3])), (ratio, case[:3]))
            if ratio > LIMIT:
                alarms.setdefault(case[0], set()).add(case)
        order = sorted(worst.values(), reverse=True)[:count]
        return [(ratio, where, len(alarms.get(where[0], ()))) for ratio, where in order]

    def resolution(self, dtype: str, share: float, limit: float = LIMIT) -> float:
        """The worst block's resolution: a quantile over the ordinary cases of one dtype."""
        worst: dict[Case, float] = {}
        for i in np.flatnonzero(self.clear() & ~self.null):
            case = self.case[i]
            if case[1] == "ordinary" and case[2] == dtype:
                worst[case] = max(worst.get(case, 0.0), limit * float(self.seen[i]))
        return float(np.quantile(list(worst.values()), share)) if worst else float("nan")


@dataclass(frozen=True)
class Difference:
    """A finite difference beside ``<r, v>`` for JAX's gradient r and a random direction v.

    Args:
        dtype: the checked dtype.
        distance: in widths of the bar, the smaller of two directions where the first is off.
        first: the first direction's.
        bar: the bar's share of the difference.
    """

    dtype: str
    distance: float
    first: float
    bar: float


@contextlib.contextmanager
def copies(count: int) -> Iterator[None]:
    """Programs compiled and called inside have this many noisy copies."""
    with (
        mock.patch.object(programs, "COPIES", count),
        mock.patch.object(autodiff, "COPIES", count),
    ):
        yield


def collect(
    names: Sequence[str],
    regimes: Sequence[str],
    cases: int,
    seed: int = 0,
    differences: bool = True,
) -> Records:
    """Measure ``cases`` cases for each cell, regime and dtype."""
    records, started = Records(), time.perf_counter()
    for name in names:
        # Not prepared: nothing compiles in the background beyond the reach of a patch.
        run = Run(Subject(correct(name)), seed, DTYPES)
        for regime in regimes:
            for dtype in DTYPES:
                _collect(run, (name, regime, dtype), cases, records, differences)
        seconds = time.perf_counter() - started
        print(f"  {name}: {len(records.case)} blocks, {seconds:.0f} s", flush=True)
    return records


def _collect(
    run: Run, group: tuple[str, str, str], cases: int, records: Records, differences: bool
) -> None:
    _, regime, dtype = group
    for number, (problem, template) in enumerate(problems(run, regime, dtype, cases)):
        blocks = compared(run, SEQUENCE, problem, template)
        records.add((*group, number), blocks)
        if differences and problem.case.T <= LONGEST_DIFFERENCE:
            found = _difference(run, problem, blocks, number)
            records.differences.extend(found)


def _difference(
    run: Run, problem: Problem, blocks: Sequence[Compared], turn: int
) -> list[Difference]:
    """One random direction in one block, a second one if the first is off, as a check does it."""
    judged = [verdict.judge(b.block, b.hand, b.value, b.copies, b.unit, b.tiny) for b in blocks]
    names = [j.block for j in judged if j.usable and not j.blind and not j.null]
    if not names:
        return []
    hand = Hand({}, {b.block: b.hand for b in blocks})
    case = GradientCase(run, SEQUENCE, problem, hand, witnesses=[run.oracles["differences"]])
    spreads = {b.block: Spread(b.value, b.copies[:COPIES]) for b in blocks}
    distances: list[float] = []
    bar = np.inf
    for attempt in range(2):
        along = random_direction(case, [names[turn % len(names)]], attempt)
        witness = measured(case, along, spreads)
        if not np.isfinite(witness.bar):
            break
        value = float(witness.estimate.value)
        gap = abs(value - witness.reference)
        distances.append(gap / witness.bar if gap else 0.0)
        bar = min(bar, witness.bar / abs(value) if value else np.inf)
        if distances[0] <= min(DIFFERENCE_LIMITS):
            break
    if not distances:
        return [Difference(str(problem.dtype), np.nan, np.nan, np.inf)]
    return [Difference(str(problem.dtype), min(distances), distances[0], bar)]


def contradictions(found: Sequence[Difference], limit: float = DIFFERENCE_LIMIT) -> tuple[int, int]:
    """Differences off by more than ``limit`` in one direction, and in both that were asked."""
    return sum(d.first > limit for d in found), sum(d.distance > limit for d in found)
