"""Many gradient cases, judged, counted, and the first failure of each block made small."""

from __future__ import annotations

import numpy as np

from bpttcheck import trees
from bpttcheck.calibration import LIMIT
from bpttcheck.errors import BpttcheckError, ContractError
from bpttcheck.oracles.autodiff import Spread
from bpttcheck.verify.checks.base import Context
from bpttcheck.verify.gradient import CaseOutcome, examine
from bpttcheck.verify.problem import Problem, Template
from bpttcheck.verify.results import Finding, Measured
from bpttcheck.verify.run import STEP, Run
from bpttcheck.verify.shrink import smallest
from bpttcheck.verify.tally import Tally
from bpttcheck.verify.verdict import Judged, Vote

# Failing cases that are explained in full; later ones are only counted.
_EXPLAINED = 3
# Every so many cases one is drawn at any size and judged by differences alone.
_FREE = 10


def gradient_cases(context: Context, name: str, mode: str) -> Tally:
    """Run the cases of one gradient check."""
    run, tally = context.run, Tally(name)
    run.prepare(context.examples)
    for index in range(context.examples):
        free = mode != STEP and index % _FREE == _FREE - 1 and not run.subject.fixed_sizes
        case = run.case(index, free=free, steps=1 if mode == STEP else None)
        template = None if free or run.subject.fixed_sizes else run.template(index)
        tally.cases += 1
        try:
            problem = run.problem(case)
            explain = len(tally.findings) < _EXPLAINED
            outcome = examine(run, mode, problem, template, confirm=explain, differences_only=free)
        except ContractError as error:
            tally.failures += 1
            if not tally.findings:
                tally.findings.append(exception_finding(name, error, case))
            continue
        finally:
            context.tick()
        _count(run, tally, outcome)
        if outcome.wrong and explain:
            _explain(run, mode, tally, outcome, template)
    return tally


def exception_finding(name: str, error: ContractError, case: object = None) -> Finding:
    """A finding for user code that raised, or broke the contract, on one case."""
    return Finding(
        check=name,
        method=error.method,
        block=error.item or error.method,
        message=str(error),
        case=case,  # type: ignore[arg-type]
        exception=str(error.__cause__ or ""),
    )


def _count(run: Run, tally: Tally, outcome: CaseOutcome) -> None:
    if outcome.skipped:
        tally.skipped[outcome.skipped] += 1
        return
    tally.add(outcome.judged, outcome.problem.case.dtype)
    tally.oracles.update(outcome.spoke)
    if outcome.declined and outcome.declined != run.declined:
        tally.remarks[f"JAX declined: {outcome.declined}"] += 1
    if outcome.wrong:
        tally.failures += 1
    for block, vote in outcome.votes.items():
        if vote is Vote.CONTRADICTION:
            w = outcome.witnesses[block]
            tally.contradictions.append(
                f"JAX and the finite differences contradict each other in {block}: "
                f"<gradient, v> is {w.jax:.9g} by JAX, {float(w.difference.value):.9g} +- "
                f"{w.bar:.1e} by differences ({outcome.problem.case})"
            )


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
            tally.findings.append(_finding(run, tally.name, mode, best, wrong))


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


def _finding(run: Run, name: str, mode: str, outcome: CaseOutcome, wrong: Judged) -> Finding:
    witness = outcome.witnesses.get(wrong.block)
    by_jax = "jax" in outcome.spoke
    difference = _entry_difference(run, outcome, wrong) if by_jax else None
    if not by_jax and witness is not None:
        difference = Measured(float(witness.difference.value), witness.bar)
    return Finding(
        check=name,
        method="step_vjp" if run.subject.kind == "cell" else "vjp",
        block=wrong.block,
        message=_message(wrong, by_jax),
        case=outcome.problem.case,
        entry=wrong.entry if by_jax else None,
        time_step=departure(run, outcome.problem) if outcome.problem.case.T > 1 else None,
        hand=wrong.hand,
        jax=Measured(wrong.value, wrong.width) if by_jax else None,
        finite_difference=difference,
        ratio=wrong.ratio,
        limit=LIMIT,
        relative_error=wrong.relative,
    )


def _message(wrong: Judged, by_jax: bool) -> str:
    judge = "JAX autodiff" if by_jax else "the finite differences"
    if not np.isfinite(wrong.hand):
        return f"{wrong.block} is {wrong.hand} where {judge} gives {wrong.value:.6g}"
    if wrong.hand == 0:
        return f"{wrong.block} is zero where {judge} gives {wrong.value:.6g}"
    return f"{wrong.block} is off by {wrong.relative:.1e} of its largest entry"


def _entry_difference(run: Run, outcome: CaseOutcome, wrong: Judged) -> Measured | None:
    """The finite difference of the very entry that is shown."""
    assert outcome.hand is not None
    along = np.zeros(np.shape(outcome.hand.gradients[wrong.block]))
    along[wrong.entry] = 1.0
    try:
        estimate = run.difference(outcome.problem, {wrong.block: along})
    except BpttcheckError:
        return None
    if not np.isfinite(float(estimate.error)):
        return None
    return Measured(float(estimate.value), float(estimate.error))


def departure(run: Run, problem: Problem) -> int | None:
    """The first t, counted from the end, at which the hand-derived adjoint leaves JAX's."""
    try:
        found = run.adjoints(problem)
    except BpttcheckError:
        return None
    if found is None:
        return None
    mine, theirs = found
    eps = float(np.finfo(problem.dtype).eps)
    for t in range(problem.case.T, -1, -1):
        for g, r in zip(trees.leaves(mine[t]), trees.leaves(theirs), strict=True):
            r = np.asarray(r)[t]
            g = np.asarray(g, np.float64)
            if r.size and not np.abs(g - r).max() <= 1e4 * eps * np.abs(r).max():
                return t
    return None


def spread_of(stack: list[np.ndarray]) -> Spread:
    """The first of several runs and the others as its copies."""
    return Spread(stack[0], np.stack(stack[1:]))
