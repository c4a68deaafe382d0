"""One gradient case while it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bpttcheck.judge.oracle import Oracle
from bpttcheck.judge.run import Hand, Run
from bpttcheck.problems.problem import Problem, Template


@dataclass(frozen=True)
class GradientCase:
    """A problem, and what the hand-written code says of it.

    Args:
        run: the subject and its oracles.
        mode: ``"step"`` or ``"sequence"``.
        problem: the case with its values.
        hand: the hand-derived side.
        template: the compiled shape to use; None: the problem's own.
        witnesses: the oracles that are asked for slopes along directions.
    """

    run: Run
    mode: str
    problem: Problem
    hand: Hand
    template: Template | None = None
    witnesses: Sequence[Oracle] = ()
