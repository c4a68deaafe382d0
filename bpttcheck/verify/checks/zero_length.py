"""A sequence of no steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import is_float
from bpttcheck.verify.checks.base import Context
from bpttcheck.verify.law import Law, obey, obeyed_on
from bpttcheck.verify.problem import Problem
from bpttcheck.verify.run import SEQUENCE, Run
from bpttcheck.verify.tally import Tally


def zero_length(context: Context) -> Tally:
    """Checks T = 0: no output, zero parameter gradients, state and its cotangent passed through.

    Finds loops that assume a first step, and gradients that are None or missing when nothing ran.
    """
    return obey(context, LAW)


def on_problem(run: Run, problem: Problem) -> Tally:
    """The law on one given problem."""
    return obeyed_on(run, LAW, problem)


def _nothing(run: Run, problem: Problem) -> dict[str, Any]:
    out: dict[str, Any] = {
        f"d_params[{key!r}]": np.zeros(np.shape(p)) for key, p in problem.params.items()
    }
    paths = trees.structure(problem.state0).paths
    states, cotangents = trees.leaves(problem.state0), trees.leaves(problem.d_state)
    for path, state, cotangent in zip(paths, states, cotangents, strict=True):
        if is_float(state):
            out[f"d_state0{path}"] = cotangent
            out[f"state_T{path}"] = state
    out["shape of ys"] = np.array([0, *problem.d_ys.shape[1:]], float)
    out["shape of d_xs"] = np.array([0, *problem.xs.shape[1:]], float)
    return out


def _cut_off(problem: Problem) -> Problem:
    return replace(
        problem, case=replace(problem.case, T=0), xs=problem.xs[:0], d_ys=problem.d_ys[:0]
    )


def _empty(run: Run, problem: Problem) -> dict[str, Any]:
    hand = run.hand(SEQUENCE, _cut_off(problem))
    out: dict[str, Any] = {**hand.gradients, **hand.forward}
    out["shape of ys"] = np.array(np.shape(out.pop("ys")), float)
    out["shape of d_xs"] = np.array(np.shape(out.pop("d_xs")), float)
    return out


LAW = Law(
    "zero_length",
    expected=_nothing,
    actual=_empty,
    sentence="{block} is wrong for a sequence of no steps",
    masks=False,
    place=lambda problem, block, entry: (_cut_off(problem), block, entry),
)
