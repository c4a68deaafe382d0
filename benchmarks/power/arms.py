"""The arms of the comparison: identical inputs, one regime after another, equal evaluations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.power import ours
from benchmarks.power.bench import CELLS, DTYPES, SIZES, Bench, checkers, name_of
from benchmarks.power.flat import Calls
from benchmarks.power.peers import Answer, Peer, Settings
from benchmarks.power.records import OURS, Trial
from bpttcheck.judge.run import Run
from bpttcheck.mutants.base import Mutant
from bpttcheck.problems.problem import REGIMES, Problem
from bpttcheck.subject.subject import Subject

IDENTICAL, BEST, REGIME = "identical", "best", "regime"
EQUAL_FIXED, EQUAL_OURS = "equal, fixed inputs", "equal, our strategies"

Best = Mapping[tuple[str, str], Settings | None]


@dataclass(frozen=True)
class Amounts:
    """How much is measured.

    Args:
        mutants: mutants of each family, cell and dtype at identical inputs.
        inputs: inputs of each cell and dtype; right code is judged at each.
        regimes: mutants of each cell, dtype and regime.
        alarms: inputs of each cell, dtype and regime; right code is judged at each.
        climbs: problems of each cell and dtype on the ladder.
        checks: whole checks of each cell and dtype on the ladder.
        budgets: mutants of each cell in the arm of equal evaluations, each of another family.
        examples: cases of the check that sets the number of evaluations.
        words: mutants of each cell whose messages are read.
        tuning: problems of right code for tuning.
    """

    mutants: int
    inputs: int
    regimes: int
    alarms: int
    climbs: int
    checks: int
    budgets: int
    examples: int
    words: int
    tuning: int


def identical(bench: Bench, peers: Sequence[Peer], best: Best, amounts: Amounts) -> Iterator[Trial]:
    """Defaults and best settings, both on the same ordinary inputs."""
    for dtype in DTYPES:
        problems = [bench.problem("ordinary", dtype, i) for i in range(amounts.inputs)]
        bugs = list(bench.sample(amounts.mutants, problems[0].case))
        for peer in checkers(peers):
            trials = list(_judged(bench, peer, IDENTICAL, problems, bugs, None, scalar=False))
            yield from trials
            settings = best.get((peer.name, dtype)) if peer else None
            if peer is None:  # there is nothing to set
                yield from (replace(trial, arm=BEST) for trial in trials)
            elif settings:
                yield from _judged(bench, peer, BEST, problems, bugs, settings, scalar=False)


def regimes(bench: Bench, peers: Sequence[Peer], amounts: Amounts) -> Iterator[Trial]:
    """One look at one input of each regime, with the problem's own cotangents for everybody."""
    for number, regime in enumerate(REGIMES):
        for dtype in DTYPES:
            problems = [bench.problem(regime, dtype, i) for i in range(amounts.alarms)]
            shown = list(bench.sample(1, problems[0].case, stream=10 + number))
            start = (number + CELLS.index(bench.name)) * amounts.regimes % max(len(shown), 1)
            bugs = (shown[start:] + shown[:start])[: amounts.regimes]
            for peer in checkers(peers):
                if regime == "long" and peer is not None and peer.name in TOO_LONG:
                    continue
                yield from _judged(bench, peer, REGIME, problems, bugs, None, scalar=True)


TOO_LONG = ("torch gradcheck", "pytensor")
"""Peers that perturb every input: hundreds of passes over a long sequence for one look."""


def _judged(
    bench: Bench, peer: Peer | None, arm: str, problems: Sequence[Problem],
    bugs: Sequence[Mutant], settings: Settings | None, *, scalar: bool,
) -> Iterator[Trial]:  # fmt: skip
    """The right code at every problem, then each mutant at one of them."""
    alarms: list[bool] = []
    for problem in problems:
        answer = bench.ask(peer, bench.cell, problem, settings=settings, scalar=scalar)
        alarms.append(answer.flagged)
        yield _trial(bench, peer, arm, problem, None, answer, answer.flagged)
    for number, bug in enumerate(bugs):
        problem = problems[number % len(problems)]
        target = bug.plant(bench.cell)
        answer = bench.ask(peer, target, problem, settings=settings, scalar=scalar)
        yield _trial(bench, peer, arm, problem, bug, answer, alarms[number % len(problems)])


def _trial(
    bench: Bench, peer: Peer | None, arm: str, problem: Problem, bug: Mutant | None,
    answer: Answer, alarm: bool,
) -> Trial:  # fmt: skip
    case = problem.case
    family, name = (bug.family, bug.name) if bug else ("", "")
    return Trial(
        arm, name_of(peer), bench.name, case.dtype, case.regime, family, name, answer.flagged,
        alarm, answer.forward, answer.backward, answer.traced, answer.seconds, answer.spent,
    )  # fmt: skip


def equal(bench: Bench, peers: Sequence[Peer], amounts: Amounts) -> Iterator[Trial]:
    """As many forward evaluations for every peer as one whole check takes.

    A peer spends them on ordinary inputs drawn again, and in a second arm on the cases of the check
    itself: sizes, lengths, masks, regimes and cotangents. All in float64, at the defaults.
    """
    dtypes = ("float64",)
    granted = ours.passes_of_a_check(bench.cell, amounts.examples, bench.seed, dtypes)
    passes = granted.forward + granted.traced
    base = Run(Subject(bench.cell), bench.seed, dtypes)
    base.fork(base.subject)
    bugs: list[Mutant | None] = [None, *_every_second(bench, amounts.budgets)]
    fixed = functools.cache(lambda i: bench.problem("ordinary", "float64", i))
    generated = functools.cache(lambda i: _again(base, i, amounts.examples))
    inputs = {EQUAL_FIXED: fixed, EQUAL_OURS: generated}
    alarms: dict[tuple[str, str], bool] = {}
    for bug in bugs:
        family, name = (bug.family, bug.name) if bug else ("", "")
        # A cell that remembers must not remember the checker before.
        plant = bug.plant if bug else lambda cell: cell
        fails = ours.check_fails(base, plant(bench.cell), amounts.examples)
        for arm, problems in inputs.items():
            known = (bench.name, "float64", "", family, name)
            alarm = alarms.setdefault((arm, OURS), fails and bug is None)
            yield Trial(arm, OURS, *known, fails, alarm, granted.forward, granted.backward,
                        granted.traced, granted.seconds)  # fmt: skip
            for peer in peers:
                scalar = arm == EQUAL_OURS
                answer = _until_spent(bench, peer, plant(bench.cell), problems, passes, scalar)
                alarm = alarms.setdefault((arm, peer.name), answer.flagged and bug is None)
                yield Trial(arm, peer.name, *known, answer.flagged, alarm, answer.forward,
                            answer.backward, 0, answer.seconds, answer.spent)  # fmt: skip


def _every_second(bench: Bench, count: int) -> list[Mutant]:
    """A mutant of every second family, so that two cells together have them all."""
    sample = list(bench.sample(1, stream=2))
    start = CELLS.index(bench.name)
    order = dict.fromkeys((start + 2 * i) % len(sample) for i in range(len(sample)))
    return [sample[at] for at in sorted(list(order)[:count])]


def _until_spent(
    bench: Bench,
    peer: Peer,
    target: Any,
    problems: Callable[[int], Problem],
    passes: int,
    scalar: bool,
) -> Answer:
    """Ask again and again, at one problem after another, until flagged or out of passes."""
    calls, seconds, index = Calls(granted=passes), 0.0, 0
    while True:
        before = calls.forward
        answer = bench.ask(peer, target, problems(index), scalar=scalar, calls=calls)
        seconds, index = seconds + answer.seconds, index + 1
        # A look that does not run the code at all would never end.
        if answer.flagged or calls.spent or calls.forward in (before, passes):
            return replace(
                answer, forward=calls.forward, backward=calls.backward, seconds=seconds,
                spent=calls.spent,
            )  # fmt: skip


def _again(run: Run, index: int, examples: int) -> Problem:
    """The cases of a check; after the last one the first comes again, with other numbers."""
    return run.cases.problem(run.cases.case(index % examples), index // examples)


def fixed_size() -> str:
    """The fixed size in words."""
    return ", ".join(f"{key} {value}" for key, value in SIZES.items())
