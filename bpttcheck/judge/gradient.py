"""One gradient case against its oracles: what ``step_vjp`` and ``sequence_vjp`` do.

The first oracle that gives a gradient of the case is its reference. Every block is compared with
it; the others are witnesses along directions. Where there is no reference they judge alone. A
reference whose forward pass is another one judges no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck import trees
from bpttcheck.blocks import Block, of_state, state_T
from bpttcheck.calibration import DIFFERENCE_LIMIT, LIMIT
from bpttcheck.errors import BpttcheckError, Declined
from bpttcheck.judge.case import GradientCase
from bpttcheck.judge.directions import (
    LONGEST_DIFFERENCE,
    NARROW,
    Vote,
    Witness,
    along_the_difference,
    measured,
    random_direction,
    spot_check,
    vote,
)
from bpttcheck.judge.handwritten import Hand
from bpttcheck.judge.oracle import Oracle, Reference
from bpttcheck.judge.outcome import CaseOutcome
from bpttcheck.judge.own_noise import own_noise, own_rounding, within_own_noise
from bpttcheck.judge.run import Run
from bpttcheck.judge.verdict import Judged, judge, rounding, width
from bpttcheck.oracles.estimate import rms
from bpttcheck.problems.large import FIRST
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


Array = NDArray[Any]


def not_finite(hand: Hand, problem: Problem) -> str:
    """Which output of the native forward pass is first not finite, or ``""``."""
    broken = [name for name, value in hand.forward.items() if _broken(name, value, problem)]
    if not broken:
        return ""
    name = broken[0]
    where = np.argwhere(~np.isfinite(hand.forward[name]))[0]
    step = f" at t={where[0]}" if name == "ys" else ""
    return f"the forward pass is not finite (first in {name}{step})"


def _broken(name: str, value: Array, problem: Problem) -> bool:
    """True for what is not finite, unless the state started at an infinity, as a maximum does."""
    if np.isfinite(value).all():
        return False
    if Block(name).kind == "new_state" and not np.isnan(value).any():
        start = of_state(state_T(), problem.state0).get(Block(name).in_sequence)
        return start is None or not np.isinf(start).any()
    return True


def differing_outputs(case: GradientCase, reference: Reference) -> list[Judged]:
    """The outputs in which the reference's forward pass is not the native one, the worst first."""
    found = _forward_compared(case, reference, {})
    if any(j.wrong for j in found):
        # A scan in another order, a state in logarithms: its own rounding is in the bar, too.
        found = _forward_compared(case, reference, own_noise(case, lambda one: one.forward))
    return found


def _forward_compared(
    case: GradientCase, reference: Reference, noise: Mapping[str, Array]
) -> list[Judged]:
    """The outputs that differ.

    Args:
        case: the native ones.
        reference: the reference's, with its noisy copies.
        noise: how far rounding moves the native ones, copy by copy.
    """
    unit, tiny = rounding(case.problem.dtype)
    found: list[Judged] = []
    for name, spread in reference.forward.items():
        native = np.asarray(case.hand.forward[name], np.float64)
        # What is infinite on both sides, as a running maximum of nothing, is equal.
        same = np.isinf(native) & (native == spread.value)
        value = np.where(same, 0.0, spread.value)
        copies = np.where(same, 0.0, spread.copies)
        if name in noise:
            copies = np.concatenate([copies, value + np.sqrt(2) * noise[name]])
        j = judge(name, np.where(same, 0.0, native), value, copies, unit, tiny)
        if j.wrong or not j.usable:
            found.append(j)
    return sorted(found, key=lambda j: -np.nan_to_num(j.ratio, nan=np.inf))


def why_not_compared(differing: Sequence[Judged], operation: str) -> str:
    """Why a gradient of another forward pass is no reference.

    Args:
        differing: the outputs that differ, the worst first.
        operation: where the traced pass leaves the native one, or ``""``.
    """
    if operation:
        leaves = f"the traced forward pass leaves the native one at {operation}"
        return f"{leaves}; pass `reference=`"
    j = differing[0]
    if not j.usable:
        return f"the traced forward pass is not finite in {j.block} where the native one is"
    return (
        f"the traced forward pass differs from the native one in {j.block}; if it does in every "
        "case, the step changes its arguments, mixes its rows or draws random numbers, or "
        "`reference=` is needed"
    )


def nearly_overflows(case: GradientCase) -> bool:
    """True if the forward pass fails with parameters twice as large, or all arguments.

    ``p ** 62`` under a sum is still a number in float32 where its gradient overflows, and
    ``p ** 124`` is zero. A gradient that overflows where the forward pass is far from it is wrong.
    """
    problem = case.problem
    twice = replace(problem, params=_doubled(problem.params))
    both = replace(twice, xs=2 * problem.xs, state0=_doubled(problem.state0))
    for larger in (twice, both):
        try:
            forward = case.run.code.run(case.mode, larger).forward
        except BpttcheckError:
            return False
        if not all(np.isfinite(value).all() for value in forward.values()):
            return True
    return False


def _doubled(tree: Any) -> Any:
    return trees.map_leaves(lambda leaf: leaf * 2 if leaf.dtype.kind == "f" else leaf, tree)


# Directions through all blocks at a new size, of which the witnesses may abstain from one.
_AT_ONCE = 3
# Directions of one block, all of which must contradict the code before it is wrong.
_ATTEMPTS = 3


def judged_by_slopes(case: GradientCase, declined: Mapping[str, str]) -> CaseOutcome:
    """Every block in turn along directions, believed if several agree.

    Args:
        case: the case.
        declined: by oracle, why its gradient is not there; empty: none was asked.
    """
    outcome = CaseOutcome(case.problem, case.hand, declined=declined)
    structure = case.problem.case
    larger = structure.index >= FIRST
    if structure.T > LONGEST_DIFFERENCE and not larger:
        too_long = "JAX declined, and the sequence is too long for differences"
        return replace(outcome, skipped=too_long)
    # Where JAX was not asked the sizes are new: what begins at a size is no rounding error.
    if not declined or larger:
        at_once = _right_at_once(case, outcome)
        if at_once is not None:
            return at_once
    rounding_error = own_rounding(case)
    noise: dict[str, Array] | None = None  # asked for before a conviction: it costs a lot
    judged: list[Judged] = []
    votes: dict[str, Vote] = {}
    found: dict[str, Witness] = {}
    for block in case.hand.gradients:
        contradicted = 0
        for attempt in range(_ATTEMPTS):
            along = random_direction(case, [block], attempt)
            witness = _with_rounding(measured(case, along, {}), along, block, rounding_error)
            if _contradicts(witness):
                noise = own_noise(case) if noise is None else noise
                witness = _with_noise(witness, along, block, noise)
            found[block] = witness
            if not _contradicts(witness):
                break
            contradicted += 1
        judged.append(_judged(block, found[block]))
        if contradicted == _ATTEMPTS:
            votes[block] = Vote.WRONG
    spoke = frozenset(witness.by for witness in found.values() if np.isfinite(witness.bar))
    return replace(outcome, judged=judged, votes=votes, witnesses=found, spoke=spoke)


def _contradicts(witness: Witness) -> bool:
    return bool(np.isfinite(witness.bar)) and not witness.covers(witness.hand)


def _with_rounding(
    witness: Witness, along: Mapping[str, Array], block: str, error: Mapping[str, Array]
) -> Witness:
    """The witness with a bar that holds at kinks, and with what rounding does to the product."""
    if witness.estimate.hull is not None:
        witness = _at_a_kink(witness, witness.estimate.hull)
    if block not in error:
        return witness
    more = abs(float((error[block] * along[block]).sum()))
    return replace(witness, noise=witness.noise + more)


def _with_noise(
    witness: Witness, along: Mapping[str, Array], block: str, noise: Mapping[str, Array]
) -> Witness:
    if block not in noise:
        return witness
    moved = (noise[block] * along[block]).reshape(len(noise[block]), -1).sum(axis=1)
    return replace(witness, noise=witness.noise + float(rms(moved)))


def _right_at_once(case: GradientCase, outcome: CaseOutcome) -> CaseOutcome | None:
    """At a new size: one direction through all blocks, each moved in proportion to its gradient.

    A spot check's bar will do.

    Returns:
        The outcome; None where it contradicts, and every block is asked for itself.
    """
    gradients = case.hand.gradients
    sizes = {b: float(np.linalg.norm(np.asarray(g, np.float64))) for b, g in gradients.items()}
    largest = max(sizes.values(), default=0.0)
    if not (np.isfinite(largest) and largest > 0):
        return None
    for attempt in range(_AT_ONCE):
        along = random_direction(case, list(gradients), attempt)
        along = {b: v / max(sizes[b], 1e-3 * largest) for b, v in along.items()}
        witness = measured(case, along, {}, NARROW)
        if np.isfinite(witness.bar):
            break
    else:
        if case.problem.case.index < FIRST:
            return None
        # So wide that every block for itself would cost more than all else.
        return replace(outcome, skipped="the differences abstain at this size")
    size = abs(float(witness.estimate.value))
    if not (witness.bar <= 1e-4 * size and witness.covers(witness.hand)):
        return None
    judged = [
        replace(_judged(block, witness), null=not np.any(gradient))
        for block, gradient in gradients.items()
    ]
    return replace(outcome, judged=judged, spoke=frozenset({witness.by}))


def _at_a_kink(witness: Witness, hull: tuple[float, float]) -> Witness:
    """Anything between the one-sided slopes is right at a kink."""
    low, high = sorted(hull)
    middle, half = (low + high) / 2, (high - low) / 2
    wide = replace(witness.estimate, value=middle, error=half / DIFFERENCE_LIMIT)
    return replace(witness, estimates={witness.by: wide})


def _judged(block: str, witness: Witness) -> Judged:
    """A witness in the terms of a block: ratios are scaled to the limit of the other oracle."""
    value, bar = float(witness.estimate.value), witness.bar
    if not np.isfinite(bar):
        return Judged(block, np.nan, (), witness.hand, value, bar, np.nan, np.inf, usable=False)
    gap = abs(value - witness.hand)
    ratio = np.inf if gap else 0.0
    if bar and np.isfinite(gap):
        ratio = gap / bar * LIMIT / DIFFERENCE_LIMIT
    size = abs(value)
    resolution = DIFFERENCE_LIMIT * bar / size if size else np.inf
    null = value == 0 and witness.hand == 0
    return Judged(
        block, ratio, (), witness.hand, value, bar, gap / size if size else gap, resolution,
        blind=bool(size > 0 and bar > 0.1 * size) and not null, null=null,
    )  # fmt: skip
