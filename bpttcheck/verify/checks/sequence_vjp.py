"""Backpropagation through time against its oracles."""

from __future__ import annotations

from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Problem
from bpttcheck.verify.checks.base import Check, Context
from bpttcheck.verify.gradient_check import gradient_cases, gradient_problem


def sequence_vjp(context: Context) -> Tally:
    """Compares backpropagation through time with JAX autodiff and finite differences.

    Every parameter, every input and the initial state, for arbitrary cotangents of every output and
    of the final state. Finds what one step cannot show: a lost or doubled carry, a truncated pass,
    a mask that leaks, an initial state that gets no gradient.
    """
    return gradient_cases(context, "sequence_vjp", SEQUENCE)


def on_problem(run: Run, problem: Problem) -> Tally:
    """The check on one given problem."""
    return gradient_problem(run, "sequence_vjp", SEQUENCE, problem)


CHECK = Check("sequence_vjp", sequence_vjp, on_problem, mode=SEQUENCE)
