"""A gradient check on one given problem, neither drawn nor shrunk: what a replay runs."""

from __future__ import annotations

from bpttcheck.errors import ContractError
from bpttcheck.judge.gradient import examine
from bpttcheck.judge.gradient_finding import count, exception_finding, finding_of, forward_finding
from bpttcheck.judge.run import Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Problem


def gradient_problem(run: Run, name: str, mode: str, problem: Problem) -> Tally:
    """Judge one problem, every block of it.

    Args:
        run: the subject and its oracles.
        name: the check's name.
        mode: ``"step"`` or ``"sequence"``.
        problem: the problem, as it is.
    """
    tally = Tally(name, cases=1)
    try:
        outcome = examine(run, mode, problem, None)
    except ContractError as error:
        tally.failures = 1
        tally.findings.append(exception_finding(name, error, problem.case, problem))
        return tally
    count(run, tally, outcome)
    if outcome.forward:
        tally.findings.append(forward_finding(run, name, outcome))
    tally.findings += [finding_of(run, name, outcome, wrong) for wrong in outcome.wrong]
    return tally
