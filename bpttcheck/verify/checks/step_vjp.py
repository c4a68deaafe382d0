"""One step of the backward pass against its oracles."""

from __future__ import annotations

from bpttcheck.contract import is_cell
from bpttcheck.judge.run import STEP, Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Problem
from bpttcheck.verify.checks.base import Check, Context, NotApplicable
from bpttcheck.verify.gradient_check import gradient_cases, gradient_problem


def step_vjp(context: Context) -> Tally:
    """Compares one call of ``step_vjp`` with JAX autodiff and finite differences of ``step``.

    Finds a wrong derivative, sign, transpose, gate or reduction inside one step, and names the
    output of ``step_vjp`` that is wrong: ``d_params['W']``, ``d_previous_state`` or ``d_x``. For
    cells, and for layers that have a ``step`` and a ``step_vjp`` too.
    """
    _require(context.run)
    return gradient_cases(context, "step_vjp", STEP)


def on_problem(run: Run, problem: Problem) -> Tally:
    """The check on one given problem."""
    _require(run)
    return gradient_problem(run, "step_vjp", STEP, problem)


def _require(run: Run) -> None:
    if not is_cell(run.subject.target):
        raise NotApplicable("a layer has no single step")


CHECK = Check("step_vjp", step_vjp, on_problem, mode=STEP)
