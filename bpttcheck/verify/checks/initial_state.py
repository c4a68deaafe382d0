"""A trainable initial state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import d_param
from bpttcheck.calibration import DIFFERENCE_LIMIT, LIMIT
from bpttcheck.contract import is_float
from bpttcheck.judge.run import Run
from bpttcheck.judge.tally import Tally
from bpttcheck.judge.verdict import Judged
from bpttcheck.oracles.differences.finite_difference import finite_difference
from bpttcheck.problems.problem import Problem, nearest
from bpttcheck.results.records import Finding, Measured
from bpttcheck.subject.user_code import call
from bpttcheck.verify.checks.base import Check, Context, NotApplicable

# These need no compiled program, so the sum over the batch is tried with many rows.
_ROWS = (2, 3, 1, 5, 9, 17, 33)


def initial_state(context: Context) -> Tally:
    """Compares ``initial_state_vjp`` with finite differences of ``initial_state``.

    Finds a wrong gradient of parameters that only the initial state reads. Skipped for a subject
    without ``initial_state_vjp``: such parameters are then reported as unchecked.
    """
    run, tally = context.run, Tally("initial_state")
    _require(run)
    for index in range(context.laws):
        rows = nearest(_ROWS[index % len(_ROWS)], run.subject.batches)
        _judge(
            run,
            tally,
            run.cases.problem(replace(run.cases.case(index, free=True, steps=1), B=rows)),
        )
        context.tick()
    return tally


def on_problem(run: Run, problem: Problem) -> Tally:
    """The check on one given problem."""
    tally = Tally("initial_state")
    _require(run)
    _judge(run, tally, problem)
    return tally


def _require(run: Run) -> None:
    if run.subject.traits.initial_state_vjp is None:
        raise NotApplicable("no initial_state_vjp")


def _judge(run: Run, tally: Tally, problem: Problem) -> None:
    tally.cases += 1
    tally.oracles["differences"] += 1
    for key in problem.params:
        _compare(run, tally, problem, key)


def _compare(run: Run, tally: Tally, problem: Problem, key: str) -> None:
    target, params, case = run.subject.target, problem.params, problem.case
    rng = np.random.default_rng([case.seed, case.index, 19])
    along = rng.standard_normal(params[key].shape)
    along /= np.linalg.norm(along) or 1.0

    def function(leaves: list[Any]) -> list[Any]:
        state = target.initial_state({**params, key: leaves[0]}, case.B)
        return [leaf for leaf in trees.leaves(state) if is_float(leaf)]

    state = trees.leaves(problem.state0)
    weights = [c for c, s in zip(trees.leaves(problem.d_state), state, strict=True) if is_float(s)]
    estimate = finite_difference(function, [params[key]], [along], weights)
    with run.code.lines.recording():
        found = call("initial_state_vjp", target.initial_state_vjp, params, problem.d_state)
    run.code.lines.commit()
    gradient = np.asarray(found.get(key, np.zeros_like(params[key])), np.float64)
    hand, value = float((gradient * along).sum()), float(estimate.value)
    unit = float(np.finfo(problem.dtype).eps)
    bar = float(estimate.error) + LIMIT * unit * float(np.abs(gradient * along).sum())
    ratio = abs(hand - value) / bar * LIMIT / DIFFERENCE_LIMIT if bar and np.isfinite(bar) else 0.0
    block = d_param(key)
    judged = Judged(
        block, ratio, (), hand, value, bar, abs(hand - value) / (abs(value) or 1.0),
        bar / abs(value) if value else np.inf, null=value == 0 and hand == 0,
        usable=bool(np.isfinite(bar)),
    )  # fmt: skip
    tally.add([judged], case)
    if judged.wrong:
        tally.failures += 1
        if block not in {finding.block for finding in tally.findings}:
            tally.findings.append(
                Finding(
                    "initial_state",
                    "initial_state_vjp",
                    block,
                    f"{block} of the initial state is off by {judged.relative:.1e}",
                    case,
                    hand=hand,
                    finite_difference=Measured(value, bar),
                    ratio=ratio,
                    limit=LIMIT,
                    relative_error=judged.relative,
                    problem=problem,
                )
            )


CHECK = Check("initial_state", initial_state, on_problem)
