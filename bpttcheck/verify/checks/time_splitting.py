"""A sequence is the composition of its halves."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import is_float
from bpttcheck.verify.checks.base import Context, NotApplicable
from bpttcheck.verify.guard import call
from bpttcheck.verify.law import Law, gradients, obey, obeyed_on
from bpttcheck.verify.problem import Problem
from bpttcheck.verify.run import Run
from bpttcheck.verify.tally import Tally


def time_splitting(context: Context) -> Tally:
    """Compares backpropagation over T steps with two chained halves.

    Finds a truncated pass, a carry that is lost or doubled, a step at either end that is treated
    apart, and a layer whose tape depends on the length.
    """
    subject = context.run.subject
    if not subject.causal:
        raise NotApplicable("causal is False")
    if not subject.splits_in_time:
        raise NotApplicable("splits_in_time is False")
    return obey(context, LAW)


def on_problem(run: Run, problem: Problem) -> Tally:
    """The law on one given problem."""
    return obeyed_on(run, LAW, problem)


def _two_halves(run: Run, problem: Problem) -> dict[str, Any]:
    p, layer, cut = problem, run.layer, problem.case.T // 2
    step, step_vjp = run.methods

    def mask(part: slice) -> tuple[Any, ...]:
        return () if p.mask is None else (p.mask[part],)

    early, late = slice(None, cut), slice(cut, None)
    _, middle, first = call(step, layer.forward, p.params, p.xs[early], p.state0, *mask(early))
    _, _, second = call(step, layer.forward, p.params, p.xs[late], middle, *mask(late))
    one = call(step_vjp, layer.vjp, p.params, second, p.d_ys[late], p.d_state)
    two = call(step_vjp, layer.vjp, p.params, first, p.d_ys[early], one[2])
    out: dict[str, Any] = {
        f"d_params[{key!r}]": np.asarray(one[0][key]) + np.asarray(two[0][key]) for key in p.params
    }
    named = zip(
        trees.structure(p.state0).paths,
        trees.leaves(trees.map_leaves(lambda _, leaf: leaf, p.state0, two[2])),
        trees.leaves(p.state0),
        strict=True,
    )
    out.update({f"d_state0{path}": leaf for path, leaf, first in named if is_float(first)})
    out["d_xs"] = np.concatenate([two[1], one[1]])
    return out


LAW = Law(
    "time_splitting",
    expected=_two_halves,
    actual=gradients,
    sentence="{block} is not what two chained halves give: truncated, or a carry lost",
    least=(2, 1),
)
