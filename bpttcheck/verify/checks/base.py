"""What every check is given and may say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bpttcheck.judge.run import Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Problem

Check = Callable[["Context"], Tally]
OnProblem = Callable[[Run, Problem], Tally]
"""A check on one given problem: ``on_problem`` in the check's module, for a replay."""


@dataclass(frozen=True)
class Context:
    """What a check works with.

    Args:
        run: the subject, its oracles and its problems.
        examples: cases that the two gradient checks run.
        tick: to be called after each case.
    """

    run: Run
    examples: int
    tick: Callable[[], None] = lambda: None

    @property
    def laws(self) -> int:
        """Cases that a law runs: a law is cheap to break, so fewer cases show it."""
        return max(min(self.examples, 10), self.examples // 4)


class NotApplicable(Exception):
    """The check says nothing about this subject; the text says why."""
