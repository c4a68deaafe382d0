"""One gradient case against its oracles: what ``step_vjp`` and ``sequence_vjp`` do.

The first oracle that gives a gradient of the case is its reference. Every block is compared with
it; the others are witnesses along directions. Where there is no reference they judge alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from bpttcheck import trees
from bpttcheck.calibration import LIMIT
from bpttcheck.errors import Declined
from bpttcheck.judge.by_slopes import judged_by_slopes
from bpttcheck.judge.case import GradientCase
from bpttcheck.judge.directions import Vote, Witness, along_the_difference, spot_check, vote
from bpttcheck.judge.forward_pass import (
    differing_outputs,
    nearly_overflows,
    not_finite,
    why_not_compared,
)
from bpttcheck.judge.oracle import Oracle, Reference
from bpttcheck.judge.outcome import CaseOutcome
from bpttcheck.judge.own_noise import within_own_noise
from bpttcheck.judge.run import Run
from bpttcheck.judge.verdict import Judged, judge, rounding, width
from bpttcheck.problems.problem import Problem, Template

# Regimes in which noise turns branches.
_KINKS = ("at_kinks", "near_kinks")


@dataclass(frozen=True)
class _NotBelieved:
    """A reference that is none.

    Args:
        reason: why.
        lost: True if it overflows, where nobody can ask the hand-written code for a number.
    """

    reason: str
    lost: bool


def examine(
    run: Run,
    mode: str,
    problem: Problem,
    template: Template | None,
    *,
    confirm: bool = True,
    differences_only: bool = False,
    known: frozenset[str] = frozenset(),
) -> CaseOutcome:
    """Judge one case.

    Args:
        run: the subject and its oracles.
        mode: ``"step"`` or ``"sequence"``.
        problem: the case.
        template: the compiled shape to use; None compiles the case's own shape.
        confirm: ask the witnesses too; False trusts the reference alone (for shrinking).
        differences_only: leave out every oracle that gives gradients: it would have to compile this
            shape.
        known: blocks already convicted with the witnesses' consent: for them the reference is
            enough now, and where nothing new is wrong the witnesses are not asked.

    Raises:
        ContractError: if the subject's own code fails.
    """
    hand = run.code.run(mode, problem)
    skipped = not_finite(hand, problem)
    if skipped:
        return CaseOutcome(problem, skipped=skipped)
    declined: dict[str, str] = {}
    lost = False
    for oracle in () if differences_only else run.oracles.values():
        try:
            reference = oracle.gradient(mode, problem, template)
        except Declined as reason:
            declined[oracle.name] = str(reason)
            continue
        others = [one for one in _left(run, declined) if one is not oracle]
        case = GradientCase(run, mode, problem, hand, template, others)
        found = _beside(case, oracle, reference, confirm, known)
        if isinstance(found, CaseOutcome):
            return replace(found, declined=declined)
        declined[oracle.name], lost = found.reason, lost or found.lost
    left = _left(run, declined) if declined else [o for o in run.oracles.values() if o.declined]
    case = GradientCase(run, mode, problem, hand, template, left)
    outcome = judged_by_slopes(case, declined)
    return _without_lost_blocks(case, outcome) if lost else outcome


def _left(run: Run, declined: Mapping[str, str]) -> list[Oracle]:
    """The oracles that may be asked for slopes: all that did not fail, or fail by their nature."""
    return [o for o in run.oracles.values() if declined.get(o.name, o.declined) == o.declined]


def _beside(
    case: GradientCase,
    oracle: Oracle,
    reference: Reference,
    confirm: bool,
    known: frozenset[str],
) -> CaseOutcome | _NotBelieved:
    """The case beside a reference.

    Args:
        case: the case, with the other oracles as witnesses.
        oracle: the one that gave the reference.
        reference: its gradient.
        confirm: ask the witnesses, too.
        known: blocks that need no witness any more.
    """
    run, problem = case.run, case.problem
    differing = differing_outputs(case, reference)
    if any(j.wrong for j in differing) and run.subject.reference is not None:
        # The reference was given: a layer that is not what it claims to be.
        return CaseOutcome(problem, case.hand, forward=differing)
    if differing:
        at = run.jax.departure(case.mode, problem) if oracle is run.jax else ""
        return _NotBelieved(why_not_compared(differing, at), lost=not differing[0].usable)
    if _beyond_range(reference, problem):
        overflows = f"range: the gradient itself overflows {problem.case.dtype}"
        return CaseOutcome(problem, case.hand, skipped=overflows)
    judged = _compared(case, oracle, reference)
    if not any(j.usable for j in judged):
        return _NotBelieved("its own gradient is not finite, which is no fault of this code", True)
    new = confirm and any(j.wrong and j.block not in known for j in judged)
    if new and problem.case.regime not in _KINKS:
        judged = within_own_noise(case, reference, judged, known)
    wrong = [j for j in judged if j.wrong]
    spoke = frozenset({oracle.name})
    if wrong and not any(np.isfinite(j.hand) for j in wrong) and nearly_overflows(case):
        nearly = (
            f"range: the gradient overflows {problem.case.dtype} where the forward pass nearly does"
        )
        return CaseOutcome(problem, case.hand, oracle.name, spoke=spoke, skipped=nearly)
    outcome = CaseOutcome(problem, case.hand, oracle.name, judged, spoke=spoke)
    if wrong:
        return _settled(case, oracle, reference, outcome, known if confirm else None)
    if confirm and not known:
        seen = spot_check(case, reference, judged)
        votes = dict.fromkeys(seen.contradictions, Vote.CONTRADICTION)
        outcome = replace(
            outcome, votes=votes, witnesses=seen.contradictions, spoke=spoke | seen.spoke
        )
    return _without_doubtful_blocks(oracle, outcome)


def _beyond_range(reference: Reference, problem: Problem) -> bool:
    """True if the right gradient is too large for the checked dtype: nobody's mistake."""
    most = float(np.finfo(problem.dtype).max) * 1e-3
    return any(np.abs(s.value).max(initial=0.0) > most for s in reference.gradients.values())


def _compared(case: GradientCase, oracle: Oracle, reference: Reference) -> list[Judged]:
    """Every block beside the reference."""
    unit, tiny = rounding(case.problem.dtype)
    judged = [
        judge(block, case.hand.gradients[block], spread.value, spread.copies, unit, tiny)
        for block, spread in reference.gradients.items()
    ]
    chaotic = _is_chaotic(case, reference)
    return [_unblinded(case, oracle, j, chaotic) for j in judged]


def _is_chaotic(case: GradientCase, reference: Reference) -> bool:
    """True if rounding moves a gradient by more than all sizes in sight over the rounding unit.

    Then it may as well make zero of what is divided by, and a gradient that is not finite is its
    doing.
    """
    unit, tiny = rounding(case.problem.dtype)
    cotangents = (case.problem.d_ys, *trees.leaves(case.problem.d_state))
    size = max(float(np.abs(np.asarray(d)).max(initial=0.0)) for d in cotangents)
    for spread in reference.gradients.values():
        noise = width(spread.value, spread.copies, unit, tiny).max(initial=0.0)
        if noise > max(size, np.abs(spread.value).max(initial=0.0)) / unit:
            return True
    return False


def _unblinded(case: GradientCase, oracle: Oracle, j: Judged, chaotic: bool) -> Judged:
    """A blind block is no evidence, with two exceptions that no rounding explains.

    A value that is not finite where the reference and all its copies are, unless rounding decides
    everything there; and, exactly at a kink, a value outside the hull of what the branches allow,
    where the oracle can follow them all.
    """
    if not j.blind or not j.ratio > 1:
        return j
    hand = np.asarray(case.hand.gradients[j.block], np.float64)
    if not np.isfinite(hand).all():
        return replace(j, blind=chaotic)
    if case.problem.case.regime != "at_kinks" or oracle is not case.run.jax:
        return j
    low, high = case.run.jax.hull(case.mode, case.problem, case.template, j.block)
    ratios = LIMIT * np.abs(hand - (low + high) / 2) / ((high - low) / 2)
    if not ratios.max() > LIMIT:
        return j
    at = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
    entry = tuple(int(i) for i in at)
    return replace(
        j, blind=False, ratio=float(ratios[entry]), entry=entry, hand=float(hand[entry]),
        value=float((low + high)[entry] / 2), width=float((high - low)[entry] / 2 / LIMIT),
    )  # fmt: skip


def _settled(
    case: GradientCase,
    oracle: Oracle,
    reference: Reference,
    outcome: CaseOutcome,
    known: frozenset[str] | None,
) -> CaseOutcome:
    """The wrong blocks put to the vote.

    Args:
        case: the case.
        oracle: the one that gave the reference.
        reference: its gradient.
        outcome: every block beside it.
        known: blocks that need no witness any more; None: none does.
    """
    votes: dict[str, Vote] = {}
    witnesses: dict[str, Witness] = {}
    for j in outcome.judged:
        if not j.wrong:
            continue
        if known is None or j.block in known:
            votes[j.block] = Vote.WRONG
            continue
        witnesses[j.block] = witness = along_the_difference(case, oracle, reference, j)
        votes[j.block] = vote(j, witness)
    heard = {witness.by for witness in witnesses.values() if witness.speaks}
    spoke = outcome.spoke | heard
    settled = replace(outcome, votes=votes, witnesses=witnesses, spoke=spoke)
    return _without_doubtful_blocks(oracle, settled)


def _without_doubtful_blocks(oracle: Oracle, outcome: CaseOutcome) -> CaseOutcome:
    """Where a reference contradicts itself or the witnesses, and these agree with the code.

    That is no evidence: JAX's own derivative can overflow to zero or NaN where the code is right.
    """
    votes, judged, doubtful = dict(outcome.votes), list(outcome.judged), ""
    for block, witness in outcome.witnesses.items():
        if votes[block] is not Vote.CONTRADICTION:
            continue
        own = witness.own
        lost = own is not None and not witness.consistent and not np.isfinite(float(own.value))
        if lost or (witness.consistent and witness.speaks and witness.covers(witness.hand)):
            votes[block] = Vote.ABSTAIN
            doubtful = f"{oracle.title}'s derivative of {block} was not believed: " + (
                "its forward mode is not finite"
                if lost
                else f"the {witness.by} agree with the code"
            )
            judged = [replace(j, usable=False) if j.block == block else j for j in judged]
    return replace(outcome, votes=votes, judged=judged, doubtful=doubtful)


def _without_lost_blocks(case: GradientCase, outcome: CaseOutcome) -> CaseOutcome:
    """Where the reference overflows nobody can ask the hand-written code for a number."""
    lost = {
        block
        for block, value in case.hand.gradients.items()
        if not np.isfinite(np.asarray(value)).all()
    }
    judged = [replace(j, usable=False) if j.block in lost else j for j in outcome.judged]
    votes = {block: told for block, told in outcome.votes.items() if block not in lost}
    return replace(outcome, judged=judged, votes=votes)
