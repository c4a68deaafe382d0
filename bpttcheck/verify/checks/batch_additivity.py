"""The rows of a batch are independent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.verify.checks.base import Context
from bpttcheck.verify.law import Law, obey, obeyed_on
from bpttcheck.verify.problem import Problem
from bpttcheck.verify.run import SEQUENCE, Run
from bpttcheck.verify.tally import Tally


def batch_additivity(context: Context) -> Tally:
    """Compares the gradient over a batch with the gradients of its rows, one by one.

    Parameter gradients add up over the rows; gradients of inputs and initial states are the rows'
    own. Finds a mean for a sum over the batch, a first row that stands for all, rows that mix.
    """
    return obey(context, LAW)


def on_problem(run: Run, problem: Problem) -> Tally:
    """The law on one given problem."""
    return obeyed_on(run, LAW, problem)


def _whole_batch(run: Run, problem: Problem) -> dict[str, Any]:
    hand = run.hand(SEQUENCE, problem)
    return {"ys": hand.forward["ys"], **hand.gradients}


def _row_by_row(run: Run, problem: Problem) -> dict[str, Any]:
    rows = [_whole_batch(run, _row(problem, b)) for b in range(problem.case.B)]
    out: dict[str, Any] = {}
    for block in rows[0]:
        stack = [np.asarray(row[block], np.float64) for row in rows]
        if block.startswith("d_params"):
            out[block] = sum(stack)
        else:
            out[block] = np.concatenate(stack, axis=1 if block in ("d_xs", "ys") else 0)
    return out


def _row(problem: Problem, b: int) -> Problem:
    def state(tree: Any) -> Any:
        return trees.map_leaves(lambda leaf: np.asarray(leaf)[b : b + 1], tree)

    return replace(
        problem,
        case=replace(problem.case, B=1),
        xs=problem.xs[:, b : b + 1],
        state0=state(problem.state0),
        mask=None if problem.mask is None else problem.mask[:, b : b + 1],
        d_ys=problem.d_ys[:, b : b + 1],
        d_state=state(problem.d_state),
    )


LAW = Law(
    "batch_additivity",
    expected=_row_by_row,
    actual=_whole_batch,
    sentence=(
        "{block} over the batch is not what its rows give one by one: a mean for a sum, or "
        "rows that are not independent of each other"
    ),
    least=(1, 2),
    parts=lambda _, problem: [problem, *(_row(problem, b) for b in range(problem.case.B))],
)
