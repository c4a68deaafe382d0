"""What needs other programs, or whole checks: kinks, the ingredients of the noise, laws, shares."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.calibration.cells import correct
from benchmarks.calibration.collect import STANDING, Records, View, collect, copies
from benchmarks.common import DTYPES, compared, problems
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.judge.tally import Tally
from bpttcheck.oracles.autodiff import noise, programs
from bpttcheck.subject.subject import Subject
from bpttcheck.verify import law
from bpttcheck.verify.checks import CHECKS
from bpttcheck.verify.checks.base import Context, NotApplicable

MARGINS = (0.0, 1.0, 4.0, 16.0, 64.0)
LAW_COUNTS = (2, 4, 8)
SHARES = (0.0, 0.01, 0.05, 0.1, 0.2)

INGREDIENTS: dict[str, list[tuple[Any, str, Any]]] = {
    "all of it": [],
    "derivative noise of scale 1 for powers too": [
        (noise, "_SATURATING", noise._SATURATING | noise._POWERS)
    ],
    "no derivative noise for powers": [(noise, "_POWERS", frozenset())],
    "no derivative noise": [(noise, "_curved", lambda *_: [])],
    "input noise only": [(noise, "_rounds", lambda *_: False)],
    "no input noise": [(programs, "_perturbed", lambda inputs, eps, key: inputs)],
    "no free branches": [(noise, "KINK_MARGIN", -math.inf)],
}
"""What is taken out of the noise, or put in, and how."""


def with_margin(margin: float, names: Sequence[str], regimes: Sequence[str], cases: int) -> View:
    """Cells with kinks, their branches free within ``margin`` spreads of the threshold."""
    with programs.CACHE.apart(), mock.patch.object(noise, "KINK_MARGIN", margin):
        return collect(names, regimes, cases, differences=False).seen_as(STANDING)


def with_ingredients(name: str, names: Sequence[str], regimes: Sequence[str], cases: int) -> View:
    """Cells under another noise: see :data:`INGREDIENTS`."""
    with programs.CACHE.apart(), contextlib.ExitStack() as stack:
        for module, attribute, value in INGREDIENTS[name]:
            stack.enter_context(mock.patch.object(module, attribute, value))
        return collect(names, regimes, cases, differences=False).seen_as(STANDING)


def milliseconds(count: int, name: str = "lstm", repeats: int = 20) -> float:
    """Time of one case with ``count`` copies, compilation left out: the fastest of several."""
    run = Run(Subject(correct(name)), 0, ("float64",))
    (problem, template), *_ = problems(run, "ordinary", "float64", 3, start=2)
    times: list[float] = []
    with copies(count):
        compared(run, SEQUENCE, problem, template)
        for _ in range(repeats):
            started = time.perf_counter()
            run.jax.gradient(SEQUENCE, problem, template)
            times.append(time.perf_counter() - started)
    return 1e3 * min(times)


@dataclass(frozen=True)
class Share:
    """In how many of its cases one check judged one block of a correct cell."""

    cell: str
    check: str
    block: str
    dtype: str
    judged: int
    cases: int

    @property
    def value(self) -> float:
        """The share."""
        return self.judged / self.cases


@dataclass(frozen=True)
class Law:
    """The largest ratio of one law on one correct cell, and how many of its cases failed."""

    cell: str
    law: str
    ratio: float
    failures: int
    cases: int


LAWS = (
    "linearity", "batch_additivity", "time_splitting", "causality", "masking", "zero_length"
)  # fmt: skip
JUDGING = ("step_vjp", "sequence_vjp", "initial_state", *LAWS)


def laws(count: int, names: Sequence[str], examples: int) -> list[Law]:
    """Every law on correct cells, its bar from ``count`` perturbed runs."""
    found: list[Law] = []
    with mock.patch.object(law, "LAW_COPIES", count):
        for name in names:
            run = Run(Subject(correct(name)), 0, DTYPES)
            for check, tally in _tallies(run, LAWS, examples):
                ratios = [b.worst_ratio for b in tally.blocks()]
                worst = np.nanmax(ratios, initial=0.0) if ratios else 0.0
                found.append(Law(name, check, float(worst), tally.failures, tally.cases))
    return found


def shares(names: Sequence[str], examples: int) -> list[Share]:
    """How often each check judges each block that is not zero in every case."""
    found: list[Share] = []
    for name in names:
        run = Run(Subject(correct(name)), 0, DTYPES)
        for check, tally in _tallies(run, JUDGING, examples):
            null = tally.null_blocks()
            for b in tally.blocks():
                if b.block not in null:
                    total = len(tally._seen[b.block, b.dtype])
                    found.append(Share(name, check, b.block, b.dtype, b.judged, total))
        print(f"  {name}: {len(found)} blocks", flush=True)
    return found


def _tallies(run: Run, names: Sequence[str], examples: int) -> Iterator[tuple[str, Tally]]:
    for check in names:
        function: Callable[[Context], Tally] = CHECKS[check].run
        with contextlib.suppress(NotApplicable):
            yield check, function(Context(run, examples))


@dataclass(frozen=True)
class Measured:
    """Everything that the page prints.

    Args:
        records: the blocks of correct cells.
        milliseconds: time of one case for each number of copies.
        margins: cells with kinks for each margin.
        ingredients: cells under a noise with something taken out.
        laws: for each number of perturbed runs.
        shares: how often each check judges each block.
        seconds: how long it all took.
    """

    records: Records
    milliseconds: Mapping[int, float]
    margins: Mapping[float, View]
    ingredients: Mapping[str, View]
    laws: Mapping[int, Sequence[Law]]
    shares: Sequence[Share]
    seconds: float
