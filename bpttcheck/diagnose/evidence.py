"""Collects problems on which a block is wrong, and tries every diagnosis on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from bpttcheck import diagnose
from bpttcheck.blocks import Block
from bpttcheck.diagnose.base import (
    ASSUMED,
    SEQUENCE,
    STEP,
    Blocks,
    Evidence,
    FailingExample,
    Seen,
)
from bpttcheck.diagnose.right import right_gradient
from bpttcheck.diagnose.whole import EditSearch
from bpttcheck.errors import BpttcheckError
from bpttcheck.judge.run import Run
from bpttcheck.judge.verdict import judge, rounding
from bpttcheck.oracles.autodiff.autodiff import Spread
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.results.records import Case, Diagnosis

# These say where a bug shows, not what it is: a further diagnosis may follow.
_CONDITIONS = frozenset(["mask-ignored", "one-size", "saturated", "nonlinear"])
# These locate a bug without a formula for it.
_PLACES = frozenset(["wrong-cotangent"])
# What makes all gradients zero is not a path that is missing in each.
_FIRST = "early-return"
# These are said where nothing else is known.
_LAST = ("mixed-rows",)
_ENOUGH = 2
# What says more than that one gradient stands where another belongs.
_PLAINER = ("scale", "broadcast-row", "swapped-gates")
# A mistake that explains so many blocks is a better name than what fits one of them.
_SEVERAL = 2
# Of different lengths, to distinguish steps counted from the end and from the start.
_RICH_STEPS, _RICH_ROWS = (6, 4, 5), (3, 2, 4)


def explain(
    run: Run,
    check: str,
    mode: str,
    block: str,
    seen: Sequence[Seen],
    failing: Sequence[tuple[Problem, Template | None]],
    search: EditSearch | None = None,
) -> tuple[Diagnosis, ...]:
    """What is wrong with ``block``, best first; empty if nothing fits.

    Args:
        run: the subject and its oracles.
        check: the check that failed.
        mode: ``STEP`` or ``SEQUENCE``.
        block: the block to be explained.
        seen: every case of the check.
        failing: problems known to fail, the original first, with their templates.
        search: the edits of whole sequences, shared by all blocks of the check.
    """
    search = search or EditSearch()
    if mode == SEQUENCE and run.subject.kind == "cell":
        # The loop over time is not the user's, so the error is in a single step.
        step = _evidence(run, check, STEP, Block(block).in_step, seen, [], search)
        if step.examples:
            return _first_fits(replace(step, seen=[_one_step(one) for one in seen]), search)
    return _first_fits(_evidence(run, check, mode, block, seen, failing, search), search)


def _first_fits(evidence: Evidence, search: EditSearch) -> tuple[Diagnosis, ...]:
    """One mistake that explains several blocks; else what fits this block."""
    first = _tried(evidence, _FIRST, diagnose.rule(_FIRST).fit)
    if first is not None:
        return (first,)
    shared = _tried(evidence, "of whole sequences", lambda e: search.best(e, _SEVERAL))
    if shared is not None:
        return (shared,)
    found: list[Diagnosis] = []
    for code in (code for code in diagnose.CODES if code not in (_FIRST, *_LAST)):
        if any(d.code not in _CONDITIONS for d in found):
            break
        one = None
        if code == "wrong-operand" and not evidence.sequence and not found:
            one = _tried(evidence, "of whole sequences", lambda e: search.best(e, codes=_PLAINER))
        one = one or _tried(evidence, code, diagnose.rule(code).fit)
        if one is not None:
            found.append(one)
    if all(d.code in _CONDITIONS for d in found):
        later = [("of whole sequences", search.best)]
        later += [(code, diagnose.rule(code).fit) for code in _LAST]
        one = next(filter(None, (_tried(evidence, *pair) for pair in later)), None)
        if one is not None:
            # An edit of the loop says itself in which cases it shows.
            found = [one] if one.code not in _LAST else [*found, one]
    elif found[0].code in _PLACES:
        one = _tried(evidence, "of whole sequences", search.best)
        found = [one] if one is not None else found
    if not found or found[0].code in _PLACES:
        _mention_jumps(evidence)
    return tuple(found)


# What one block may have beside a mistake that explains others: told from its numbers alone.
_BESIDE = (
    "clipped", "sign", "transposed", "swapped-gates", "batch-reduction", "time-reduction",
    "time-order", "off-by-one", "scale", "zeroed-entry", "broadcast-row", "permuted",
)  # fmt: skip


def explain_beside(
    run: Run,
    check: str,
    mode: str,
    block: str,
    seen: Sequence[Seen],
    failing: Sequence[tuple[Problem, Template | None]],
    search: EditSearch,
) -> tuple[Diagnosis, ...]:
    """What is wrong with a block beside a mistake that explains other blocks of the check.

    Args:
        run: as for :func:`explain`, as are the next five.
        check: the check that failed.
        mode: ``STEP`` or ``SEQUENCE``.
        block: the block to be explained.
        seen: every case of the check.
        failing: problems known to fail.
        search: the one that explained the other blocks.
    """
    if mode == SEQUENCE and run.subject.kind == "cell":
        mode, block, failing = STEP, Block(block).in_step, []
    evidence = _evidence(run, check, mode, block, seen, failing, search)
    for gradients in evidence.notes.get(ASSUMED, []):
        known = [s for s in evidence.examples if id(s) in gradients]
        if not known or len(known) < len(evidence.examples):
            continue
        beside = replace(evidence, examples=[_assuming(s, gradients[id(s)]) for s in known])
        for code in _BESIDE:
            one = _tried(beside, code, diagnose.rule(code).fit)
            if one is not None:
                sentence = f"{one.sentence}, beside what is wrong with other blocks"
                return (replace(one, sentence=sentence),)
    return ()


def _assuming(example: FailingExample, gradients: Blocks) -> FailingExample:
    """The example as if the gradient that a mistake gives were the right one."""
    spreads = {
        block: Spread(np.asarray(gradients[block]), gradients[block] + one.copies - one.value)
        for block, one in example.reference.gradients.items()
    }
    return replace(example, reference=replace(example.reference, gradients=spreads))


def _tried(
    evidence: Evidence, code: str, fit: Callable[[Evidence], Diagnosis | None]
) -> Diagnosis | None:
    try:
        return fit(evidence)
    except BpttcheckError:
        return None  # the subject's code, or JAX, does not take this problem
    except Exception as error:  # an error of ours must not cost the verdict
        evidence.run.code.notes.add(f"the diagnosis {code} broke down: {error!r}; please report it")
        return None


def _mention_jumps(evidence: Evidence) -> None:
    """Where nothing fits, suggest a surrogate slope at a jump, as a guess."""
    step = [example for example in evidence.examples if example.mode == STEP]
    if not step or evidence.run.subject.surrogate:
        return
    try:
        where = evidence.run.jax.paths(step[0].problem).jumps()
    except BpttcheckError:
        return
    if where:
        evidence.run.code.notes.add(
            f"`step` has a jump at {where[0]}, whose derivative is zero; if its backward pass puts "
            "a soft slope there on purpose, declare it (surrogate_step, see docs/how-to/layers.md)"
        )


def _evidence(
    run: Run,
    check: str,
    mode: str,
    block: str,
    seen: Sequence[Seen],
    failing: Sequence[tuple[Problem, Template | None]],
    search: EditSearch,
) -> Evidence:
    like = failing[-1][0].case if failing else None
    found: list[FailingExample] = []
    for problem, template in _problems(run, mode, like, failing):
        example = search.example(problem, lambda p=problem, t=template: _example(run, mode, p, t))
        if example is not None and block in example.wrong:
            shown = (problem.case.n_in, problem.case.n_hidden, problem.case.T)
            if all((s.problem.case.n_in, s.problem.case.n_hidden, s.problem.case.T) != shown
                   for s in found):  # fmt: skip
                found.append(example)
        if len(found) == _ENOUGH:
            break
    return Evidence(run, check, mode, block, found, seen, search.notes)


def _problems(
    run: Run,
    mode: str,
    like: Case | None,
    failing: Sequence[tuple[Problem, Template | None]],
) -> Iterator[tuple[Problem, Template | None]]:
    """General problems first: no size is 1 or equals another; then the ones known to fail."""
    manners = [("float64", "ordinary", "none")]
    if like is not None:
        manners += [("float64", like.regime, like.mask), (like.dtype, like.regime, like.mask)]
    for dtype, regime, mask in dict.fromkeys(manners):
        if dtype not in run.dtypes:
            continue
        # A function is traced at its own sizes, of which the first and the third are general.
        is_function = run.subject.traits.signature is not None
        templates = [run.cases.templates[i] for i in ((2, 0, 1) if is_function else (2, 1, 3))]
        for template, T, B in zip(templates, _RICH_STEPS, _RICH_ROWS, strict=True):
            case = _rich(run, mode, template, (T, B), dtype, regime, mask)
            try:
                yield run.cases.problem(case), template
            except BpttcheckError:
                continue
    yield from reversed(failing)


def _rich(
    run: Run, mode: str, t: Template, most: tuple[int, int], dtype: str, regime: str, mask: str
) -> Case:
    T = 1 if mode == STEP else (t.T if t.exact else min(t.T, most[0]))
    B = t.B if t.exact else min(t.B, most[1])
    plain = mode == STEP or T * B == 1 or not run.subject.supports_mask
    return Case(run.seed, -1, T, B, t.n_in, t.n_hidden, dtype, "none" if plain else mask, regime)


def _example(
    run: Run, mode: str, problem: Problem, template: Template | None
) -> FailingExample | None:
    try:
        hand = run.code.run(mode, problem)
        reference = right_gradient(run, mode, problem, template)
    except BpttcheckError:
        return None
    unit, tiny = rounding(problem.dtype)
    wrong = tuple(
        block
        for block, spread in reference.gradients.items()
        if judge(block, hand.gradients[block], spread.value, spread.copies, unit, tiny).wrong
    )
    finite = all(np.isfinite(value).all() for value in hand.forward.values())
    return FailingExample(run, mode, problem, template, hand, reference, wrong) if finite else None


def _one_step(one: Seen) -> Seen:
    def named(blocks: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(Block(block).in_step for block in blocks)

    return replace(one, wrong=named(one.wrong), judged=named(one.judged))
