"""A sequence of no steps, and a batch of no rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_XS, YS, Block, d_state0, of_params, of_state, state_T
from bpttcheck.errors import ContractError
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Problem, nearest
from bpttcheck.results.records import Case, Finding
from bpttcheck.verify.checks.base import Check, Context
from bpttcheck.verify.law import Law, run_law, run_law_on

_SHAPE_OF_YS, _SHAPE_OF_D_XS = Block("shape of ys"), Block("shape of d_xs")


def zero_length(context: Context) -> Tally:
    """Checks T = 0: no output, zero parameter gradients, state and its cotangent passed through.

    And B = 0: arrays of no rows, zero parameter gradients. Finds loops that assume a first step, a
    mean over no rows, and gradients that are missing when nothing ran. Code that raises there gets
    a remark.
    """
    tally = run_law(context, LAW)
    if context.run.subject.batches is None and not tally.findings:
        _no_rows(context.run, tally)
    return tally


def _no_rows(run: Run, tally: Tally) -> None:
    """One batch of no rows in each dtype."""
    for dtype in run.dtypes:
        case = Case(run.seed, 0, nearest(3, run.subject.lengths), 1,
                    *(run.cases.sizes or ((2, 3),))[0], dtype, "none", "ordinary")  # fmt: skip
        problem = _without_rows(run.cases.problem(case))
        tally.cases += 1
        try:
            hand = run.code.run(SEQUENCE, problem)
        except ContractError as error:
            tally.refused(error, problem.case, True)
            return
        for block, gradient in hand.gradients.items():
            if np.asarray(gradient).size and not np.all(np.asarray(gradient) == 0):
                tally.failures += 1
                tally.findings.append(Finding(
                    tally.name, run.code.methods[1], block,
                    f"{block} of a batch of no rows is not zero: a mean over no rows?",
                    problem.case, problem=problem,
                ))  # fmt: skip
                return


def _without_rows(problem: Problem) -> Problem:
    def no_rows(leaf: Any) -> Any:
        return np.asarray(leaf)[:0]

    return replace(
        problem,
        case=replace(problem.case, B=0),
        xs=problem.xs[:, :0],
        state0=trees.map_leaves(no_rows, problem.state0),
        d_ys=problem.d_ys[:, :0],
        d_state=trees.map_leaves(no_rows, problem.d_state),
    )


def on_problem(run: Run, problem: Problem) -> Tally:
    """The law on one given problem."""
    return run_law_on(run, LAW, problem)


def _nothing(run: Run, problem: Problem) -> dict[str, Any]:
    out: dict[str, Any] = {b: np.zeros(np.shape(p)) for b, p in of_params(problem.params).items()}
    out.update(of_state(d_state0(), problem.d_state, problem.state0))
    out.update(of_state(state_T(), problem.state0, problem.state0))
    out[_SHAPE_OF_YS] = np.array([0, *problem.d_ys.shape[1:]], float)
    if not run.code.is_absent(D_XS):
        out[_SHAPE_OF_D_XS] = np.array([0, *problem.xs.shape[1:]], float)
    return out


def _cut_off(problem: Problem) -> Problem:
    return replace(
        problem, case=replace(problem.case, T=0), xs=problem.xs[:0], d_ys=problem.d_ys[:0]
    )


def _empty(run: Run, problem: Problem) -> dict[str, Any]:
    hand = run.code.run(SEQUENCE, _cut_off(problem))
    out: dict[str, Any] = {**hand.gradients, **hand.forward}
    out[_SHAPE_OF_YS] = np.array(np.shape(out.pop(YS)), float)
    if D_XS in out:
        out[_SHAPE_OF_D_XS] = np.array(np.shape(out.pop(D_XS)), float)
    return out


LAW = Law(
    "zero_length",
    expected=_nothing,
    actual=_empty,
    message="{block} is wrong for a sequence of no steps",
    masks=False,
    place=lambda problem, block, entry: (_cut_off(problem), block, entry),
)


CHECK = Check("zero_length", zero_length, on_problem, law=LAW)
