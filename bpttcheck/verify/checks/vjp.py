"""The backward pass of a function against its oracles."""

from __future__ import annotations

from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Problem
from bpttcheck.verify.checks.base import Check, Context
from bpttcheck.verify.gradient_check import gradient_cases, gradient_problem


def vjp(context: Context) -> Tally:
    """Compares the backward pass of a function with JAX autodiff and finite differences.

    Every input of which it returns the gradient, for arbitrary cotangents of every output, over
    random sizes of every letter of the signature. For functions only: the checks of cells and
    layers are ``step_vjp`` and ``sequence_vjp``.
    """
    return gradient_cases(context, "vjp", SEQUENCE)


def on_problem(run: Run, problem: Problem) -> Tally:
    """The check on one given problem."""
    return gradient_problem(run, "vjp", SEQUENCE, problem)


CHECK = Check("vjp", vjp, on_problem, mode=SEQUENCE)
