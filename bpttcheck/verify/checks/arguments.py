"""The same values in another layout, dtype or order give the same gradients."""

from __future__ import annotations

from dataclasses import replace

from bpttcheck.errors import ContractError
from bpttcheck.judge.gradient_finding import exception_finding
from bpttcheck.judge.run import Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Finding
from bpttcheck.subject.probe import Impurity
from bpttcheck.verify.checks.base import Check, Context
from bpttcheck.verify.conduct.arguments import mixed_dtypes, other_forms, other_layouts
from bpttcheck.verify.conduct.passes import Arguments, Passes, small_case

_APART = (4, 3, 2, 4)
"""T, B, n_in and n_hidden that differ, so that a wrong order gives a wrong shape."""

_SQUARE = (3, 2, 3, 3)
"""Weights that are all square, so that parameters read by position have a fitting shape."""


def arguments(context: Context) -> Tally:
    """Passes every argument in other layouts, and params in another order, with equal values.

    Finds code that reads an array through its raw pointer, rejects read-only arrays, misinterprets
    an integer mask, reads params by position, or reads one dtype as another. A rejection of other
    layouts, masks or dtypes by an exception is a remark.
    """
    run, tally = context.run, Tally("arguments")
    first = run.dtypes[0]
    looks = [(_layouts, small_case(run, *_APART, dtype, "holes")) for dtype in run.dtypes]
    looks += [(_forms, small_case(run, *_APART, first, "lengths"))]
    looks += [(_forms, small_case(run, *_SQUARE, first))]
    if run.subject.kind == "layer" and run.subject.supports_mask:
        looks += [(_layouts, small_case(run, *_APART, first))]  # its path without a mask
    for look, case in looks:
        tally.cases += 1
        try:
            look(run, tally, run.cases.problem(case))
            if look is _forms and {"float32", "float64"} <= set(run.dtypes):
                _mixed(run, tally, run.cases.problem(case))
        except ContractError as error:
            tally.skipped[f"{error.method} failed with plain arguments"] += 1
    tally.failures += bool(tally.findings)
    return tally


def on_problem(run: Run, problem: Problem) -> Tally:
    """The check on one given problem."""
    tally = Tally("arguments", cases=1)
    try:
        _layouts(run, tally, problem)
        _forms(run, tally, problem)
        _mixed(run, tally, problem)
    except ContractError as error:
        failed = exception_finding("arguments", error, problem.case)
        tally.findings.append(replace(failed, problem=problem))
    return tally


def _layouts(run: Run, tally: Tally, problem: Problem) -> None:
    """Every argument in other layouts, unless the subject declares `contiguous`."""
    if run.subject.traits.contiguous:
        tally.remarks["layouts were left out: it declares `contiguous = True`"] += 1
        return
    _tell(tally, other_layouts(*_passes(run, problem)), problem)


def _forms(run: Run, tally: Tally, problem: Problem) -> None:
    """Masks of numbers, keys in another order."""
    _tell(tally, other_forms(*_passes(run, problem)), problem)


def _mixed(run: Run, tally: Tally, problem: Problem) -> None:
    """Parameters of one dtype with inputs of another."""
    _tell(tally, mixed_dtypes(*_passes(run, problem)), problem)


def _passes(run: Run, problem: Problem) -> tuple[Passes, Arguments]:
    kind = run.subject.kind
    return Passes(run.subject.target, kind), Arguments.of(kind, problem)


def _tell(tally: Tally, found: list[Impurity] | None, problem: Problem) -> None:
    """Each message, and each kind of refusal, once."""
    if found is None:
        tally.skipped["the results are not finite"] += 1
        return
    for one in found:
        reported = tally.conduct if one.conduct else tally.findings
        known = {(f.method, f.block) if one.conduct else f.message for f in reported}
        if ((one.method, one.item) if one.conduct else one.message) not in known:
            reported.append(Finding(
                check="arguments",
                method=one.method,
                block=one.item,
                message=one.message,
                case=problem.case,
                problem=problem,
            ))  # fmt: skip


CHECK = Check("arguments", arguments, on_problem, replayed_twice="layouts")
