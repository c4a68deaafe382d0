"""A sequence is the composition of its halves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck.blocks import D_XS, Block, d_state0, of_params, of_state
from bpttcheck.judge.run import Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.user_code import call
from bpttcheck.verify.checks.base import Check, Context, NotApplicable
from bpttcheck.verify.law import Law, gradients, run_law, run_law_on


def time_splitting(context: Context) -> Tally:
    """Compares backpropagation over T steps with two chained halves.

    Finds a truncated pass, a lost or doubled carry, special treatment of a step at either end, a
    layer whose tape depends on the length, and residuals that a later step overwrites.
    """
    run, subject = context.run, context.run.subject
    if not subject.traits.causal:
        raise NotApplicable("causal is False")
    if not subject.traits.splits_in_time:
        raise NotApplicable("splits_in_time is False")
    if not subject.traits.final_state_gradient or any(
        Block(b).kind == "state" for b in run.code.absent
    ):
        raise NotApplicable("halves cannot be chained without a gradient of the state")
    return run_law(context, LAW, context.run.cases.plan.lengths)


def on_problem(run: Run, problem: Problem) -> Tally:
    """The law on one given problem."""
    return run_law_on(run, LAW, problem)


def _halves(run: Run, problem: Problem) -> tuple[Problem, Problem]:
    """Both halves as problems; the early one lacks the cotangent of its last state."""
    p, cut = problem, problem.case.T // 2

    def half(part: slice, state: Any) -> Problem:
        mask = None if p.mask is None else p.mask[part]
        case = replace(p.case, T=len(p.xs[part]))
        return replace(p, case=case, xs=p.xs[part], state0=state, mask=mask, d_ys=p.d_ys[part])

    early = half(slice(None, cut), p.state0)
    _, middle, _ = _forward(run, early)
    return early, half(slice(cut, None), middle)


def _forward(run: Run, half: Problem) -> Any:
    step, _ = run.code.methods
    masked = () if half.mask is None else (half.mask,)
    return call(step, run.code.layer.forward, half.params, half.xs, half.state0, *masked)


def _gradient(run: Run, half: Problem) -> Any:
    """Of one half, right after its own forward pass: nothing that is kept for it was in use since.

    A whole sequence whose residuals share memory over the steps then differs from its halves.
    """
    _, step_vjp = run.code.methods
    _, _, tape = _forward(run, half)
    return call(step_vjp, run.code.layer.vjp, half.params, tape, half.d_ys, half.d_state)


def _parts(run: Run, problem: Problem) -> list[Problem]:
    early, late = _halves(run, problem)
    return [problem, late, replace(early, d_state=_gradient(run, late)[2])]


def _two_halves(run: Run, problem: Problem) -> dict[str, Any]:
    early, late = _halves(run, problem)
    one = _gradient(run, late)
    two = _gradient(run, replace(early, d_state=one[2]))
    p = problem
    of_late, of_early = of_params(one[0], p.params), of_params(two[0], p.params)
    out: dict[str, Any] = {b: np.asarray(of_late[b]) + np.asarray(of_early[b]) for b in of_late}
    out.update(of_state(d_state0(), two[2], p.state0))
    out[D_XS] = np.concatenate([two[1], one[1]])
    return out


LAW = Law(
    "time_splitting",
    expected=_two_halves,
    actual=gradients,
    message="{block} is not what two chained halves give: truncated, or a carry lost",
    least=(2, 1),
    parts=_parts,
)


CHECK = Check("time_splitting", time_splitting, on_problem, law=LAW)
