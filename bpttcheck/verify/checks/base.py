"""The interface of a check."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpttcheck.judge.run import Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Diagnosis, Finding

if TYPE_CHECKING:
    from bpttcheck.verify.law import Law


@dataclass(frozen=True)
class Context:
    """The input of a check.

    Args:
        run: the subject, its oracles and its problems.
        examples: cases that the two gradient checks run.
        tick: called after each case.
    """

    run: Run
    examples: int
    tick: Callable[[], None] = lambda: None

    @property
    def laws(self) -> int:
        """Cases of a law: a wrong gradient breaks it in most cases, so fewer suffice."""
        return max(min(self.examples, 10), self.examples // 4)


class NotApplicable(Exception):
    """The check does not apply to this subject; the text says why."""


@dataclass(frozen=True)
class Check:
    """One named check, as used by a run, a worker, a replay and selftest.

    Args:
        name: its public name.
        run: the whole check; it may raise :class:`NotApplicable`.
        on_problem: the check on one given problem, for a replay; None: it draws its own.
        mode: ``"step"`` or ``"sequence"`` for a check of the gradient beside JAX, which needs
            compiled programs and whose cases workers may share.
        law: the metamorphic relation that the check tests, if it is one.
        alone: True if its calls must run in one process and in order.
        says: the diagnosis of a finding that no pattern of numbers explains.
        replayed_twice: ``"calls"`` or ``"layouts"`` if a replay compares two runs of the code.
    """

    name: str
    run: Callable[[Context], Tally]
    on_problem: Callable[[Run, Problem], Tally] | None = None
    mode: str = ""
    law: Law | None = None
    alone: bool = False
    says: Callable[[Finding], Diagnosis | None] = lambda finding: None
    replayed_twice: str = ""

    @property
    def text(self) -> str:
        """A description of what it compares and finds."""
        return inspect.getdoc(self.run) or ""
