"""Many gradient cases, judged, counted, and the first failure of each block made small."""

from __future__ import annotations

from dataclasses import replace

from bpttcheck.errors import BpttcheckError, ContractError
from bpttcheck.verify.checks.base import Context
from bpttcheck.verify.gradient import CaseOutcome, examine
from bpttcheck.verify.gradient_finding import count, exception_finding, finding_of
from bpttcheck.verify.problem import Problem, Template
from bpttcheck.verify.results import Finding
from bpttcheck.verify.run import STEP, Run
from bpttcheck.verify.shrink import smallest
from bpttcheck.verify.tally import Tally
from bpttcheck.verify.verdict import Judged

# Failing cases that are explained in full; later ones are only counted.
_EXPLAINED = 3
# Every so many cases one is drawn at any size and judged by differences alone.
_FREE = 10


def gradient_cases(context: Context, name: str, mode: str) -> Tally:
    """Run the cases of one gradient check."""
    run, tally = context.run, Tally(name)
    origins: dict[str, tuple[Problem, Template | None]] = {}
    run.prepare(context.examples)
    for index in range(context.examples):
        free = mode != STEP and index % _FREE == _FREE - 1 and not run.subject.fixed_sizes
        case = run.case(index, free=free, steps=1 if mode == STEP else None)
        template = None if free or run.subject.fixed_sizes else run.template(index)
        tally.cases += 1
        problem = None
        try:
            problem = run.problem(case)
            explain = len(tally.findings) < _EXPLAINED
            known = frozenset(f.block for f in tally.findings if f.jax is not None)
            outcome = examine(
                run, mode, problem, template, confirm=explain, differences_only=free, known=known
            )
        except ContractError as error:
            tally.failures += 1
            if not tally.findings:
                tally.findings.append(exception_finding(name, error, case, problem))
            continue
        finally:
            context.tick()
        count(run, tally, outcome)
        if outcome.wrong and explain:
            before = len(tally.findings)
            _explain(run, mode, tally, outcome, template)
            new = tally.findings[before:]
            origins.update({finding.block: (outcome.problem, template) for finding in new})
    tally.findings = [
        _diagnosed(run, mode, tally, finding, origins.get(finding.block))
        for finding in tally.findings
    ]
    return tally


def _diagnosed(
    run: Run,
    mode: str,
    tally: Tally,
    finding: Finding,
    origin: tuple[Problem, Template | None] | None,
) -> Finding:
    """The finding with what fits its pattern; nothing is guessed where JAX did not speak."""
    if origin is None or finding.jax is None:
        return finding
    from bpttcheck.verify.diagnose.evidence import explain

    failing = [origin, (finding.problem, None)]
    found = explain(run, tally.name, mode, finding.block, tally.seen, failing)
    return replace(finding, diagnoses=found)


def _explain(
    run: Run, mode: str, tally: Tally, outcome: CaseOutcome, template: Template | None
) -> None:
    """Findings for the wrong blocks that have none yet, each on its smallest case.

    In one step the blocks are wrong independently. In a sequence one wrong term spoils what lies
    before it: there the smallest case tells the culprit from the victims.
    """
    known = {finding.block for finding in tally.findings}
    todo = [j for j in outcome.wrong if j.block not in known]
    if mode != STEP:
        todo = [] if known else todo[:1]
    for judged in todo:
        target = judged.block if mode == STEP else None
        best = _shrunk(run, mode, outcome, template, target)
        for wrong in best.wrong if target is None else [_of(best, target)]:
            tally.findings.append(finding_of(run, tally.name, best, wrong))


def _shrunk(
    run: Run, mode: str, outcome: CaseOutcome, template: Template | None, block: str | None
) -> CaseOutcome:
    differences_only = "jax" not in outcome.spoke

    def attempt(problem: Problem, room: Template | None) -> CaseOutcome | None:
        confirm = differences_only
        found = examine(
            run, mode, problem, room, confirm=confirm, differences_only=differences_only
        )
        names = [j.block for j in found.wrong]
        return found if names and (block is None or block in names) else None

    best = smallest(run, outcome.problem, template, attempt, outcome)
    if best is outcome or differences_only:
        return best
    # The differences were left out while shrinking: hear them on the case that is shown.
    try:
        again = examine(run, mode, best.problem, None)
    except BpttcheckError:
        return outcome
    names = [j.block for j in again.wrong]
    return again if names and (block is None or block in names) else outcome


def _of(outcome: CaseOutcome, block: str) -> Judged:
    return next(j for j in outcome.wrong if j.block == block)
