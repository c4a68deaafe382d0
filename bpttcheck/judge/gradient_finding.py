"""From a judged case to what is counted and what is told: findings and tallies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import Block
from bpttcheck.calibration import LIMIT
from bpttcheck.errors import BpttcheckError, ContractError
from bpttcheck.judge.directions import Vote
from bpttcheck.judge.outcome import CaseOutcome
from bpttcheck.judge.run import Run
from bpttcheck.judge.tally import Seen, Tally
from bpttcheck.judge.verdict import Judged
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Case, Finding, Measured, Sides


def exception_finding(
    name: str, error: ContractError, case: Case | None = None, problem: Problem | None = None
) -> Finding:
    """A finding for user code that raised, or broke the contract, on one case."""
    return Finding(
        check=name,
        method=error.method,
        block=error.item or error.method,
        message=str(error),
        case=case,
        exception=str(error.__cause__ or ""),
        problem=problem,
    )


def count(run: Run, tally: Tally, outcome: CaseOutcome) -> None:
    """Add one case to the tally."""
    if outcome.skipped:
        tally.skipped[outcome.skipped] += 1
        return
    case = outcome.problem.case
    if outcome.forward:
        tally.failures += 1
        return
    tally.add(outcome.judged, case)
    for j in outcome.wrong:
        if j.block not in tally.worst or tally.worst[j.block][0].ratio < j.ratio:
            tally.worst[j.block] = (j, case, outcome.by)
    clear = [j for j in outcome.judged if j.usable and not j.blind and not j.null]
    wrong = tuple(j.block for j in outcome.wrong)
    tally.seen.append(Seen(outcome.problem.case, wrong, tuple(j.block for j in clear)))
    tally.oracles.update(outcome.spoke)
    for name, reason in outcome.declined.items():
        oracle = run.oracles[name]
        if reason != oracle.declined:
            tally.remarks[f"{oracle.title} declined: {reason}"] += 1
    if outcome.doubtful:
        tally.doubtful += 1
        tally.remarks[outcome.doubtful] += 1
    if outcome.wrong:
        tally.failures += 1
    for block, vote in outcome.votes.items():
        if vote is Vote.CONTRADICTION:
            tally.contradictions.append(_contradiction(run, block, outcome))


def forward_finding(run: Run, name: str, outcome: CaseOutcome) -> Finding:
    """What is told where a layer does not compute what its reference computes."""
    j = outcome.forward[0]
    method = run.code.methods_of(name)[0]
    return Finding(
        check=name,
        method=method,
        block=j.block,
        message=(
            f"the forward passes differ: {j.block} is {j.hand:.6g} by {method}, "
            f"{j.value:.6g} by the reference, so no gradient could be compared with it"
        ),
        case=outcome.problem.case,
        entry=j.entry,
        hand=j.hand,
        comparison=Measured(j.value, j.width),
        ratio=j.ratio,
        limit=LIMIT,
        relative_error=j.relative,
        problem=outcome.problem,
    )


def plain_finding(run: Run, name: str, j: Judged, case: Case, by: str) -> Finding:
    """A block that was wrong in some case which nobody made small or explained."""
    return Finding(
        check=name,
        method=run.code.methods_of(name)[1],
        block=j.block,
        message=_message(run, j, by),
        case=case,
        entry=j.entry if by else None,
        hand=j.hand,
        **_beside(by, Measured(j.value, j.width)),
        ratio=j.ratio,
        limit=LIMIT,
        relative_error=j.relative,
        counted=True,
    )


def with_sides(finding: Finding, tally: Tally) -> Finding:
    """The finding with its whole block, in the case in which it was worst."""
    judged, case, _ = tally.worst.get(finding.block, (None, None, ""))
    if judged is None or judged.sides is None or case is None:
        return finding
    over_time = Block(finding.block).kind == "x" and judged.sides[0].ndim == 3
    return replace(finding, sides=Sides(*judged.sides, case, over_time))


def _contradiction(run: Run, block: str, outcome: CaseOutcome) -> str:
    w, judge = outcome.witnesses[block], run.oracles[outcome.by].title
    if w.own is not None and not w.consistent:
        return (
            f"{judge}'s reverse and forward mode contradict each other in {block}: <gradient, v> "
            f"is {w.reference:.9g} by reverse mode, {float(w.own.value):.9g} by forward mode "
            f"({outcome.problem.case})"
        )
    return (
        f"{judge} and {run.oracles[w.by].title} contradict each other in {block}: <gradient, v> "
        f"is {w.reference:.9g} by {judge}, {float(w.estimate.value):.9g} +- {w.bar:.1e} by {w.by} "
        f"({outcome.problem.case})"
    )


def finding_of(run: Run, name: str, outcome: CaseOutcome, wrong: Judged) -> Finding:
    """What is told of one wrong block."""
    witness, by = outcome.witnesses.get(wrong.block), outcome.by
    beside = _beside(by, Measured(wrong.value, wrong.width) if by else None)
    if by:
        beside["finite_difference"] = _entry_difference(run, outcome, wrong)
    elif witness is not None:
        beside["finite_difference"] = Measured(float(witness.estimate.value), witness.bar)
    return Finding(
        check=name,
        method=run.code.methods_of(name)[1],
        block=wrong.block,
        message=_message(run, wrong, by),
        case=outcome.problem.case,
        entry=wrong.entry if by else None,
        time_step=departure(run, outcome.problem) if outcome.problem.case.T > 1 else None,
        hand=wrong.hand,
        **beside,
        ratio=wrong.ratio,
        limit=LIMIT,
        relative_error=wrong.relative,
        problem=outcome.problem,
    )


def _beside(by: str, value: Measured | None) -> dict[str, Any]:
    """The field of a finding for what an oracle says; no name: slopes along directions alone."""
    return {{"jax": "jax", "": "finite_difference"}.get(by, "comparison"): value}


def _message(run: Run, wrong: Judged, by: str) -> str:
    judge = f"{run.oracles[by].title} autodiff" if by else "the finite differences"
    if not np.isfinite(wrong.hand):
        return f"{wrong.block} is {wrong.hand} where {judge} gives {wrong.value:.6g}"
    if wrong.hand == 0:
        return f"{wrong.block} is zero where {judge} gives {wrong.value:.6g}"
    much = f"{100 * wrong.relative:.3g} %" if wrong.relative > 0.01 else f"{wrong.relative:.1e}"
    return f"{wrong.block} is off by {much} of its largest entry"


def _entry_difference(run: Run, outcome: CaseOutcome, wrong: Judged) -> Measured | None:
    """The finite difference of the very entry that is shown."""
    assert outcome.hand is not None
    along = np.zeros(np.shape(outcome.hand.gradients[wrong.block]))
    along[wrong.entry] = 1.0
    try:
        estimate = run.oracles["differences"].directional(outcome.problem, {wrong.block: along})
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
