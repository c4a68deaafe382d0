"""One subject measured: correctness first, then interleaved rounds, then ratios.

In a round every implementation runs once, in a new random order.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.bench import correct, machine, sizes, statistics
from bpttcheck.bench.correct import STEPS, errors_against_steps
from bpttcheck.bench.form import PreparedRun
from bpttcheck.bench.forms import BASELINES, FEW_ROUNDS, FORMS, NUMPY
from bpttcheck.bench.report.records import (
    HAND,
    Interval,
    MeasuredPoint,
    Size,
    SubjectBenchmark,
    Timing,
    VCurve,
)
from bpttcheck.bench.statistics import exponents, headline, same_over, summaries
from bpttcheck.errors import ContractError, Declined, GradientMismatch
from bpttcheck.jax_mode import enable_x64
from bpttcheck.problems.cases import build
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.validate import validate_cell

Progress = Callable[[int, int, str], None]
_SAME = "the same again"


@dataclass(frozen=True)
class Plan:
    """What is measured of each subject.

    Args:
        sizes: the sizes.
        dtypes: the dtypes.
        count: rounds.
        given: True if the user asked for exactly these sizes.
        seed: of the inputs.
        load: of the machine before the run.
    """

    sizes: Sequence[Size]
    dtypes: Sequence[str] = ("float64",)
    count: int = 15
    given: bool = False
    seed: int = 0
    load: list[float] | None = None


def measure(
    target: str, candidate: Any, plan: Plan, progress: Progress = lambda *_: None
) -> SubjectBenchmark:
    """Time every form of ``candidate`` at every size and dtype of the plan.

    JAX runs on the CPU, in 64-bit mode for float64 and float32 alike, within this call only.

    Args:
        target: its name on the command line.
        candidate: a cell, a layer or a :class:`bpttcheck.Subject`.
        plan: what to measure.
        progress: called as ``progress(done, total, what)``.

    Raises:
        ContractError: it is neither cell nor layer nor function, or breaks its contract.
        GradientMismatch: a hand-written gradient is wrong; nothing of that point was timed.
    """
    import jax

    subject = Subject.of(candidate)
    chosen = sizes.fitting(subject, plan.sizes, plan.given)
    smallest = min(chosen, key=sizes.work)
    todo = [(size, dtype) for dtype in plan.dtypes for size in chosen]
    points: list[MeasuredPoint] = []
    curves: list[VCurve] = []
    with enable_x64(), jax.default_device(jax.devices("cpu")[0]), np.errstate(all="ignore"):
        for done, (size, dtype) in enumerate(todo):
            progress(done, len(todo), f"{size} {dtype}")
            case = _case(size, dtype, plan.seed)
            _validate(subject, case)
            problem = _problem(subject, case)
            point, curve = _point(subject, problem, size_of(problem), size == smallest, plan.count)
            points.append(point)
            curves += [] if curve is None else [curve]
    found, name = summaries(points), subject.name.removesuffix("()")
    busy = machine.busy(plan.load, os.cpu_count() or 1)
    return SubjectBenchmark(
        target=target,
        name=name,
        headlines=[headline(name, dtype, found, points, busy) for dtype in plan.dtypes],
        points=points,
        summaries=found,
        exponents=exponents(points),
        v_curves=curves,
        same=same_over(points),
    )


def _case(size: Size, dtype: str, seed: int) -> Case:
    return Case(seed, 0, size.T, size.B, size.n_in, size.n_hidden, dtype, "none", "ordinary")


def _problem(subject: Subject, case: Case) -> Problem:
    """The point; T, B, n_in and n_hidden are sizes of the letters of a function."""
    if subject.traits.signature is None:
        return build(subject, case)
    from bpttcheck.problems.function_cases import build_function
    from bpttcheck.problems.values import FREE

    return build_function(subject, case, 0, FREE)


def _validate(subject: Subject, case: Case) -> None:
    if subject.kind == "cell":
        validate_cell(
            subject.target, n_in=case.n_in, n_hidden=case.n_hidden, batch_size=case.B,
            dtype=case.dtype, rng=np.random.default_rng(case.seed),
        )  # fmt: skip


def _point(
    subject: Subject, problem: Problem, size: Size, smallest: bool, count: int
) -> tuple[MeasuredPoint, VCurve | None]:
    ready, absent, first = _ready(subject, problem, smallest)
    right, disagreement = _right(subject, problem, ready)
    judged: dict[str, tuple[float, float]] = {}
    for key, (_, blocks) in first.items():
        error, limit, wrong = _judge(key, right, blocks, problem.case)
        judged[key] = (max(error, disagreement) if key == "numpy" else error, limit)
        if wrong:
            absent[key] = wrong
            del ready[key]
    taken = _rounds(ready, count)
    again = taken.pop(_SAME).seconds
    same = statistics.ratio(again, taken["numpy"].seconds)
    seconds = {key: statistics.median(samples.seconds) for key, samples in taken.items()}
    baseline = min((key for key in BASELINES if key in taken), key=seconds.__getitem__, default="")
    timings = [
        _timing(key, made, taken, judged[key], first[key][0] if made.compiled else None, baseline)
        for key, made in ready.items()
    ]
    curve = None
    if smallest:
        errors = errors_against_steps(subject, problem, right.gradient)
        kept = [(h, float(e)) for h, e in zip(STEPS, errors, strict=True) if math.isfinite(e)]
        curve = VCurve(size, problem.case.dtype, [h for h, _ in kept], [e for _, e in kept])
    flops, dtype = machine.operations(subject.target, size), problem.case.dtype
    return MeasuredPoint(size, dtype, baseline, timings, same, absent, again, flops), curve


def _ready(
    subject: Subject, problem: Problem, smallest: bool
) -> tuple[dict[str, PreparedRun], dict[str, str], dict[str, tuple[float, Any]]]:
    """The available implementations, why others are not, and the first calls' times and blocks."""
    ready: dict[str, PreparedRun] = {}
    absent: dict[str, str] = {}
    first: dict[str, tuple[float, Any]] = {}
    for key, form in FORMS.items():
        if form.smallest_only and not smallest:
            absent[key] = "measured at the smallest size only"
            continue
        try:
            made = form.build(subject, problem)
            results: list[Any] = []
            took = once(lambda made=made, results=results: results.append(made.run()))
            first[key] = (took, made.blocks(results[0]))
        except Declined as error:
            absent[key] = str(error)
        except (ContractError, GradientMismatch):
            raise
        except Exception as error:
            said = (str(error).strip() or "no message").splitlines()[0]
            if key in NUMPY:
                raise ContractError(f"{subject.name} at {size_of(problem)}: {said}") from error
            absent[key] = f"{type(error).__name__}: {said}"
        else:
            ready[key] = made
    return ready, absent, first


def size_of(problem: Problem) -> Size:
    """The size of a problem."""
    case = problem.case
    letters = " ".join(f"{letter}={size}" for letter, size in case.letters)
    return Size(case.T, case.B, case.n_in, case.n_hidden, letters)


def _right(
    subject: Subject, problem: Problem, ready: dict[str, PreparedRun]
) -> tuple[correct.Right, float]:
    """The reference gradient; where JAX declines, the hand-written one confirmed by differences."""
    judge = next((ready[key] for key in BASELINES if key in ready), None)
    if judge is not None and judge.at is not None:
        return correct.right(judge.at, problem), 0.0
    own = ready["numpy"].at
    assert own is not None
    right = correct.right(own, problem)
    return right, correct.by_differences(subject, problem, right.gradient)


def _judge(key: str, right: correct.Right, blocks: Any, case: Case) -> tuple[float, float, str]:
    """``(error, limit, why it is not timed)``.

    Raises:
        GradientMismatch: a hand-written form is beyond its limit.
    """
    form = FORMS[key]
    block, error, limit = right.worst(blocks)
    if form.limit is not None:
        error, limit = right.error(blocks), form.limit[case.dtype]
    if error <= limit:
        return right.error(blocks), limit, ""
    said = f"{block} is off by {error:.2g} of its largest entry, allowed is {limit:.1g}"
    if key in HAND:
        raise GradientMismatch(
            f"{form.title}: {said} [{case}]: nothing was timed; `bpttcheck verify` says where and"
            " why"
        )
    return error, limit, f"not timed: {said}"


def _rounds(ready: dict[str, PreparedRun], count: int) -> dict[str, Samples]:
    actions = {key: made.run for key, made in ready.items()}
    fewer = {key: FEW_ROUNDS for key in ready if FORMS[key].smallest_only}
    return rounds({**actions, _SAME: ready["numpy"].run}, count, fewer)


def _timing(
    key: str,
    ready: PreparedRun,
    taken: dict[str, Samples],
    judged: tuple[float, float],
    first_call: float | None,
    baseline: str,
) -> Timing:
    own = taken[key]
    seconds = statistics.median(own.seconds)
    ratio: Interval | None = None
    if baseline and key != baseline:
        ratio = statistics.ratio(own.seconds, taken[baseline].seconds)
    by_hand = min(statistics.median(taken[k].seconds) for k in NUMPY if k in taken)
    pays = None if first_call is None else statistics.pays_off_after(first_call, seconds, by_hand)
    floor, calls_at_size = _floor(ready)
    return Timing(
        form=key, seconds=seconds, samples=own.seconds, calls=own.calls, error=judged[0],
        limit=judged[1], first_call=first_call, pays_off_after=pays, ratio=ratio,
        floor=floor, calls_at_size=calls_at_size,
    )  # fmt: skip


def _floor(ready: PreparedRun) -> tuple[float, float] | tuple[None, None]:
    try:
        return (None, None) if ready.floor is None else ready.floor()
    except Declined:
        return None, None


Action = Callable[[], object]
Clock = Callable[[], float]

# A sample lasts at least this long, so that the clock and the call of a closure do not count.
SHORTEST = 5e-3
_MOST_CALLS = 1000
# If one round of all actions is shorter than this, the number of rounds is multiplied by MORE.
SHORT_ROUND, MORE = 0.15, 5
# An action whose total would be longer than this takes part in fewer rounds.
_BUDGET, _FEWEST = 8.0, 3


@dataclass(frozen=True)
class Samples:
    """Seconds of one call in each round, and the number of calls averaged in a sample."""

    seconds: list[float]
    calls: int


def rounds(
    actions: Mapping[str, Action],
    count: int,
    fewer: Mapping[str, int] | None = None,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, Samples]:
    """Time every action at least ``count`` times, one after another in each round.

    Each is warmed up. The garbage collector is off during timing. Very slow actions take part in
    the first rounds only. If a round takes less than ``SHORT_ROUND`` seconds by the warm-up calls,
    there are ``MORE`` times as many; the number is fixed before the first round.

    Args:
        actions: what to time; each returns when its work is done.
        count: the rounds, at the least.
        fewer: actions that take part in the first rounds only, and in how many.
        seed: of the orders.
        clock: gives seconds.
    """
    fewer = fewer or {}
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    rng = np.random.default_rng(seed)
    gc.collect()  # once: with many objects alive it takes as long as a round
    with no_garbage_collection():
        took = {name: _warm(action, clock) for name, action in actions.items()}
        calls = {name: _calls(one) for name, one in took.items()}
        whole = sum(calls[name] * took[name] for name in actions if name not in fewer)
        number_of_rounds = MORE * count if whole < SHORT_ROUND else count
        turns = {
            name: max(
                min(_FEWEST, count), min(fewer.get(name, number_of_rounds), int(_BUDGET / one))
            )
            for name, one in took.items()
        }
        for number in range(number_of_rounds):
            taking_part = [name for name in actions if number < turns[name]]
            for index in rng.permutation(len(taking_part)):
                name = taking_part[index]
                seconds[name].append(_sample(actions[name], calls[name], clock))
    return {name: Samples(seconds[name], calls[name]) for name in actions}


def once(action: Action, clock: Clock = time.perf_counter) -> float:
    """Seconds of one call, without warm-up."""
    with no_garbage_collection():
        return _sample(action, 1, clock)


@contextmanager
def no_garbage_collection() -> Generator[None]:
    """No collection of garbage until the end."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _warm(action: Action, clock: Clock) -> float:
    """Seconds of one warm call: the best of three, of two where that is long enough."""
    took = min(_sample(action, 1, clock) for _ in range(2))
    return max(took if took >= SHORTEST else min(took, _sample(action, 1, clock)), 1e-9)


def _calls(took: float) -> int:
    """The number of calls that makes a sample long enough."""
    return min(math.ceil(SHORTEST / took), _MOST_CALLS)


def _sample(action: Action, calls: int, clock: Clock) -> float:
    start = clock()
    for _ in range(calls):
        action()
    return (clock() - start) / calls
