"""Methods are functions: they change nothing, remember nothing and draw no random numbers."""

from __future__ import annotations

from dataclasses import replace

from bpttcheck.errors import ContractError
from bpttcheck.verify.checks.base import Context
from bpttcheck.verify.gradient_finding import exception_finding
from bpttcheck.verify.impurity import Impurity, impurities
from bpttcheck.verify.problem import Problem
from bpttcheck.verify.results import Finding
from bpttcheck.verify.run import Run
from bpttcheck.verify.tally import Tally


def purity(context: Context) -> Tally:
    """Checks that forward and backward mutate nothing, repeat bit by bit and keep their dtype.

    Finds an input or cotangent that is overwritten, gradients that accumulate across calls, a
    buffer that two tapes share, a backward pass that works only once, hidden state, random numbers.
    """
    run, tally = context.run, Tally("purity")
    for index in range(max(4, context.examples // 10)):
        case = run.case(index, free=True)
        if case.T > 12:
            case = replace(case, T=12, regime="ordinary")
        tally.cases += 1
        try:
            problem = run.problem(case)
            found = _impurities(run, problem)
        except ContractError as error:
            tally.findings.append(exception_finding("purity", error, case))
            tally.failures += 1
            return tally
        finally:
            context.tick()
        if found:
            small = _smaller(run, problem)
            tally.failures += 1
            tally.findings += [_finding(one, small) for one in _impurities(run, small) or found]
            return tally
    return tally


def on_problem(run: Run, problem: Problem) -> Tally:
    """The check on one given problem."""
    tally = Tally("purity", cases=1)
    try:
        tally.findings += [_finding(one, problem) for one in _impurities(run, problem)]
    except ContractError as error:
        failed = exception_finding("purity", error, problem.case)
        tally.findings.append(replace(failed, problem=problem))
    return tally


def _impurities(run: Run, p: Problem) -> list[Impurity]:
    subject = run.subject
    return impurities(
        subject.target, subject.kind, p.params, p.xs, p.state0, p.d_ys, p.d_state, run.notes
    )


def _smaller(run: Run, problem: Problem) -> Problem:
    """The smallest of a few sizes that is still impure."""
    if run.sizes is not None or run.subject.fixed_sizes:
        return problem
    for T, B, n_in, n_hidden in ((1, 1, 1, 1), (2, 1, 1, 1), (2, 2, 2, 2)):
        case = replace(
            problem.case, T=T, B=B, n_in=n_in, n_hidden=n_hidden, mask="none", regime="ordinary",
            index=-1,
        )  # fmt: skip
        try:
            small = run.problem(case)
            if _impurities(run, small):
                return small
        except ContractError:
            continue
    return problem


def _finding(one: Impurity, problem: Problem) -> Finding:
    return Finding(
        check="purity",
        method=one.method,
        block=one.item,
        message=one.message,
        case=problem.case,
        problem=problem,
    )
