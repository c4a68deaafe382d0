"""The past does not depend on the future."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_XS, YS, Block
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Problem
from bpttcheck.verify.checks.base import Check, Context, NotApplicable
from bpttcheck.verify.law import Entry, Law, Location, run_law, run_law_on

_EARLY, _LATE = YS.part("before the change"), D_XS.part("of later steps")


def causality(context: Context) -> Tally:
    """Checks that later inputs neither change earlier outputs nor get a gradient from them.

    Finds an index that is off by one in time and a sequence that is reversed on one side only.
    """
    if not context.run.subject.traits.causal:
        raise NotApplicable("causal is False")
    if D_XS in context.run.code.absent:
        raise NotApplicable("it returns no d_xs")
    return run_law(context, LAW)


def on_problem(run: Run, problem: Problem) -> Tally:
    """The law on one given problem."""
    return run_law_on(run, LAW, problem)


def _cut(problem: Problem) -> int:
    return max(1, problem.case.T // 2)


def _early_only(problem: Problem) -> Problem:
    """Only outputs before the cut have a cotangent."""
    early = (np.arange(problem.case.T) < _cut(problem))[:, None, None]
    return replace(
        problem,
        d_ys=(problem.d_ys * early).astype(problem.d_ys.dtype),
        d_state=trees.map_leaves(np.zeros_like, problem.d_state),
    )


def _changed_later(problem: Problem) -> Problem:
    """The same with other inputs after the cut."""
    cut = _cut(problem)
    xs = problem.xs.copy()
    xs[cut:] = xs[cut:][:, :, ::-1] + 1
    return replace(_early_only(problem), xs=xs)


def _place(problem: Problem, block: str, entry: Entry) -> Location:
    changed = _changed_later(problem)
    if Block(block).whole == YS:
        return changed, YS, entry
    return changed, D_XS, entry and (entry[0] + _cut(problem), *entry[1:])


def _without_future(run: Run, problem: Problem) -> dict[str, Any]:
    cut = _cut(problem)
    hand = run.code.run(SEQUENCE, _early_only(problem))
    late = hand.gradients[D_XS][cut:]
    return {_EARLY: hand.forward[YS][:cut], _LATE: 0.0 * late}


def _with_future(run: Run, problem: Problem) -> dict[str, Any]:
    cut = _cut(problem)
    hand = run.code.run(SEQUENCE, _changed_later(problem))
    return {
        _EARLY: hand.forward[YS][:cut],
        _LATE: hand.gradients[D_XS][cut:],
    }


LAW = Law(
    "causality",
    expected=_without_future,
    actual=_with_future,
    message="{block} depends on what comes later: an index off by one in time?",
    least=(2, 1),
    masks=False,
    parts=lambda _, problem: [_early_only(problem), _changed_later(problem)],
    place=_place,
)


CHECK = Check("causality", causality, on_problem, law=LAW)
