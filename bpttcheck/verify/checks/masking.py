"""Padding changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.blocks import D_XS, YS, Block
from bpttcheck.errors import ContractError
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.function_rows import is_padded, real_only, real_outputs, with_garbage
from bpttcheck.problems.problem import Problem, nearest
from bpttcheck.results.records import Diagnosis, Finding
from bpttcheck.verify.checks.base import Check, Context, NotApplicable
from bpttcheck.verify.law import Entry, Law, Location, run_law, run_law_on

_PADDING = 3
_GARBAGE = 7.0
_KEEPS_NAN = "a product with a mask of zero keeps NaN, np.where does not"

_MASKED_YS, _MASKED_D_XS = YS.part("of masked steps"), D_XS.part("of masked steps")


def masking(context: Context) -> Tally:
    """Compares a sequence with the same sequence padded by masked steps full of noise.

    Masked steps carry the state through, output zero, ignore their cotangent and send no gradient
    into parameters or inputs. Finds a mask that is ignored, or applied on one side only.
    """
    signature = context.run.subject.traits.signature
    if signature is not None:
        return _of_function(context)
    _require(context.run)
    tally = run_law(context, _of(context.run))
    if context.run.subject.kind == "layer" and not tally.findings:
        _garbage(context.run, tally)
    return tally


def _of_function(context: Context) -> Tally:
    """What stands in the padding of the inputs of a function reaches nothing."""
    signature = context.run.subject.traits.signature
    if not is_padded(signature):
        raise NotApplicable("no lengths of padded rows: say `lens: N within T`")
    run, tally = context.run, run_law(context, PADDED)
    if tally.findings:
        return tally
    case = replace(run.cases.case(0, free=True), regime="ordinary", T=4, B=3, dtype=run.dtypes[0])
    problem = run.cases.problem(case)
    try:
        hand = run.code.run(SEQUENCE, with_garbage(signature, problem, np.nan))
    except ContractError:
        return tally
    lost = [b for b, g in hand.gradients.items() if not np.isfinite(np.asarray(g)).all()]
    if lost:
        text = f"{lost[0]} is not finite where the padding is NaN: {_KEEPS_NAN}"
        tally.conduct.append(Finding(tally.name, run.code.methods[1], lost[0], text, case=case))
    return tally


def _clean(run: Run, problem: Problem) -> dict[str, Any]:
    return _real_parts(run, problem, real_only(run.subject.traits.signature, problem))


def _spoilt(run: Run, problem: Problem) -> dict[str, Any]:
    return _real_parts(run, problem, with_garbage(run.subject.traits.signature, problem, _GARBAGE))


def _real_parts(run: Run, problem: Problem, changed: Problem) -> dict[str, Any]:
    hand = run.code.run(SEQUENCE, changed)
    ys = real_outputs(run.subject.traits.signature, problem, hand.forward[YS])
    return {YS: ys, **hand.gradients}


PADDED = Law(
    "masking",
    expected=_clean,
    actual=_spoilt,
    message="{block} changes with what stands in the padding, which should reach nothing",
)


def on_problem(run: Run, problem: Problem) -> Tally:
    """The law on one given problem."""
    if run.subject.traits.signature is not None:
        return run_law_on(run, PADDED, problem)
    _require(run)
    return run_law_on(run, _of(run), problem)


def _require(run: Run) -> None:
    if not run.subject.supports_mask:
        raise NotApplicable("supports_mask is False")
    if run.subject.traits.exact_length:
        raise NotApplicable("exact_length is True: added steps count, masked or not")


def _plain(run: Run, problem: Problem) -> dict[str, Any]:
    hand = run.code.run(SEQUENCE, problem)
    B, n_in, n_out = problem.xs.shape[1], problem.xs.shape[2], problem.d_ys.shape[2]
    return {
        **hand.gradients,
        **hand.forward,
        **({_MASKED_D_XS: np.zeros((_PADDING, B, n_in))} if D_XS in hand.gradients else {}),
        _MASKED_YS: np.zeros((_PADDING, B, n_out)),
    }


def _padding(problem: Problem, at_end: bool) -> tuple[Problem, NDArray[np.bool_]]:
    """The problem with masked steps between or after its own, and which steps are its own."""
    case = problem.case
    rng = np.random.default_rng([case.seed, abs(case.index), 17])
    T = case.T + _PADDING
    real = np.arange(T) < case.T
    if not at_end:
        rng.shuffle(real)

    def grown(sequence: Any) -> Any:
        out = rng.standard_normal((T, *sequence.shape[1:])).astype(sequence.dtype)
        out[real] = sequence
        return out

    padded = replace(
        problem,
        case=replace(case, T=T),
        xs=grown(problem.xs),
        d_ys=grown(problem.d_ys),
        mask=np.repeat(real[:, None], case.B, axis=1),
    )
    return padded, real


def _law(at_end: bool) -> Law:
    """Padding between the steps; only after them, for code that takes lengths."""

    def place(problem: Problem, block: str, entry: Entry) -> Location:
        padded, real = _padding(problem, at_end)
        name = Block(block).whole
        if entry and name in (D_XS, YS):
            steps = np.flatnonzero(~real if name != block else real)
            entry = (int(steps[entry[0]]), *entry[1:])
        return padded, name, entry

    def padded_side(run: Run, problem: Problem) -> dict[str, Any]:
        padded, real = _padding(problem, at_end)
        hand = run.code.run(SEQUENCE, padded)
        out = {**hand.gradients, **hand.forward}
        if D_XS in out:
            out[_MASKED_D_XS] = out[D_XS][~real]
            out[D_XS] = out[D_XS][real]
        out[_MASKED_YS] = out[YS][~real]
        out[YS] = out[YS][real]
        return out

    return Law(
        "masking",
        expected=_plain,
        actual=padded_side,
        message="{block} changes when masked steps are added: is the mask ignored somewhere?",
        masks=False,
        parts=lambda _, problem: [problem, _padding(problem, at_end)[0]],
        place=place,
    )


def _of(run: Run) -> Law:
    return LAW if "holes" in run.subject.masks else LAW_AT_END


def _garbage(run: Run, tally: Tally) -> None:
    """Padding with NaN: a mask applied as a product with zero keeps it, unlike finite padding."""
    case = replace(
        run.cases.case(0, free=True), regime="ordinary", mask="none", dtype=run.dtypes[0]
    )
    case = replace(case, T=nearest(4, run.subject.lengths), B=nearest(2, run.subject.batches))
    padded, real = _padding(run.cases.problem(case), True)
    for name in ("d_ys", "xs"):
        spoiled = getattr(padded, name).copy()
        spoiled[~real] = np.nan
        try:
            hand = run.code.run(SEQUENCE, replace(padded, **{name: spoiled}))
        except ContractError:
            continue
        tally.cases += 1
        lost = [b for b, g in hand.gradients.items() if not np.isfinite(np.asarray(g)).all()]
        if lost:
            tally.conduct.append(Finding(
                tally.name, run.code.methods[1], lost[0],
                f"{lost[0]} is not finite where {name} of masked steps is NaN: a product with a "
                "mask of zero keeps NaN, np.where does not",
                padded.case,
            ))  # fmt: skip


LAW = _law(at_end=False)
LAW_AT_END = _law(at_end=True)


CHECK = Check(
    "masking",
    masking,
    on_problem,
    law=LAW,
    says=lambda finding: Diagnosis(
        "mask-ignored", "masked steps change what they should leave alone", {"law": finding.check}
    ),
)
