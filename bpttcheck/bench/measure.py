"""One subject measured: correctness first, then rounds, then ratios."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.bench import correct, peak, sizes, statistics
from bpttcheck.bench.differences import STEPS, errors_against_steps
from bpttcheck.bench.form import Ready
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
from bpttcheck.bench.summarise import exponents, headline, same_over, summaries
from bpttcheck.bench.timing import Samples, once, rounds
from bpttcheck.errors import ContractError, Declined, GradientMismatch
from bpttcheck.jax_mode import enable_x64
from bpttcheck.problems.problem import Problem, build
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
        given: True if somebody asked for these very sizes.
        seed: of the inputs.
    """

    sizes: Sequence[Size]
    dtypes: Sequence[str] = ("float64",)
    count: int = 15
    given: bool = False
    seed: int = 0


def measure(
    target: str, candidate: Any, plan: Plan, progress: Progress = lambda *_: None
) -> SubjectBenchmark:
    """Time every form of ``candidate`` at every size and dtype of the plan.

    JAX runs on the CPU, in 64-bit mode for float64 and float32 alike, within this call only.

    Args:
        target: what it was called on the command line.
        candidate: a cell, a layer or a :class:`bpttcheck.Subject`.
        plan: what to measure.
        progress: is told ``(done, total, what)``.

    Raises:
        ContractError: it is neither cell nor layer, or breaks its contract.
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
            point, curve = _point(subject, build(subject, case), size, size == smallest, plan.count)
            points.append(point)
            curves += [] if curve is None else [curve]
    found, name = summaries(points), subject.name.removesuffix("()")
    return SubjectBenchmark(
        target=target,
        name=name,
        headlines=[headline(name, dtype, found, points) for dtype in plan.dtypes],
        points=points,
        summaries=found,
        exponents=exponents(points),
        v_curves=curves,
        same=same_over(points),
    )


def _case(size: Size, dtype: str, seed: int) -> Case:
    return Case(seed, 0, size.T, size.B, size.n_in, size.n_hidden, dtype, "none", "ordinary")


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
    flops, dtype = peak.operations(subject.target, size), problem.case.dtype
    return MeasuredPoint(size, dtype, baseline, timings, same, absent, again, flops), curve


def _ready(
    subject: Subject, problem: Problem, smallest: bool
) -> tuple[dict[str, Ready], dict[str, str], dict[str, tuple[float, Any]]]:
    """The forms that exist here, why others do not, and seconds and blocks of the first calls."""
    ready: dict[str, Ready] = {}
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
    return Size(case.T, case.B, case.n_in, case.n_hidden)


def _right(
    subject: Subject, problem: Problem, ready: dict[str, Ready]
) -> tuple[correct.Right, float]:
    """The right gradient; where JAX has none, the hand-written one once differences confirm it."""
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


def _rounds(ready: dict[str, Ready], count: int) -> dict[str, Samples]:
    actions = {key: made.run for key, made in ready.items()}
    fewer = {key: FEW_ROUNDS for key in ready if FORMS[key].smallest_only}
    return rounds({**actions, _SAME: ready["numpy"].run}, count, fewer)


def _timing(
    key: str,
    ready: Ready,
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


def _floor(ready: Ready) -> tuple[float, float] | tuple[None, None]:
    try:
        return (None, None) if ready.floor is None else ready.floor()
    except Declined:
        return None, None
