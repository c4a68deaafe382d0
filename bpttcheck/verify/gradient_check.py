"""Runs many gradient cases, counts them, and shrinks the first failure of each block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bpttcheck.errors import BpttcheckError, ContractError, OutsideDomain
from bpttcheck.judge.gradient import examine
from bpttcheck.judge.gradient_finding import (
    count,
    exception_finding,
    finding_of,
    forward_finding,
    plain_finding,
    with_sides,
)
from bpttcheck.judge.outcome import CaseOutcome, accepted, needless
from bpttcheck.judge.run import STEP, Run
from bpttcheck.judge.shrink import shows, smallest
from bpttcheck.judge.tally import Tally
from bpttcheck.judge.verdict import Judged
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.problems.values import REACHED
from bpttcheck.results.records import Case, Finding
from bpttcheck.subject.user_code import call
from bpttcheck.verify.checks.base import Context

# Failing cases that are explained in full; later ones are only counted.
_EXPLAINED = 3
# States reached by a sequence at which a wrong gradient is tested again.
_REACHED = 3

Origin = tuple[Problem, Template | None]
"""The problem of a finding, and its compiled shape."""


def gradient_cases(context: Context, name: str, mode: str) -> Tally:
    """Run the cases of one gradient check."""
    run, tally = context.run, Tally(name)
    origins: dict[str, Origin] = {}
    large: list[tuple[CaseOutcome, Template | None]] = []
    run.jax.prepare(run.cases, context.examples)
    for index in range(context.examples):
        try:
            _one(run, mode, tally, origins, *run.cases.scheduled(index, mode == STEP), large)
        finally:
            context.tick()
    if not tally.findings:
        for outcome, template in large:
            _explain(run, mode, tally, origins, outcome, template)
    wide_cases(run, mode, tally, origins, context.examples)
    tally.findings = _all_diagnosed(run, mode, tally, origins)
    tally.findings = [_placed(run, mode, f, origins) for f in tally.findings]
    tally.findings += needless(run, tally)
    return _with_all_blocks(run, name, tally)


def wide_cases(
    run: Run, mode: str, tally: Tally, origins: dict[str, Origin], examples: int
) -> None:
    """Wide states, by differences alone: one step of a cell, few steps of a layer."""
    wide = run.cases.plan.widths if (mode == STEP) == (run.subject.kind == "cell") else ()
    wide = () if tally.failures else wide
    for case in run.cases.plan.within_budget(wide, examples, run.untried):
        one = replace(case, T=1) if mode == STEP else case
        _one(run, mode, tally, origins, one, None, True)


def _one(
    run: Run,
    mode: str,
    tally: Tally,
    origins: dict[str, Origin],
    case: Case,
    template: Template | None,
    differences_only: bool,
    large: list[tuple[CaseOutcome, Template | None]] | None = None,
) -> None:
    """One case: judged, counted, and the first failures explained.

    What is too large for JAX goes to ``large`` instead: a smaller failure is explained better.
    """
    tally.cases += 1
    problem = None
    explain = len(tally.findings) < _EXPLAINED
    try:
        problem = run.cases.problem(case)
        known = frozenset(block for block, (_, _, by) in tally.worst.items() if by)
        outcome = examine(
            run, mode, problem, template, confirm=explain, differences_only=differences_only,
            known=known,
        )  # fmt: skip
        outcome = accepted(run, outcome, tally) if run.accepted else outcome
    except OutsideDomain as error:
        tally.outside(error, case)
        return
    except ContractError as error:
        if tally.refused(error, case, mode != STEP and case.T <= 1):
            return
        tally.failures += 1
        if not tally.findings:
            tally.findings.append(exception_finding(tally.name, error, case, problem))
        return
    count(run, tally, outcome)
    if outcome.spoke:
        run.code.lines.commit()
    else:
        run.code.lines.discard()
    if outcome.forward:
        if not any(f.block == outcome.forward[0].block for f in tally.findings):
            tally.findings.append(forward_finding(run, tally.name, outcome))
    elif outcome.wrong and explain and large is not None and not outcome.by and run.jax.available:
        large += [(outcome, template)] if len(large) < _EXPLAINED else []
    elif outcome.wrong and explain:
        _explain(run, mode, tally, origins, outcome, template)


def _with_all_blocks(run: Run, name: str, tally: Tally) -> Tally:
    """A finding for every block that was wrong in any case, explained or not; the worst first."""
    told = {finding.block for finding in tally.findings}
    for block, (judged, case, by) in tally.worst.items():
        if block not in told:
            tally.findings.append(plain_finding(run, name, judged, case, by))
    tally.findings = [with_sides(finding, tally) for finding in tally.findings]
    return tally


def _placed(run: Run, mode: str, finding: Finding, origins: Mapping[str, Origin]) -> Finding:
    """Adds to a finding if the gradient is wrong only at states that no sequence reaches."""
    origin = origins.get(finding.block)
    no_state = run.subject.traits.signature is not None
    if origin is None or no_state or origin[0].case.regime == "own_initial_state":
        return finding
    case = origin[0].case
    for index in range(_REACHED + 1):
        try:
            if index == _REACHED:  # only the state changes
                reached = _at_rest(run, origin[0])
            else:
                other = replace(case, index=max(case.index, 0) + index)
                reached = run.cases.build(other, 0, REACHED)
            outcome = examine(run, mode, reached, None, confirm=False)
        except BpttcheckError:
            return finding
        if not outcome.spoke or outcome.forward or outcome.wrong:
            return finding
    sentence = (
        f"{finding.message}; wrong only off the reachable states: right at {_REACHED} states that "
        "a sequence led to from the initial one. If states are always of that form, declare "
        'domain = {"state": "reached"}'
    )
    return replace(finding, message=sentence)


def _at_rest(run: Run, problem: Problem) -> Problem:
    """The problem from the subject's own initial state."""
    target = run.subject.target
    own = call("initial_state", target.initial_state, problem.params, problem.case.B)
    return replace(problem, state0=own)


def _all_diagnosed(
    run: Run, mode: str, tally: Tally, origins: Mapping[str, Origin]
) -> list[Finding]:
    """The findings with their diagnoses; none where nobody gave the right gradient."""
    if not tally.findings:
        return []
    from bpttcheck.diagnose.evidence import explain, explain_beside
    from bpttcheck.diagnose.expected import with_expected
    from bpttcheck.diagnose.whole import EditSearch

    search, found = EditSearch(), list(tally.findings)
    for says in (explain, explain_beside):  # the second needs what the first found out
        for i, finding in enumerate(found):
            origin = origins.get(finding.block)
            if origin is not None and not finding.diagnoses:
                failing = [origin, (finding.problem, None)]
                said = says(run, tally.name, mode, finding.block, tally.seen, failing, search)
                found[i] = replace(finding, diagnoses=said)
    if mode != STEP or run.subject.reference is not None:
        return found
    return with_expected(run.subject.target, found)


def _explain(
    run: Run,
    mode: str,
    tally: Tally,
    origins: dict[str, Origin],
    outcome: CaseOutcome,
    template: Template | None,
) -> None:
    """Findings for the wrong blocks that have none yet, each on its smallest case.

    In one step the blocks are wrong independently. In a sequence one wrong term corrupts all
    earlier steps, and the smallest case separates the cause from its consequences.
    """
    before = len(tally.findings)
    known = {finding.block for finding in tally.findings}
    todo = [j for j in outcome.wrong if j.block not in known]
    if mode != STEP:
        todo = [] if known else todo[:1]
    for judged in todo:
        target = judged.block if mode == STEP else None
        best = _shrunk(run, mode, outcome, template, target)
        for wrong in best.wrong if target is None else [_of(best, target)]:
            tally.findings.append(finding_of(run, tally.name, best, wrong))
    for finding in tally.findings[before:]:
        origins[finding.block] = (outcome.problem, template)


def _shrunk(
    run: Run, mode: str, outcome: CaseOutcome, template: Template | None, block: str | None
) -> CaseOutcome:
    differences_only = not outcome.by

    def attempt(problem: Problem, room: Template | None) -> CaseOutcome | None:
        confirm = differences_only
        found = examine(
            run, mode, problem, room, confirm=confirm, differences_only=differences_only
        )
        found = accepted(run, found)
        if block is None:
            return found if shows(found.wrong, outcome.wrong) else None
        of_block = [[j for j in one.wrong if j.block == block] for one in (found, outcome)]
        return found if shows(*of_block) else None

    best = smallest(run, outcome.problem, template, attempt, outcome)
    if best is outcome or differences_only:
        return best
    # Shrinking skipped the differences: compute them for the reported case.
    try:
        again = accepted(run, examine(run, mode, best.problem, None))
    except BpttcheckError:
        return outcome
    names = [j.block for j in again.wrong]
    return again if names and (block is None or block in names) else outcome


def _of(outcome: CaseOutcome, block: str) -> Judged:
    return next(j for j in outcome.wrong if j.block == block)


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
