"""What every check is given and may say."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpttcheck.judge.run import Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Diagnosis, Finding
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.checks import names_for

if TYPE_CHECKING:
    from bpttcheck.verify.law import Law


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


@dataclass(frozen=True)
class Check:
    """One named check: what drives it in a run, in a worker, in a replay and in selftest.

    Args:
        name: its public name.
        run: the whole check; it may raise :class:`NotApplicable`.
        on_problem: the check on one given problem, for a replay; None: it draws its own.
        mode: ``"step"`` or ``"sequence"`` for a check of the gradient beside JAX, which needs
            compiled programs and whose cases workers may share.
        law: the relation between two ways to one gradient, if that is what the check compares.
        alone: True if its calls must stay in one process and in their order.
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

    def applies(self, subject: Subject) -> bool:
        """Whether it is for what the subject is: a cell or a layer, or a function."""
        return self.name in names_for(subject.traits.signature is not None)

    def __call__(self, context: Context) -> Tally:
        """Run it."""
        if not self.applies(context.run.subject):
            raise NotApplicable("not for what this subject is")
        return self.run(context)

    @property
    def text(self) -> str:
        """What it compares and what it finds."""
        return inspect.getdoc(self.run) or ""
