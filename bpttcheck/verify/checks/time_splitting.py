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

    Finds a truncated pass, a lost or doubled carry, special treatment of a step at either end, and
    a layer whose tape depends on the length.
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


def _halves(run: Run, problem: Problem) -> tuple[Problem, Problem, Any, Any]:
    """Both halves as problems, and the tape of each; the early one lacks its last cotangent."""
    p, cut = problem, problem.case.T // 2
    step, _ = run.code.methods

    def half(part: slice, state: Any) -> tuple[Problem, Any, Any]:
        mask = None if p.mask is None else p.mask[part]
        _, end, tape = call(
            step,
            run.code.layer.forward,
            p.params,
            p.xs[part],
            state,
            *(() if mask is None else (mask,)),
        )
        T = len(p.xs[part])
        case = replace(p.case, T=T)
        part_of = replace(p, case=case, xs=p.xs[part], state0=state, mask=mask, d_ys=p.d_ys[part])
        return part_of, end, tape

    early, middle, first = half(slice(None, cut), p.state0)
    late, _, second = half(slice(cut, None), middle)
    return early, late, first, second


def _pulled(run: Run, half: Problem, tape: Any) -> Any:
    _, step_vjp = run.code.methods
    return call(step_vjp, run.code.layer.vjp, half.params, tape, half.d_ys, half.d_state)


def _parts(run: Run, problem: Problem) -> list[Problem]:
    early, late, _, second = _halves(run, problem)
    d_middle = _pulled(run, late, second)[2]
    return [problem, late, replace(early, d_state=d_middle)]


def _two_halves(run: Run, problem: Problem) -> dict[str, Any]:
    early, late, first, second = _halves(run, problem)
    one = _pulled(run, late, second)
    two = _pulled(run, replace(early, d_state=one[2]), first)
    p = problem
    late, early = of_params(one[0], p.params), of_params(two[0], p.params)
    out: dict[str, Any] = {b: np.asarray(late[b]) + np.asarray(early[b]) for b in late}
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
