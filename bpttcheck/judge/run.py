"""One run: a subject, its cases, its hand-written code, and the oracles that judge it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from bpttcheck.judge.handwritten import SEQUENCE, STEP, Hand, HandWritten
from bpttcheck.judge.oracle import Differences, Oracle, Reference
from bpttcheck.judge.reference import JaxReference, TorchReference
from bpttcheck.problems import function_cases, preconditions
from bpttcheck.problems.cases import Cases
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Case, Finding
from bpttcheck.subject.subject import Subject
from bpttcheck.traits import expected

__all__ = ["SEQUENCE", "STEP", "Hand", "Reference", "Run"]

ORACLES: dict[str, Callable[[HandWritten], Oracle]] = {
    "jax": JaxReference,
    "torch": TorchReference,
    "differences": Differences,
}
"""Every oracle: the first that gives a gradient judges by it, the others are its witnesses."""


class Run:
    """A subject, its oracles, and the case sequence of one seed.

    Args:
        subject: what is under test.
        seed: seed of the case sequence.
        dtypes: the dtypes to check.

    What it is made of:

    - ``cases``: structures and values (:class:`bpttcheck.problems.cases.Cases`);
    - ``code``: the hand-written side (:class:`bpttcheck.judge.handwritten.HandWritten`);
    - ``oracles``: by name, in the order of :data:`ORACLES`, what judges it
      (:class:`bpttcheck.judge.oracle.Oracle`); ``jax`` is that one, which is asked for more than
      the protocol has: programs, steps, paths.
    - ``names``: of a function, block -> what its author calls that gradient.
    """

    def __init__(self, subject: Subject, seed: int, dtypes: Sequence[str]) -> None:
        declared = _collect_sizes(subject.sizes, seed)
        # What the subject refuses is kept out of the cases, and said.
        is_function = subject.traits.signature is not None
        found = (
            function_cases.preconditions(subject, dtypes, seed)
            if is_function
            else preconditions.find(subject, dtypes, (declared or ((3, 4),))[0], seed)
        )
        self.accepted = dict(subject.accept or {})
        self.subject, self.dtypes, self.seed = found.subject, tuple(found.dtypes), seed
        self.refusals, self.names = found.remarks, found.names
        self.cases: Cases = (
            function_cases.FunctionCases(self.subject, seed, self.dtypes)
            if is_function
            else Cases(self.subject, seed, self.dtypes, declared)
        )
        self.code = HandWritten(self.subject, found.absent)
        made = {name: make(self.code) for name, make in ORACLES.items()}
        self.oracles = {name: oracle for name, oracle in made.items() if oracle.relevant}
        self.jax = cast(JaxReference, self.oracles["jax"])
        self._begin()

    def _begin(self) -> None:
        for name in self.subject.traits.ignored:
            self.code.notes.add(
                f"`{name}` was left alone: the trait of that name is {expected(name)}"
            )
        self.untried: list[Case] = []
        self.remarks: list[Finding] = []
        self.judged: dict[str, list[Case]] = {}

    def fork(self, subject: Subject) -> Run:
        """A run of another subject with the same forward pass, which shares what JAX says.

        Args:
            subject: a subject whose forward pass and reference are those of this run's.
        """
        other = copy.copy(self)
        other.subject = subject
        other.cases = self.cases.of(subject)
        other.code = HandWritten(subject, self.code.absent, self.code.lines)
        other.oracles = {n: oracle.shared(other.code) for n, oracle in self.oracles.items()}
        other.jax = cast(JaxReference, other.oracles["jax"])
        other._begin()
        return other

    def for_call(self, name: str) -> Run:
        """The same run for another call: programs are shared, notes and counts are its own."""
        other = copy.copy(self)
        other.subject = replace(self.subject, name=name)
        other.cases = self.cases.of(other.subject)
        other.code = HandWritten(other.subject, self.code.absent)
        other._begin()
        return other

    def adjoints(self, problem: Problem) -> tuple[list[Any], Any] | None:
        """The adjoint of every state, hand-derived and JAX's; None where either is missing."""
        if not self.jax.available:
            return None
        mine = self.code.adjoints(problem)
        return None if mine is None else (mine, self.jax.untied(problem).d_states)


def _collect_sizes(strategy: Any, seed: int) -> tuple[tuple[int, int], ...] | None:
    """Distinct ``(n_in, n_hidden)`` drawn from a Hypothesis strategy, small ones first."""
    if strategy is None:
        return None
    from bpttcheck.problems.sizes import collect

    return collect(strategy, seed)
