"""The rows of a batch are independent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_XS, YS, Block
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.judge.tally import Tally
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
    if context.run.subject.batches == (1,):
        raise NotApplicable("takes one row only")
    return run_law(context, LAW, context.run.cases.plan.batches)


def on_problem(run: Run, problem: Problem) -> Tally:
    """The law on one given problem."""
    return run_law_on(run, LAW, problem)


def _whole_batch(run: Run, problem: Problem) -> dict[str, Any]:
    hand = run.code.run(SEQUENCE, problem)
    return {YS: hand.forward[YS], **hand.gradients}


def _row_by_row(run: Run, problem: Problem) -> dict[str, Any]:
    parts = [_whole_batch(run, part) for part in _parts(run, problem)]
    out: dict[str, Any] = {}
    for block in parts[0]:
        stack = [np.asarray(part[block], np.float64) for part in parts]
        if Block(block).kind == "params":
            out[block] = sum(stack)
        else:
            out[block] = np.concatenate(stack, axis=1 if block in (D_XS, YS) else 0)
    return out


def _parts(run: Run, problem: Problem) -> list[Problem]:
    """Single rows, or for a large batch parts of as many rows as have been judged."""
    B, allowed = problem.case.B, run.subject.batches
    if allowed is not None:
        most = max((n for n in allowed if n < B and B % n == 0), default=1)
    else:
        most = _at_most(problem.case)
    return [_rows(problem, rows) for rows in chunks(B, most)]


def _at_most(case: Case) -> int:
    """The rows of one part: few where the parts would be large in other sizes."""
    if case.B <= _ROWS or case.n_hidden > _JUDGED:
        return 1
    return _ROWS if case.B <= _JUDGED + 1 else _JUDGED


def _rows(problem: Problem, rows: slice) -> Problem:
    def state(tree: Any) -> Any:
        return trees.map_leaves(lambda leaf: np.asarray(leaf)[rows], tree)

    return replace(
        problem,
        case=replace(problem.case, B=rows.stop - rows.start),
        xs=problem.xs[:, rows],
        state0=state(problem.state0),
        mask=None if problem.mask is None else problem.mask[:, rows],
        d_ys=problem.d_ys[:, rows],
        d_state=state(problem.d_state),
    )


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


CHECK = Check("batch_additivity", batch_additivity, on_problem, law=LAW)
