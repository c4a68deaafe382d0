"""Methods are pure functions: they change no argument, keep no state, draw no random numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from bpttcheck.diagnose.conduct import impure, uninitialised
from bpttcheck.errors import ContractError
from bpttcheck.judge.gradient_finding import exception_finding
from bpttcheck.judge.run import Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Case, Finding
from bpttcheck.verify.checks.base import Check, Context
from bpttcheck.verify.conduct.memory import shared_memory, unwritten
from bpttcheck.verify.conduct.passes import Arguments, Passes, small_case
from bpttcheck.verify.conduct.repeatability import (
    CALLS,
    ENOUGH,
    Impurity,
    impurities,
    repeated,
    unrepeatable,
)

_UNWRITTEN = (
    (3, 3, 2, 3, "none", "ordinary"),
    (5, 4, 3, 2, "holes", "ordinary"),
    (1, 1, 1, 1, "none", "zeros"),
    (2, 7, 5, 4, "lengths", "zeros"),
    (9, 2, 3, 5, "empty_rows", "ordinary"),
    (3, 17, 9, 17, "none", "ordinary"),
)
"""T, B, n_in and n_hidden that leave a remainder in blocks of 2, 3, 4, 8 or 16 rows or units;
masked steps and zero cotangents, where code may skip work.
"""
_OTHERS = {
    "a shorter sequence": (1, 2, 2, 2),
    "fewer rows": (2, 1, 2, 2),
    "a smaller model": (2, 2, 1, 1),
    "a longer sequence, more rows and a larger model": (5, 5, 4, 4),
}
"""T, B, n_in and n_hidden beside those of the point of 2, 2, 2, 2."""
_LAST_DIGITS = "the last digits only"


def purity(context: Context) -> Tally:
    """Checks that methods change no argument, keep no state and always return the same results.

    Finds an input or cotangent that is overwritten, gradients that accumulate across calls, a
    buffer that two tapes share or that is used again after some calls, results that change when the
    caller writes to earlier ones, a value kept for as long as a parameter is the same object, a
    backward pass that works only once, counted calls, random numbers, races, memory that was never
    written.
    """
    run, tally = context.run, Tally("purity")
    for index in range(max(4, context.examples // 10)):
        case = run.cases.case(index, free=True)
        if case.T > 12:
            case = replace(case, T=12, regime="ordinary")
        _case(run, tally, _impure, case)
        context.tick()
        if tally.findings:
            break
    for look, (T, B, n_in, n_hidden, mask, regime) in _LOOKS if not tally.findings else ():
        case = small_case(run, T, B, n_in, n_hidden, mask=mask)
        _case(run, tally, look, replace(case, regime=regime))
        if tally.findings:
            break
    tally.failures += bool(tally.findings)
    return tally


def on_problem(run: Run, problem: Problem) -> Tally:
    """The check on one given problem."""
    tally = Tally("purity", cases=1)
    try:
        _memory(run, tally, problem)
        if not tally.findings:
            _tell(run, tally, _impurities(run, problem), problem)
        for look in (_repeats, _aliasing):
            if not tally.findings:
                look(run, tally, problem)
    except ContractError as error:
        failed = exception_finding("purity", error, problem.case)
        tally.findings.append(replace(failed, problem=problem))
    return tally


Look = Callable[[Run, Tally, Problem], None]
"""One test of one problem; the results go to the tally."""


def _case(run: Run, tally: Tally, look: Look, case: Case) -> None:
    """One test of one case. Failing at the first call does not concern purity."""
    tally.cases += 1
    try:
        look(run, tally, run.cases.problem(case))
    except ContractError as error:
        tally.skipped[f"{error.method} failed at the first call"] += 1
        finding = exception_finding("purity", error, case)
        if all(f.method != finding.method for f in tally.conduct):
            tally.conduct.append(finding)


def _impure(run: Run, tally: Tally, problem: Problem) -> None:
    """A few calls in several orders."""
    found = _impurities(run, problem)
    if any(not one.conduct for one in found):
        _memory(run, tally, problem)  # a better description of results that vary
        if tally.findings:
            return
        problem = _smaller(run, problem)
        found = _impurities(run, problem) or found
    _tell(run, tally, found, problem)


def _impurities(run: Run, p: Problem) -> list[Impurity]:
    subject = run.subject
    return impurities(
        subject.target, subject.kind, p.params, p.xs, p.state0, p.d_ys, p.d_state, run.code.notes
    )


def _repeats(run: Run, tally: Tally, problem: Problem) -> None:
    """Many calls with the same arguments."""
    passes, given = _passes(run, problem)
    seen = repeated(passes, given)
    found = unrepeatable(passes, seen, _deterministic(run))
    if seen.calls < ENOUGH:
        tally.remarks[f"slow: repeated {seen.calls} times, not {CALLS}"] += 1
    if found:  # describes better what single repetitions found
        tally.conduct = [f for f in tally.conduct if _LAST_DIGITS not in f.message]
    _tell(run, tally, found, problem)


def _aliasing(run: Run, tally: Tally, problem: Problem) -> None:
    """Results written to and kept, arguments updated in place, calls of other sizes."""
    kind, case = run.subject.kind, problem.case

    def other(T: int, B: int, n_in: int, n_hidden: int) -> Arguments:
        return Arguments.of(
            kind, run.cases.problem(small_case(run, T, B, n_in, n_hidden, case.dtype))
        )

    fixed = run.subject.traits.fixed_sizes
    others = {} if fixed else {what: partial(other, *sizes) for what, sizes in _OTHERS.items()}
    found = shared_memory(*_passes(run, problem), others)
    if found:
        _memory(run, tally, problem)  # a better description of results that vary
    if not tally.findings:
        _tell(run, tally, found, problem)


def _memory(run: Run, tally: Tally, problem: Problem) -> None:
    """Memory that was never written."""
    found = unwritten(*_passes(run, problem))
    if found is not None:
        tally.findings.append(Finding(
            "purity", found.method, found.item, found.message, problem.case,
            exception=found.error, problem=problem,
            diagnoses=(uninitialised(
                found.method, found.item, found.filename, found.line, found.message
            ),),
        ))  # fmt: skip


def _passes(run: Run, problem: Problem) -> tuple[Passes, Arguments]:
    kind = run.subject.kind
    return Passes(run.subject.target, kind, run.code.notes), Arguments.of(kind, problem)


def _deterministic(run: Run) -> bool:
    return run.subject.traits.deterministic


def _smaller(run: Run, problem: Problem) -> Problem:
    """The smallest of a few sizes that is still impure."""
    if run.cases.sizes is not None or run.subject.traits.fixed_sizes:
        return problem
    for T, B, n_in, n_hidden in ((1, 1, 1, 1), (2, 1, 1, 1), (2, 2, 2, 2)):
        case = replace(
            problem.case, T=T, B=B, n_in=n_in, n_hidden=n_hidden, mask="none", regime="ordinary",
            index=-1,
        )  # fmt: skip
        try:
            small = run.cases.problem(case)
            if any(not one.conduct for one in _impurities(run, small)):
                return small
        except ContractError:
            continue
    return problem


def _tell(run: Run, tally: Tally, found: list[Impurity], problem: Problem) -> None:
    """Findings, and conduct: each method and item once."""
    for one in found:
        finding = Finding(
            check="purity",
            method=one.method,
            block=one.item,
            message=one.message,
            case=problem.case,
            problem=problem,
        )
        if not one.conduct or (one.conduct == "rounding" and _deterministic(run)):
            tally.findings.append(finding)
        elif all((f.method, f.block) != (one.method, one.item) for f in tally.conduct):
            tally.conduct.append(finding)


_LOOKS = (
    (_repeats, (6, 4, 3, 4, "none", "ordinary")),
    (_aliasing, (2, 2, 2, 2, "none", "ordinary")),
    *((_memory, where) for where in _UNWRITTEN),
)
"""The tests that run once, and their case: T, B, n_in, n_hidden, mask and regime."""


CHECK = Check("purity", purity, on_problem, alone=True, says=impure, replayed_twice="calls")
