"""Forward mode: the hand-written Jacobian-vector product beside the vector-Jacobian product."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import Block
from bpttcheck.contract import is_float
from bpttcheck.errors import ContractError
from bpttcheck.judge.run import SEQUENCE, STEP, Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.leaves import Leaves
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.user_code import call
from bpttcheck.verify.checks.base import Check, Context, NotApplicable
from bpttcheck.verify.law import Law, run_law, run_law_on

_PRODUCT = Block("<cotangent, tangent of the outputs>")


def jvp(context: Context) -> Tally:
    """Compares ``step_jvp`` or ``jvp`` with the backward pass, by the dot product test.

    ``<c, jvp(v)> = <vjp(c), v>`` for random tangents ``v`` of every input and cotangents ``c`` of
    every output. The backward pass is judged by the gradient checks; this one finds a tangent that
    is lost, counted twice or multiplied with another derivative.
    """
    _require(context.run)
    return run_law(context, LAW)


def on_problem(run: Run, problem: Problem) -> Tally:
    """The law on one given problem."""
    _require(run)
    return run_law_on(run, LAW, problem)


def _require(run: Run) -> None:
    if _of(run) is None:
        raise NotApplicable("no step_jvp or jvp")


def _of(run: Run) -> Any:
    traits = run.subject.traits
    return traits.step_jvp if run.subject.kind == "cell" else traits.jvp


def _mode(run: Run) -> str:
    return STEP if run.subject.kind == "cell" else SEQUENCE


def _tangents(run: Run, problem: Problem) -> dict[str, Any]:
    """A direction for every block of which there is a gradient: a function of the case."""
    case = problem.case
    rng = np.random.default_rng([case.seed, abs(case.index), 37])
    blocks = run.code.run(_mode(run), problem).gradients
    return {name: rng.standard_normal(np.shape(g)) for name, g in blocks.items()}


def _by_backward_pass(run: Run, problem: Problem) -> dict[str, Any]:
    gradients = run.code.run(_mode(run), problem).gradients
    along = _tangents(run, problem)
    products = [np.sum(np.asarray(g, np.float64) * along[name]) for name, g in gradients.items()]
    return {_PRODUCT: np.asarray(sum(products)).reshape(1)}


def _by_forward_mode(run: Run, problem: Problem) -> dict[str, Any]:
    function, dtype = _of(run), problem.dtype
    along = _tangents(run, problem)
    name = "step_jvp" if _mode(run) == STEP else "jvp"
    if _mode(run) == STEP:
        first = Leaves(_first(problem))
        params, state, xs = trees.map_leaves(lambda v: np.asarray(v, dtype), first.direction(along))
        args: tuple[Any, ...] = (problem.params, problem.state0, problem.xs[0])
        found = call(name, function, *args, params, state, xs[0])
        cotangents = (problem.d_state, problem.d_ys[0])
    else:
        tangents = Leaves(problem).direction(along)
        params, state, xs = trees.map_leaves(lambda v: np.asarray(v, dtype), tangents)
        mask = () if problem.mask is None else (problem.mask,)
        args = (problem.params, problem.xs, problem.state0, params, xs, state)
        found = call(name, function, *args, *mask)
        cotangents = (problem.d_ys, problem.d_state)
    if not isinstance(found, tuple) or len(found) != 2:
        what = "(tangent of new_state, of y)" if name == "step_jvp" else "(of ys, of state_T)"
        raise ContractError(f"{name} should return {what}", method=name)
    pairs = [
        (leaf, cotangent)
        for tree, like in zip(found, cotangents, strict=True)
        for leaf, cotangent in zip(trees.leaves(tree), trees.leaves(like), strict=True)
        if is_float(cotangent)
    ]
    products = [np.sum(np.asarray(a, np.float64) * np.asarray(b, np.float64)) for a, b in pairs]
    return {_PRODUCT: np.asarray(sum(products)).reshape(1)}


def _first(problem: Problem) -> Problem:
    return replace(problem, xs=problem.xs[:1], d_ys=problem.d_ys[:1])


LAW = Law(
    "jvp",
    expected=_by_backward_pass,
    actual=_by_forward_mode,
    message="{block} is not what the backward pass gives: forward mode and backward pass disagree",
)


CHECK = Check("jvp", jvp, on_problem, law=LAW)
