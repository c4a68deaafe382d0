"""The rows of a batch are independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck.blocks import YS
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems import function_rows
from bpttcheck.problems import rows as batch
from bpttcheck.problems.large import chunks
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Case
from bpttcheck.verify.checks.base import Check, Context, NotApplicable
from bpttcheck.verify.law import Law, run_law, run_law_on

# Rows of the batches that the gradient checks judge.
_ROWS = 4
# A larger batch is compared with parts of this many rows, which this law has judged before.
_JUDGED = 32


def batch_additivity(context: Context) -> Tally:
    """Compares the gradient over a batch with the gradients of its rows, one by one.

    Parameter gradients add up over the rows; gradients of inputs and initial states belong to
    single rows. Finds a mean instead of a sum over the batch, the first row used for all, mixed
    rows.
    """
    if context.run.subject.traits.signature is not None:
        return _of_function(context)
    if context.run.subject.batches == (1,):
        raise NotApplicable("takes one row only")
    return run_law(context, LAW, context.run.cases.plan.batches)


def _of_function(context: Context) -> Tally:
    run = context.run
    if _of(run) is PACKED:
        return run_law(context, PACKED)
    signature = run.subject.traits.signature
    if not any(leaf.axes for leaf in signature.results):
        raise NotApplicable("the signature names no output with a batch axis; a loss is one number")
    if not signature.batch:
        raise NotApplicable("no batch axis is known: name it in the signature, as in x: N T D")
    if not _rows_are_independent(run):
        raise NotApplicable("the forward pass is not what its rows give one by one")
    return run_law(context, LAW)


def _rows_are_independent(run: Run) -> bool:
    """Whether the batch axis, taken by its letter, is one in the forward pass."""
    case = replace(run.cases.case(0, free=True), T=3, B=3, regime="ordinary")
    problem = run.cases.problem(case)
    whole = run.code.run(SEQUENCE, problem).forward[YS]
    rows = _parts(run, problem)
    parts = [run.code.run(SEQUENCE, one).forward[YS] for one in rows]
    return np.allclose(whole, joined(run, problem, rows, YS, parts), 1e-3, 1e-3)


def on_problem(run: Run, problem: Problem) -> Tally:
    """The law on one given problem."""
    return run_law_on(run, _of(run), problem)


def _of(run: Run) -> Law:
    signature = run.subject.traits.signature
    return PACKED if signature is not None and function_rows.is_packed(signature) else LAW


def _whole_batch(run: Run, problem: Problem) -> dict[str, Any]:
    hand = run.code.run(SEQUENCE, problem)
    return {YS: hand.forward[YS], **hand.gradients}


def _row_by_row(run: Run, problem: Problem) -> dict[str, Any]:
    rows = _parts(run, problem)
    parts = [_whole_batch(run, row) for row in rows]
    out: dict[str, Any] = {}
    for block in parts[0]:
        stack = [np.asarray(part[block], np.float64) for part in parts]
        out[block] = joined(run, problem, rows, block, stack)
    return out


def joined(
    run: Run, problem: Problem, rows: Sequence[Problem], block: str, parts: list[Any]
) -> Any:
    """One block of a batch from those of its rows."""
    return batch.joined(run.subject.traits.signature, problem, rows, block, parts)


def _parts(run: Run, problem: Problem) -> list[Problem]:
    """Single rows, or for a large batch parts of as many rows as have been judged."""
    if run.subject.traits.signature is not None:
        return function_rows.rows_of(run.subject.traits.signature, problem)
    B, allowed = problem.case.B, run.subject.batches
    if allowed is not None:
        most = max((n for n in allowed if n < B and B % n == 0), default=1)
    else:
        most = _at_most(problem.case)
    return [batch.some(problem, rows) for rows in chunks(B, most)]


def _at_most(case: Case) -> int:
    """The rows of one part: few where the parts would be large in other sizes."""
    if case.B <= _ROWS or case.n_hidden > _JUDGED:
        return 1
    return _ROWS if case.B <= _JUDGED + 1 else _JUDGED


LAW = Law(
    "batch_additivity",
    expected=_row_by_row,
    actual=_whole_batch,
    message=(
        "{block} over the batch is not what its rows give one by one: a mean for a sum, or "
        "rows that are not independent of each other"
    ),
    least=(1, 2),
    parts=lambda run, problem: [problem, *_parts(run, problem)],
)


PACKED = replace(
    LAW,
    message=(
        "{block} of a packed batch is not what its rows give one by one, empty rows and rows of "
        "one step included"
    ),
    least=(1, 1),
    parts=None,
)


CHECK = Check("batch_additivity", batch_additivity, on_problem, law=LAW)
