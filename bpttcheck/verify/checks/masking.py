"""Padding changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.verify.checks.base import Context, NotApplicable
from bpttcheck.verify.law import Entry, Law, Place, obey, obeyed_on
from bpttcheck.verify.problem import Problem
from bpttcheck.verify.run import SEQUENCE, Run
from bpttcheck.verify.tally import Tally

_PADDING = 3


def masking(context: Context) -> Tally:
    """Compares a sequence with the same sequence padded by masked steps full of noise.

    Masked steps carry the state through, put out zero, ignore their cotangent and send nothing into
    parameters or inputs. Finds a mask that is ignored, or applied on one side only.
    """
    _require(context.run)
    return obey(context, LAW)


def on_problem(run: Run, problem: Problem) -> Tally:
    """The law on one given problem."""
    _require(run)
    return obeyed_on(run, LAW, problem)


def _require(run: Run) -> None:
    if not run.subject.supports_mask:
        raise NotApplicable("supports_mask is False")
    if run.subject.exact_length:
        raise NotApplicable("exact_length is True: added steps count, masked or not")


def _plain(run: Run, problem: Problem) -> dict[str, Any]:
    hand = run.hand(SEQUENCE, problem)
    B, n_in, n_out = problem.xs.shape[1], problem.xs.shape[2], problem.d_ys.shape[2]
    return {
        **hand.gradients,
        **hand.forward,
        "d_xs of masked steps": np.zeros((_PADDING, B, n_in)),
        "ys of masked steps": np.zeros((_PADDING, B, n_out)),
    }


def _padding(problem: Problem) -> tuple[Problem, NDArray[np.bool_]]:
    """The problem with masked steps between its own, and which steps are its own."""
    case = problem.case
    rng = np.random.default_rng([case.seed, abs(case.index), 17])
    T = case.T + _PADDING
    real = np.ones(T, bool)
    real[rng.choice(T, _PADDING, replace=False)] = False

    def grown(sequence: Any) -> Any:
        out = rng.standard_normal((T, *sequence.shape[1:])).astype(sequence.dtype)
        out[real] = sequence
        return out

    padded = replace(
        problem,
        case=replace(case, T=T),
        xs=grown(problem.xs),
        d_ys=grown(problem.d_ys),
        mask=np.repeat(real[:, None], case.B, axis=1),
    )
    return padded, real


def _place(problem: Problem, block: str, entry: Entry) -> Place:
    padded, real = _padding(problem)
    name, _, masked = block.partition(" of masked")
    if entry and name in ("d_xs", "ys"):
        steps = np.flatnonzero(~real if masked else real)
        entry = (int(steps[entry[0]]), *entry[1:])
    return padded, name, entry


def _padded(run: Run, problem: Problem) -> dict[str, Any]:
    padded, real = _padding(problem)
    hand = run.hand(SEQUENCE, padded)
    out = {**hand.gradients, **hand.forward}
    out["d_xs of masked steps"] = out["d_xs"][~real]
    out["ys of masked steps"] = out["ys"][~real]
    out["d_xs"], out["ys"] = out["d_xs"][real], out["ys"][real]
    return out


LAW = Law(
    "masking",
    expected=_plain,
    actual=_padded,
    sentence="{block} changes when masked steps are added: is the mask ignored somewhere?",
    masks=False,
    parts=lambda _, problem: [problem, _padding(problem)[0]],
    place=_place,
)
