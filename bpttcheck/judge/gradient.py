"""One gradient case against its oracles: what ``step_vjp`` and ``sequence_vjp`` do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck import trees
from bpttcheck.blocks import Block, d_state0, of_state, state_T
from bpttcheck.calibration import BLOCK_FLOOR, COPIES, DIFFERENCE_LIMIT, LAW_COPIES, LIMIT
from bpttcheck.errors import BpttcheckError, Declined
from bpttcheck.judge.run import Hand, Reference, Run
from bpttcheck.judge.verdict import Judged, Vote, Witness, judge, rounding, vote
from bpttcheck.oracles.autodiff.autodiff import Spread
from bpttcheck.oracles.estimate import Estimate, rms
from bpttcheck.problems.large import FIRST
from bpttcheck.problems.noisy_array import copies as noisy_copies
from bpttcheck.problems.noisy_array import deviations
from bpttcheck.problems.problem import FEW, Problem, Template, in_float64

Array = NDArray[Any]

# Above this many steps the differences cost more than they tell; JAX judges alone.
LONGEST_DIFFERENCE = 40
# Beyond the first round, differences look at every so many cases in which hand and JAX agree.
_LOOKED_AT = 3
# Directions through all blocks at a new size, of which the differences may abstain from one.
_AT_ONCE = 3
# A relative bar narrow enough for a spot check: hand and JAX agree already, to rounding.
_NARROW = 1e-6


@dataclass
class CaseOutcome:
    """What one case says.

    Args:
        problem: the case with its values.
        hand: the hand-derived side; None if the case was not judged.
        judged: blocks beside JAX, or beside the differences where JAX is silent.
        votes: the blocks that differ, and who is believed.
        witnesses: differences by block.
        spoke: the oracles that spoke.
        skipped: why the case was not judged at all, or ``""``.
        declined: why JAX was silent, or ``""``.
        forward: outputs of the forward pass that are not those of a reference that was given.
        doubtful: why JAX was not believed in this case, or ``""``.
    """

    problem: Problem
    hand: Hand | None = None
    judged: list[Judged] = field(default_factory=list)
    votes: dict[str, Vote] = field(default_factory=dict)
    witnesses: dict[str, Witness] = field(default_factory=dict)
    spoke: set[str] = field(default_factory=set)
    skipped: str = ""
    declined: str = ""
    forward: list[Judged] = field(default_factory=list)
    doubtful: str = ""

    @property
    def wrong(self) -> list[Judged]:
        """The blocks that are wrong, worst first."""
        found = [j for j in self.judged if self.votes.get(j.block) is Vote.WRONG]
        return sorted(found, key=lambda j: -j.ratio)


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
        confirm: ask the differences too; False trusts JAX alone (for shrinking).
        differences_only: leave JAX out, which would have to compile this shape.
        known: blocks already convicted with the differences' consent: for them JAX is enough now,
            and where nothing new is wrong the differences are not asked.

    Raises:
        ContractError: if the subject's own code fails.
    """
    hand = run.code.run(mode, problem)
    broken = [name for name, value in hand.forward.items() if _broken(name, value, problem)]
    if broken:
        return CaseOutcome(problem, skipped=_first_nonfinite(hand, broken))
    outcome = CaseOutcome(problem, hand)
    if differences_only:
        _without_jax(run, mode, outcome)
        return outcome
    try:
        reference = run.reference(mode, problem, template)
    except Declined as declined:
        outcome.declined = str(declined)
        _without_jax(run, mode, outcome)
        return outcome
    outcome.forward = _forward_differences(hand, reference, problem)
    if any(j.wrong for j in outcome.forward):
        # A scan in another order, a state in logarithms: its own rounding is in the bar, too.
        noise = _own_noise(run, mode, outcome, lambda one: one.forward)
        outcome.forward = _forward_differences(hand, reference, problem, noise)
    if any(j.wrong for j in outcome.forward) and run.subject.reference is not None:
        return outcome  # the reference was given: a layer that is not what it claims to be
    differs = _told(outcome.forward)
    if differs:
        lost = not any(j.usable for j in outcome.forward[:1])
        outcome.forward = []
        operation = run.jax.departure(mode, problem)
        leaves = f"the traced forward pass leaves the native one at {operation}"
        outcome.declined = f"{leaves}; pass `reference=`" if operation else differs
        _without_jax(run, mode, outcome)
        if lost:
            outcome.judged = [_unless_lost(outcome, j) for j in outcome.judged]
        return outcome
    if _beyond_range(reference, problem):
        outcome.skipped = f"range: the gradient itself overflows {problem.case.dtype}"
        return outcome
    outcome.spoke.add("jax")
    unit, tiny = rounding(problem.dtype)
    for block, spread in reference.gradients.items():
        value = hand.gradients[block]
        outcome.judged.append(judge(block, value, spread.value, spread.copies, unit, tiny))
    outcome.judged = [_unblinded(run, mode, outcome, j, template) for j in outcome.judged]
    if not any(j.usable for j in outcome.judged):
        outcome.declined = "its own gradient is not finite, which is no fault of this code"
        outcome.spoke.discard("jax")
        outcome.judged = []
        _without_jax(run, mode, outcome)
        # Where JAX overflows as well nobody can ask the hand-written code for a number.
        outcome.judged = [_unless_lost(outcome, j) for j in outcome.judged]
        return outcome
    smooth = problem.case.regime not in ("at_kinks", "near_kinks")  # there noise turns branches
    if confirm and smooth and any(j.wrong and j.block not in known for j in outcome.judged):
        outcome.judged = _within_its_own_rounding(run, mode, outcome, reference, known)
    wrong = [j for j in outcome.judged if j.wrong]
    if (
        wrong
        and not any(np.isfinite(j.hand) for j in wrong)
        and _nearly_overflows(run, mode, problem)
    ):
        outcome.judged = []
        outcome.skipped = (
            f"range: the gradient overflows {problem.case.dtype} where the forward pass nearly does"
        )
        return outcome
    for j in wrong:
        new = confirm and j.block not in known
        outcome.votes[j.block] = (
            _settle(run, outcome, j, reference, template) if new else Vote.WRONG
        )
    if confirm and not wrong and not known:
        _spot_check(run, outcome, reference)
    _doubts(outcome)
    return outcome


def _unless_lost(outcome: CaseOutcome, j: Judged) -> Judged:
    assert outcome.hand is not None
    if np.isfinite(np.asarray(outcome.hand.gradients[j.block])).all():
        return j
    outcome.votes.pop(j.block, None)
    return replace(j, usable=False)


def _within_its_own_rounding(
    run: Run, mode: str, outcome: CaseOutcome, reference: Reference, known: frozenset[str]
) -> list[Judged]:
    """The wrong blocks once more: the noise of the hand-written code itself is in the bar, too.

    Code that rebuilds its states, or subtracts numbers that are nearly equal, may be right and lose
    digits that JAX's way to the same numbers keeps.
    """
    assert outcome.hand is not None
    noise = _own_noise(run, mode, outcome)
    unit, tiny = rounding(outcome.problem.dtype)
    found: list[Judged] = []
    for j in outcome.judged:
        if j.wrong and np.isfinite(j.hand) and j.block in noise and j.block not in known:
            spread = reference.gradients[j.block]
            # Each of the two noises counts whole: the rms over all copies would halve them.
            copies = np.concatenate([spread.copies, spread.value + np.sqrt(2) * noise[j.block]])
            value = outcome.hand.gradients[j.block]
            again = judge(j.block, value, spread.value, copies, unit, tiny)
            j = again if again.usable else j
        found.append(j)
    return found


def _doubts(outcome: CaseOutcome) -> None:
    """Where JAX contradicts itself or the differences, and these agree with the code: no evidence.

    JAX's own derivative can overflow to zero or NaN where the code is right.
    """
    for block, told in list(outcome.votes.items()):
        witness = outcome.witnesses.get(block)
        if told is not Vote.CONTRADICTION or witness is None:
            continue
        forward = witness.forward_mode
        lost = forward is not None and not np.isfinite(forward)
        if lost or (forward is None and witness.speaks and witness.covers(witness.hand)):
            outcome.votes[block] = Vote.ABSTAIN
            outcome.doubtful = f"JAX's derivative of {block} was not believed: " + (
                "its forward mode is not finite" if lost else "the differences agree with the code"
            )
            outcome.judged = [
                replace(j, usable=False) if j.block == block else j for j in outcome.judged
            ]


def _broken(name: str, value: Array, problem: Problem) -> bool:
    """True for what is not finite, unless the state started at an infinity, as a maximum does."""
    if np.isfinite(value).all():
        return False
    if Block(name).kind == "new_state" and not np.isnan(value).any():
        start = of_state(state_T(), problem.state0).get(Block(name).in_sequence)
        return start is None or not np.isinf(start).any()
    return True


def _unblinded(
    run: Run, mode: str, outcome: CaseOutcome, j: Judged, template: Template | None
) -> Judged:
    """A blind block is no evidence, with two exceptions that no rounding explains.

    A value that is not finite where JAX and all its copies are; and, exactly at a kink, a value
    outside the hull of what the branches allow.
    """
    if not j.blind or not j.ratio > 1:
        return j
    assert outcome.hand is not None
    hand = np.asarray(outcome.hand.gradients[j.block], np.float64)
    if not np.isfinite(hand).all():
        return replace(j, blind=False)
    if outcome.problem.case.regime != "at_kinks":
        return j
    low, high = _hull(run, mode, outcome.problem, j.block, template)
    ratios = LIMIT * np.abs(hand - (low + high) / 2) / ((high - low) / 2)
    if not ratios.max() > LIMIT:
        return j
    at = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
    entry = tuple(int(i) for i in at)
    return replace(
        j, blind=False, ratio=float(ratios[entry]), entry=entry, hand=float(hand[entry]),
        value=float((low + high)[entry] / 2), width=float((high - low)[entry] / 2 / LIMIT),
    )  # fmt: skip


def _hull(
    run: Run, mode: str, problem: Problem, block: str, template: Template | None
) -> tuple[Array, Array]:
    """How small and how large every entry of a block may be at a kink.

    Real code decides a branch the same way everywhere, so the copies go through the consistent
    decisions. A slope between the two sides may leave their hull, by less than the hull's width.
    """
    rng = np.random.default_rng(problem.case.seed)
    patterns = np.concatenate([np.arange(32), rng.integers(0, 2**15, 32)]).reshape(-1, COPIES)
    unit, tiny = rounding(problem.dtype)
    runs = [run.reference(mode, problem, template)]
    runs += [run.reference(mode, problem, template, [int(p) for p in row]) for row in patterns]
    value = runs[0].gradients[block].value
    copies = np.concatenate([one.gradients[block].copies for one in runs])
    low, high = np.minimum(value, copies.min(axis=0)), np.maximum(value, copies.max(axis=0))
    room = high - low
    room = room / 2 + BLOCK_FLOOR * room.max(initial=0.0) + LIMIT * (unit * np.abs(value) + tiny)
    return low - room, high + room


def _settle(
    run: Run, outcome: CaseOutcome, j: Judged, reference: Reference, template: Template | None
) -> Vote:
    """Ask forward mode and the differences, along the very direction of the disagreement."""
    spread = reference.gradients[j.block]
    assert outcome.hand is not None
    gap = np.nan_to_num(
        np.asarray(outcome.hand.gradients[j.block], np.float64) - spread.value,
        nan=1.0, posinf=1.0, neginf=-1.0,
    )  # fmt: skip
    along = {j.block: gap / np.linalg.norm(gap / np.abs(gap).max()) / np.abs(gap).max()}
    witness = _witness(run, outcome, along, reference.gradients)
    forward = run.jax.forward_mode(outcome.problem, along, template)
    gap = abs(float(forward.value) - witness.jax)
    consistent = gap <= LIMIT * (witness.noise + float(forward.error))
    outcome.witnesses[j.block] = (
        witness if consistent else replace(witness, forward_mode=float(forward.value))
    )
    if witness.speaks:
        outcome.spoke.add("differences")
    return vote(j, witness, consistent)


def _spot_check(run: Run, outcome: CaseOutcome, reference: Reference) -> None:
    """Where hand and JAX agree, differences along one direction; all blocks get their turn."""
    case = outcome.problem.case
    if case.T > LONGEST_DIFFERENCE or (case.index >= FEW and case.index % _LOOKED_AT):
        return
    blocks = [j.block for j in outcome.judged if j.usable and not j.blind and not j.null]
    if not blocks:
        return
    turn = (case.index if case.index < FEW else case.index // _LOOKED_AT) % (len(blocks) + 1)
    chosen = blocks if turn == len(blocks) else [blocks[turn]]
    witnesses: list[Witness] = []
    for attempt in range(2):
        along = _random_direction(outcome, chosen, attempt)
        enough = _NARROW if attempt == 0 else 0.0
        witnesses.append(_witness(run, outcome, along, reference.gradients, enough))
        if not np.isfinite(witnesses[-1].bar):
            return
        outcome.spoke.add("differences")
        if witnesses[-1].covers(witnesses[-1].jax):
            return
    # Twice contradicted: ask along each block alone, for one of another scale may have misled both.
    for block in chosen:
        witness = _alone(run, outcome, block, reference)
        if witness is not None:
            outcome.votes[block] = Vote.CONTRADICTION
            outcome.witnesses[block] = witness


def _alone(run: Run, outcome: CaseOutcome, block: str, reference: Reference) -> Witness | None:
    """What contradicts JAX along two directions of one block, or None."""
    found: list[Witness] = []
    for attempt in range(2, 5):
        along = _random_direction(outcome, [block], attempt)
        witness = _witness(run, outcome, along, reference.gradients)
        if np.isfinite(witness.bar) and not witness.covers(witness.jax):
            found.append(witness)
    return found[-1] if len(found) > 1 else None


def _without_jax(run: Run, mode: str, outcome: CaseOutcome) -> None:
    """JAX is silent: every block in turn against differences, believed if two directions agree."""
    assert outcome.hand is not None
    if outcome.problem.case.T > LONGEST_DIFFERENCE:
        outcome.skipped = "JAX declined, and the sequence is too long for differences"
        return
    # Where JAX was not asked the sizes are new: what begins at a size is no rounding error.
    new_sizes = not outcome.declined or outcome.problem.case.index >= FIRST
    if new_sizes and _right_at_once(run, outcome):
        return
    rounding_error = _own_rounding(run, mode, outcome)
    noise: dict[str, Array] | None = None  # asked for before a conviction: it costs a lot
    for block in outcome.hand.gradients:
        witnesses: list[Witness] = []
        for attempt in range(3):
            along = _random_direction(outcome, [block], attempt)
            witness = _witness(run, outcome, along, {})
            if witness.difference.hull is not None:
                witness = _at_a_kink(witness)
            if block in rounding_error:
                more = abs(float((rounding_error[block] * along[block]).sum()))
                witness = replace(witness, noise=witness.noise + more)
            if np.isfinite(witness.bar) and not witness.covers(witness.hand):
                noise = _own_noise(run, mode, outcome) if noise is None else noise
                if block in noise:
                    moved = (noise[block] * along[block]).reshape(len(noise[block]), -1).sum(axis=1)
                    witness = replace(witness, noise=witness.noise + float(rms(moved)))
            witnesses.append(witness)
            if not np.isfinite(witness.bar) or witness.covers(witness.hand):
                break
        worst = witnesses[-1]
        outcome.witnesses[block] = worst
        usable = bool(np.isfinite(worst.bar))
        if usable:
            outcome.spoke.add("differences")
        j = _judged_by_difference(block, worst, usable)
        outcome.judged.append(j)
        if usable and len(witnesses) == 3:
            outcome.votes[block] = Vote.WRONG


def _right_at_once(run: Run, outcome: CaseOutcome) -> bool:
    """At a new size: one direction through all blocks, each moved in proportion to its gradient.

    A spot check's bar will do; where it contradicts, every block is asked for itself.
    """
    assert outcome.hand is not None
    gradients = outcome.hand.gradients
    sizes = {b: float(np.linalg.norm(np.asarray(g, np.float64))) for b, g in gradients.items()}
    largest = max(sizes.values(), default=0.0)
    if not (np.isfinite(largest) and largest > 0):
        return False
    for attempt in range(_AT_ONCE):
        along = _random_direction(outcome, list(gradients), attempt)
        along = {b: v / max(sizes[b], 1e-3 * largest) for b, v in along.items()}
        witness = _witness(run, outcome, along, {}, _NARROW)
        if np.isfinite(witness.bar):
            break
    else:
        if outcome.problem.case.index < FIRST:
            return False
        # So wide that every block for itself would cost more than all else.
        outcome.skipped = "the differences abstain at this size"
        return True
    size = abs(float(witness.difference.value))
    if not (witness.bar <= 1e-4 * size and witness.covers(witness.hand)):
        return False
    outcome.spoke.add("differences")
    outcome.judged = [
        replace(_judged_by_difference(block, witness, True), null=not np.any(gradient))
        for block, gradient in gradients.items()
    ]
    return True


def _at_a_kink(witness: Witness) -> Witness:
    """Anything between the one-sided slopes is right at a kink."""
    low, high = sorted(witness.difference.hull or (0.0, 0.0))
    middle, half = (low + high) / 2, (high - low) / 2
    return replace(
        witness, difference=replace(witness.difference, value=middle, error=half / DIFFERENCE_LIMIT)
    )


def _own_noise(
    run: Run,
    mode: str,
    outcome: CaseOutcome,
    part: Callable[[Hand], Mapping[str, Array]] = lambda one: one.gradients,
) -> dict[str, Array]:
    """How far noise in every operation of the code itself moves its numbers, copy by copy.

    And how far they move from call to call. From the mean of the copies, not from the number that
    is judged: where that one took a branch which no copy takes, it is wrong and not noisy.

    Args:
        run: the subject.
        mode: ``"step"`` or ``"sequence"``.
        outcome: the case.
        part: which numbers; the gradients unless told otherwise.
    """
    assert outcome.hand is not None
    exact, case = part(outcome.hand), outcome.problem.case
    found = noisy_copies(
        lambda p: dict(part(run.code.run(mode, p))), outcome.problem,
        (case.seed, abs(case.index), 31), LAW_COPIES,
    )  # fmt: skip
    # Sums whose order changes from call to call: their spread is noise, too.
    again = [part(run.code.run(mode, outcome.problem)) for _ in range(LAW_COPIES)]
    groups = [group for group in (found, again) if group]
    return {
        block: np.nan_to_num(np.concatenate([deviations(group, block) for group in groups]))
        for block in exact
    }


def _own_rounding(run: Run, mode: str, outcome: CaseOutcome) -> dict[str, Array]:
    """How far the float32 gradient is from the same code in float64.

    Without JAX there is no noise to tell what rounding does to ``1 - tanh^2`` in a saturated cell.
    A block that is lost in it becomes blind, not right.
    """
    assert outcome.hand is not None
    if outcome.problem.dtype == np.float64:
        return {}
    try:
        double = run.code.run(mode, in_float64(outcome.problem))
    except BpttcheckError:
        return {}  # code for float32 alone
    return {
        block: np.nan_to_num(np.asarray(g, np.float64) - np.asarray(outcome.hand.gradients[block]))
        for block, g in double.gradients.items()
    }


def _judged_by_difference(block: str, witness: Witness, usable: bool) -> Judged:
    """A witness in the terms of a block: ratios are scaled to the limit of the other oracle."""
    value, bar = float(witness.difference.value), witness.bar
    if not usable:
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


def _witness(
    run: Run,
    outcome: CaseOutcome,
    along: Mapping[str, Array],
    spreads: Mapping[str, Spread],
    enough: float = 0.0,
) -> Witness:
    hand = outcome.hand
    assert hand is not None
    unit, tiny = rounding(outcome.problem.dtype)
    mine = theirs = magnitude = 0.0
    noise = np.zeros(1)
    with np.errstate(all="ignore"):
        for block, v in along.items():
            g = np.asarray(hand.gradients[block], np.float64)
            mine += float((g * v).sum())
            magnitude += float(np.abs(g * v).sum())
            if block in spreads:
                s = spreads[block]
                theirs += float((s.value * v).sum())
                axes = tuple(range(1, s.copies.ndim))
                noise = noise + ((s.copies - s.value) * v).sum(axis=axes)
    try:
        difference = run.difference(outcome.problem, along, enough)
    except BpttcheckError as silent:
        difference = Estimate(np.float64(np.nan), np.float64(np.inf), note=str(silent))
    # Below the smallest normal number rounding is absolute.
    smallest = tiny * sum(float(np.abs(v).sum()) for v in along.values())
    total = float(rms(noise)) + 4 * unit * magnitude + smallest
    if not np.isfinite(total):
        total = 0.0
    return Witness(difference, mine, theirs if spreads else np.nan, total)


def _random_direction(outcome: CaseOutcome, blocks: list[str], attempt: int) -> dict[str, Array]:
    """Random unit directions, a function of the case."""
    assert outcome.hand is not None
    case = outcome.problem.case
    rng = np.random.default_rng([case.seed, abs(case.index), 7, attempt, len(blocks)])
    out: dict[str, Array] = {}
    for block in blocks:
        v = rng.standard_normal(np.shape(outcome.hand.gradients[block]))
        v = np.where(_movable(outcome.problem, block, np.shape(v)), v, 0.0)
        out[block] = v / (np.linalg.norm(v) or 1.0)
    return out


def _movable(problem: Problem, block: str, shape: tuple[int, ...]) -> Array:
    """Where an input is finite: differences do not move a state that starts at -inf."""
    leaf = of_state(d_state0(), problem.state0).get(Block(block).in_sequence)
    return np.ones(shape, bool) if leaf is None else np.isfinite(np.asarray(leaf))


def _forward_differences(
    hand: Hand, reference: Reference, problem: Problem, noise: Mapping[str, Array] | None = None
) -> list[Judged]:
    """The outputs in which the reference's forward pass is not the native one, the worst first.

    Args:
        hand: the native one.
        reference: JAX's, with its noisy copies.
        problem: the point.
        noise: how far rounding moves the native one, copy by copy.
    """
    unit, tiny = rounding(problem.dtype)
    found: list[Judged] = []
    for name, spread in reference.forward.items():
        native = np.asarray(hand.forward[name], np.float64)
        # What is infinite on both sides, as a running maximum of nothing, is equal.
        same = np.isinf(native) & (native == spread.value)
        value = np.where(same, 0.0, spread.value)
        copies = np.where(same, 0.0, spread.copies)
        if noise and name in noise:
            copies = np.concatenate([copies, value + np.sqrt(2) * noise[name]])
        j = judge(name, np.where(same, 0.0, native), value, copies, unit, tiny)
        if j.wrong or not j.usable:
            found.append(j)
    return sorted(found, key=lambda j: -np.nan_to_num(j.ratio, nan=np.inf))


def _told(differences: Sequence[Judged]) -> str:
    """Why the traced forward pass is not the native one, or ``""``."""
    if not differences:
        return ""
    j = differences[0]
    if not j.usable:
        return f"the traced forward pass is not finite in {j.block} where the native one is"
    return (
        f"the traced forward pass differs from the native one in {j.block}; does the step "
        "change its arguments, mix its rows, or draw random numbers? Else pass `reference=`"
    )


def _beyond_range(reference: Reference, problem: Problem) -> bool:
    """True if the right gradient is too large for the checked dtype: nobody's mistake."""
    most = float(np.finfo(problem.dtype).max) * 1e-3
    return any(np.abs(s.value).max(initial=0.0) > most for s in reference.gradients.values())


def _nearly_overflows(run: Run, mode: str, problem: Problem) -> bool:
    """True if the forward pass fails with parameters twice as large, or all arguments.

    ``p ** 62`` under a sum is still a number in float32 where its gradient overflows, and
    ``p ** 124`` is zero. A gradient that overflows where the forward pass is far from it is wrong.
    """
    twice = replace(problem, params=_doubled(problem.params))
    both = replace(twice, xs=2 * problem.xs, state0=_doubled(problem.state0))
    for larger in (twice, both):
        try:
            forward = run.code.run(mode, larger).forward
        except BpttcheckError:
            return False
        if not all(np.isfinite(value).all() for value in forward.values()):
            return True
    return False


def _doubled(tree: Any) -> Any:
    return trees.map_leaves(lambda leaf: leaf * 2 if leaf.dtype.kind == "f" else leaf, tree)


def _first_nonfinite(hand: Hand, broken: list[str]) -> str:
    name = broken[0]
    where = np.argwhere(~np.isfinite(hand.forward[name]))[0]
    step = f" at t={where[0]}" if name == "ys" else ""
    return f"the forward pass is not finite (first in {name}{step})"
