"""Collects problems on which a block is wrong, and tries every diagnosis on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from bpttcheck import diagnose
from bpttcheck.blocks import Block
from bpttcheck.diagnose.base import SEQUENCE, STEP, Evidence, FailingExample, Seen
from bpttcheck.errors import BpttcheckError
from bpttcheck.judge.run import Run
from bpttcheck.judge.verdict import judge, rounding
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.results.records import Case, Diagnosis

# These say where a bug shows, not what it is: a further diagnosis may follow.
_CONDITIONS = frozenset(["mask-ignored", "one-size", "saturated", "nonlinear"])
# These locate a bug without a formula for it.
_PLACES = frozenset(["wrong-cotangent"])
_ENOUGH = 2
# Of different lengths, to distinguish steps counted from the end and from the start.
_RICH_STEPS, _RICH_ROWS = (6, 4, 5), 3


def explain(
    run: Run,
    check: str,
    mode: str,
    block: str,
    seen: Sequence[Seen],
    failing: Sequence[tuple[Problem, Template | None]],
) -> tuple[Diagnosis, ...]:
    """What is wrong with ``block``, best first; empty if nothing fits.

    Args:
        run: the subject and its oracles.
        check: the check that failed.
        mode: ``STEP`` or ``SEQUENCE``.
        block: the block to be explained.
        seen: every case of the check.
        failing: problems known to fail, the original first, with their templates.
    """
    if mode == SEQUENCE and run.subject.kind == "cell":
        # The loop over time is not the user's, so the error is in a single step.
        step = _evidence(run, check, STEP, Block(block).in_step, seen, [])
        if step.examples:
            return _first_fits(replace(step, seen=[_one_step(one) for one in seen]))
    return _first_fits(_evidence(run, check, mode, block, seen, failing))


def _first_fits(evidence: Evidence) -> tuple[Diagnosis, ...]:
    found: list[Diagnosis] = []
    for code in diagnose.CODES:
        if any(d.code not in _CONDITIONS for d in found):
            break
        try:
            one = diagnose.rule(code).fit(evidence)
        except BpttcheckError:
            continue  # the subject's code, or JAX, does not take this problem
        except Exception as error:  # an error of ours must not cost the verdict
            evidence.run.code.notes.add(
                f"the diagnosis {code} broke down: {error!r}; please report it"
            )
            continue
        if one is not None:
            found.append(one)
    if not found or found[0].code in _PLACES:
        _mention_jumps(evidence)
    return tuple(found)


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
) -> Evidence:
    like = failing[-1][0].case if failing else None
    found: list[FailingExample] = []
    for problem, template in _problems(run, mode, like, failing):
        example = _example(run, mode, problem, template)
        if example is not None and block in example.wrong:
            shown = (problem.case.n_in, problem.case.n_hidden, problem.case.T)
            if all((s.problem.case.n_in, s.problem.case.n_hidden, s.problem.case.T) != shown
                   for s in found):  # fmt: skip
                found.append(example)
        if len(found) == _ENOUGH:
            break
    return Evidence(run, check, mode, block, found, seen)


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
        templates = (run.cases.templates[2], run.cases.templates[1], run.cases.templates[3])
        for template, T in zip(templates, _RICH_STEPS, strict=True):
            case = _rich(run, mode, template, T, dtype, regime, mask)
            try:
                yield run.cases.problem(case), template
            except BpttcheckError:
                continue
    yield from reversed(failing)


def _rich(run: Run, mode: str, t: Template, steps: int, dtype: str, regime: str, mask: str) -> Case:
    T = 1 if mode == STEP else (t.T if t.exact else min(t.T, steps))
    B = t.B if t.exact else min(t.B, _RICH_ROWS)
    plain = mode == STEP or T * B == 1 or not run.subject.supports_mask
    return Case(run.seed, -1, T, B, t.n_in, t.n_hidden, dtype, "none" if plain else mask, regime)


def _example(
    run: Run, mode: str, problem: Problem, template: Template | None
) -> FailingExample | None:
    try:
        hand = run.code.run(mode, problem)
        reference = run.jax.gradient(mode, problem, template)
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
