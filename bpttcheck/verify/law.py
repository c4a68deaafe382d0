"""Laws: metamorphic relations of a right backward pass, which need no oracle.

A law compares two ways to compute the same numbers. Its error bar comes from the hand-written code
itself, by Monte Carlo arithmetic: how far both sides move when every operation in it is perturbed
by one rounding error. The floors and the limit are those of the error model. Where JAX judges the
gradients that a law compares, its judgement decides.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.blocks import Block
from bpttcheck.calibration import LAW_COPIES, LIMIT
from bpttcheck.contract import is_float
from bpttcheck.errors import BpttcheckError, ContractError, OutsideDomain
from bpttcheck.judge.gradient_finding import exception_finding
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.judge.shrink import shows, smallest
from bpttcheck.judge.tally import Tally
from bpttcheck.judge.verdict import Judged, judge, rounding
from bpttcheck.problems.cases import MOST_UNROLLED
from bpttcheck.problems.large import FIRST
from bpttcheck.problems.noisy_array import copies as noisy_copies
from bpttcheck.problems.noisy_array import deviations
from bpttcheck.problems.problem import Problem, Template, each_leaf, in_float64, nearest
from bpttcheck.results.records import Case, Finding, Measured
from bpttcheck.verify.checks.base import Context

Array = NDArray[Any]
Blocks = Mapping[str, Any]

Side = Callable[[Run, Problem], Blocks]
"""One side of a law: block name -> array."""

Entry = tuple[int, ...] | None
Location = tuple[Problem, str, Entry]
"""A problem, a gradient block of it, and an entry of that block."""


def _as_it_is(problem: Problem, block: str, entry: Entry) -> Location:
    return problem, block, entry


@dataclass(frozen=True)
class Law:
    """A metamorphic relation: two ways to compute the same numbers.

    Args:
        name: the check's name.
        expected: the side that is perturbed to find the bar.
        actual: the other side.
        sentence: what is wrong if they differ, with ``{block}`` for the block.
        least: the smallest T and B that mean anything.
        masks: False leaves masks out.
        parts: the problems whose gradients the law compares, for JAX to judge one by one; None: the
            law compares more than gradients.
        place: locates an entry of ``actual`` in a plain run: from the law's problem, block and
            entry to those of the hand-written code.
    """

    name: str
    expected: Side
    actual: Side
    message: str
    least: tuple[int, int] = (1, 1)
    masks: bool = True
    parts: Callable[[Run, Problem], list[Problem]] | None = None
    place: Callable[[Problem, str, Entry], Location] = _as_it_is


def run_law(context: Context, law: Law, larger: Sequence[Case] = ()) -> Tally:
    """Compare the two sides of a law on many cases.

    Args:
        context: the run.
        law: the law.
        larger: cases beyond the sizes of the schedule, as far as their time allows.
    """
    run, tally = context.run, Tally(law.name, null_counts=True)
    for index in range(context.laws):
        _one(run, law, _case(run, index, law), tally)
        context.tick()
    larger = () if tally.failures else larger
    for case in run.cases.plan.within_budget(larger, context.examples, run.untried):
        _one(run, law, case, tally)
    return tally


def _one(run: Run, law: Law, case: Case, tally: Tally) -> None:
    """One case, judged; the first failure is shrunk."""
    try:
        problem = run.cases.problem(case)
    except OutsideDomain as error:
        tally.cases += 1
        tally.outside(error, case)
        return
    except ContractError as error:
        tally.cases += 1
        _broken(run, tally, law, error, case)
        return
    judged = _judge(run, law, problem, tally)
    if any(j.wrong for j in judged) and not tally.findings:
        tally.findings.append(_finding(run, law, *_shrunk(run, law, problem, judged)))


def run_law_on(run: Run, law: Law, problem: Problem) -> Tally:
    """Compare the two sides of a law on one given problem, as it is."""
    tally = Tally(law.name, null_counts=True)
    judged = _judge(run, law, problem, tally)
    if any(j.wrong for j in judged):
        tally.findings.append(_finding(run, law, problem, judged))
    tally.findings += tally.conduct  # for one given problem a rejection is the result
    return tally


def gradients(run: Run, problem: Problem) -> dict[str, Any]:
    """Every gradient block of the hand-written code."""
    return dict(run.code.run(SEQUENCE, problem).gradients)


def _case(run: Run, index: int, law: Law) -> Case:
    case, least = run.cases.case(index, free=True), law.least
    # Summed in another order, a value within rounding of a kink may change sides.
    regime = "ordinary" if case.regime in ("near_kinks", "long") else case.regime
    lengths, batches = run.subject.lengths, run.subject.batches
    T = nearest(max(case.T if case.T <= 12 else 12, least[0]), lengths)
    mask = case.mask if law.masks else "none"
    return replace(case, regime=regime, T=T, B=nearest(max(case.B, least[1]), batches), mask=mask)


def _judge(run: Run, law: Law, problem: Problem, tally: Tally) -> list[Judged]:
    """One case, compared and counted; nothing where the user's code failed."""
    tally.cases += 1
    try:
        judged = _compare(run, law, problem, confirmed=tally.confirmed)
    except ContractError as error:
        _broken(run, tally, law, error, problem.case, problem)
        return []
    tally.confirmed.update(j.block for j in judged if j.wrong)
    tally.add(judged, problem.case)
    run.code.lines.commit()
    tally.oracles["law"] += 1
    tally.failures += any(j.wrong for j in judged)
    return judged


def _broken(
    run: Run,
    tally: Tally,
    law: Law,
    error: ContractError,
    case: Case,
    problem: Problem | None = None,
) -> None:
    if tally.refused(error, case, _smallest(law, case)):
        return
    if error.method == run.code.methods[0] and case.regime != "ordinary":
        # The problem itself runs: a neighbour of it, moved by rounding, is outside the domain.
        tally.outside(error, case)
        return
    tally.failures += 1
    if not tally.findings:
        finding = exception_finding(law.name, error, case)
        tally.findings.append(replace(finding, problem=problem))


def _smallest(law: Law, case: Case) -> bool:
    """True if one of the problems of a law has sizes at which code may end: no step, or one."""
    parts = {"time_splitting": 2, "zero_length": case.T + 1}.get(law.name, 1)
    return case.T // parts <= 1 or case.B == 0


def _compare(
    run: Run,
    law: Law,
    problem: Problem,
    at_once: bool = False,
    confirmed: Container[str] = (),
) -> list[Judged]:
    """Every block of one case beside the other way to it.

    A first bar comes from perturbed inputs alone. It is never wider than the bar of Monte Carlo
    arithmetic on the code itself, which costs ten times as much and decides before a finding.
    """
    unit, tiny = rounding(problem.dtype)
    value, other = law.expected(run, problem), law.actual(run, problem)
    value = {block: v for block, v in value.items() if not run.code.is_absent(block)}
    rng = np.random.default_rng([*_seeds(problem), 11])
    count = LAW_COPIES if problem.case.index < FIRST else LAW_COPIES // 2
    copies = [law.expected(run, perturbed(problem, rng)) for _ in range(count)]
    judged: list[Judged] = []
    for block, r in value.items():
        stack = np.stack([np.asarray(copy[block], np.float64) for copy in copies])
        one = judge(block, other[block], np.asarray(r, np.float64), stack, unit, tiny)
        if one.blind and one.relative == 0:  # noise hides no difference where there is none
            one = replace(one, blind=False, resolution=unit)
        judged.append(one)
    if at_once:
        return judged
    if any(j.wrong for j in judged):
        judged = _by_its_own_rounding(run, law, problem, value, other, judged)
    if problem.dtype == np.float32 and any(j.wrong for j in judged):
        judged = [_beyond_its_own_rounding(j, run, law, problem) for j in judged]
    # JAX may need a program for this very shape: it is asked of gradients that no case has settled.
    if any(j.wrong and _is_gradient(j.block) and j.block not in confirmed for j in judged):
        judged = _beside_jax(run, law, problem, judged)
    return judged


def _seeds(problem: Problem) -> tuple[int, int]:
    return problem.case.seed, abs(problem.case.index)


def _by_its_own_rounding(
    run: Run, law: Law, problem: Problem, value: Blocks, other: Blocks, judged: list[Judged]
) -> list[Judged]:
    """The wrong blocks once more: both sides of the law with noise in every operation.

    Where the code does not run on a subclass of ``ndarray``, both sides at perturbed inputs.
    """
    sides = ((law.expected, 0), (law.actual, 1))
    stacks: dict[str, list[Array]] = {j.block: [] for j in judged if j.wrong}
    for side, number in sides:
        found = noisy_copies(lambda p, s=side: dict(s(run, p)), problem,
                             (*_seeds(problem), 23, number), LAW_COPIES)  # fmt: skip
        if found is None:
            rng = np.random.default_rng([*_seeds(problem), 29, number])
            found = [dict(side(run, perturbed(problem, rng))) for _ in range(2 * LAW_COPIES)]
        for block, stack in stacks.items():
            stack += list(np.asarray(value[block], np.float64) + deviations(found, block))
    unit, tiny = rounding(problem.dtype)
    return [
        judge(j.block, other[j.block], np.asarray(value[j.block], np.float64),
              np.stack(stacks[j.block]), unit, tiny)
        if j.wrong else j
        for j in judged
    ]  # fmt: skip


def _beside_jax(run: Run, law: Law, problem: Problem, judged: list[Judged]) -> list[Judged]:
    """The wrong blocks once more, where JAX judges every gradient that the law compares.

    Each of them lies within its own error bar, and the law's bar is the sum of theirs: a law that
    is broken by right gradients is broken by rounding. What JAX is blind to is no evidence.
    """
    if not run.jax.available or not law.parts:
        return judged
    from bpttcheck.judge.gradient import examine

    if run.subject.traced_whole and problem.case.T > MOST_UNROLLED:
        return judged  # a program for every part, each as long as its loop
    seen: dict[str, list[Judged]] = {}
    parts, case = law.parts(run, problem), problem.case
    # One program for all of them, where T may be padded.
    T, B = (max(getattr(part.case, axis) for part in parts) for axis in ("T", "B"))
    exact = run.subject.exact_length
    template = None if exact else Template(case.n_in, case.n_hidden, T, B)
    for part in parts:
        try:
            outcome = examine(run, SEQUENCE, part, template, confirm=False)
        except BpttcheckError:
            return judged
        if outcome.skipped or not outcome.by:
            return judged
        for one in outcome.judged:
            seen.setdefault(one.block, []).append(one)
    return [_overruled(j, seen.get(j.block, [])) if j.wrong else j for j in judged]


def _overruled(j: Judged, parts: list[Judged]) -> Judged:
    if not parts or any(part.wrong or not part.usable for part in parts):
        return j
    if any(part.blind for part in parts):
        return replace(j, blind=True)
    return replace(j, ratio=max(part.ratio for part in parts))


def _beyond_its_own_rounding(j: Judged, run: Run, law: Law, problem: Problem) -> Judged:
    """A wrong float32 block stays wrong if the law is broken in float64 too.

    Noise at the inputs says nothing of rounding inside the hand-written code: terms that cancel
    there may be right and yet lose most of their digits. In float64 they lose none that count, and
    a law that is broken is broken there as well.
    """
    if not j.wrong:
        return j
    unit, tiny = rounding(problem.dtype)
    double = in_float64(problem)
    try:
        value, other = (side(run, double)[j.block] for side in (law.expected, law.actual))
        rng = np.random.default_rng([*_seeds(problem), 11])
        copies = [
            law.expected(run, perturbed(double, rng, unit))[j.block] for _ in range(LAW_COPIES)
        ]
    except ContractError:  # code for float32 alone
        return j
    again = judge(j.block, other, np.asarray(value), np.stack(copies), unit, tiny)
    return j if again.wrong else again


def perturbed(problem: Problem, rng: np.random.Generator, unit: float | None = None) -> Problem:
    """The problem with every float input and cotangent times ``1 + eps u``."""
    unit = rounding(problem.dtype)[0] if unit is None else unit

    def one(leaf: Any) -> Any:
        if not is_float(leaf):
            return leaf
        u = rng.uniform(-np.sqrt(3), np.sqrt(3), np.shape(leaf))
        return (np.asarray(leaf, np.float64) * (1 + unit * u)).astype(np.asarray(leaf).dtype)

    return each_leaf(problem, one)


def _shrunk(
    run: Run, law: Law, problem: Problem, judged: list[Judged]
) -> tuple[Problem, list[Judged]]:
    def attempt(problem: Problem, template: Template | None) -> tuple[Problem, list[Judged]] | None:
        if problem.case.T < law.least[0] or problem.case.B < law.least[1]:
            return None
        # Attempts use the first bar alone; the reported case gets the full comparison.
        found = _compare(run, law, problem, at_once=True)
        wrong = [[j for j in one if j.wrong] for one in (found, judged)]
        return (problem, found) if shows(*wrong) else None

    small, _ = smallest(run, problem, None, attempt, (problem, judged))
    try:
        found = _compare(run, law, small)
    except BpttcheckError:
        return problem, judged
    return (small, found) if any(j.wrong for j in found) else (problem, judged)


def _finding(run: Run, law: Law, problem: Problem, judged: list[Judged]) -> Finding:
    # A forward pass that breaks the law explains a backward pass that does.
    worst = max((j for j in judged if j.wrong), key=lambda j: (_is_forward(j.block), j.ratio))
    forward = _is_forward(worst.block)
    return Finding(
        check=law.name,
        method=run.code.methods[0] if forward else run.code.methods[1],
        block=worst.block,
        message=law.message.format(block=worst.block),
        case=problem.case,
        entry=worst.entry,
        hand=worst.hand,
        comparison=Measured(worst.value, worst.width),
        ratio=worst.ratio,
        limit=LIMIT,
        relative_error=worst.relative,
        problem=problem,
    )


def _is_forward(block: str) -> bool:
    return Block(block).kind in ("y", "new_state")


def _is_gradient(block: str) -> bool:
    return not _is_forward(block) and Block(block).whole == block
