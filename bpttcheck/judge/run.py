"""One run: a subject, its cases, its hand-written code, and the oracles that judge it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from bpttcheck.judge.handwritten import SEQUENCE, STEP, Hand, HandWritten
from bpttcheck.judge.reference import JaxReference, Reference
from bpttcheck.oracles.differences.finite_difference import finite_difference
from bpttcheck.oracles.estimate import Estimate
from bpttcheck.problems import function_cases, preconditions
from bpttcheck.problems.cases import Cases
from bpttcheck.problems.leaves import Leaves
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.results.records import Case, Finding
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.surrogate import surrogate_forward
from bpttcheck.subject.user_code import Notes

__all__ = ["SEQUENCE", "STEP", "Hand", "Reference", "Run"]

Array = NDArray[Any]


class Run:
    """A subject, its oracles, and the case sequence of one seed.

    Args:
        subject: what is under test.
        seed: seed of the case sequence.
        dtypes: the dtypes to check.

    What it is made of:

    - ``cases``: structures and values (:class:`bpttcheck.problems.cases.Cases`);
    - ``code``: the hand-written side (:class:`bpttcheck.judge.handwritten.HandWritten`);
    - ``jax``: JAX's side (:class:`bpttcheck.judge.reference.JaxReference`).
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
        self.subject, self.dtypes, self.seed = found.subject, tuple(found.dtypes), seed
        self.refusals, self.names = found.remarks, found.names
        self.cases: Cases = (
            function_cases.FunctionCases(self.subject, seed, self.dtypes)
            if is_function
            else Cases(self.subject, seed, self.dtypes, declared)
        )
        self.code = HandWritten(self.subject, found.absent)
        self.jax = JaxReference(self.subject)
        self._begin()
        for name in subject.traits.ignored:
            self.notes.add(f"`{name}` is not what the trait of that name is: it was left alone")

    def _begin(self) -> None:
        self.untried: list[Case] = []
        self.remarks: list[Finding] = []
        self.judged: dict[str, list[Case]] = {}

    @property
    def notes(self) -> Notes:
        """Remarks gathered so far."""
        return self.code.notes

    def fork(self, subject: Subject) -> Run:
        """A run of another subject with the same forward pass, which shares what JAX says.

        Args:
            subject: a subject whose forward pass and reference are those of this run's.
        """
        other = copy.copy(self)
        other._begin()
        other.subject = subject
        other.cases = self.cases.of(subject)
        other.code = HandWritten(subject, self.code.absent, self.code.lines)
        other.jax = self.jax.kept()
        return other

    def for_call(self, name: str) -> Run:
        """The same run for another call: programs are shared, notes and counts are its own."""
        other = copy.copy(self)
        other._begin()
        other.subject = replace(self.subject, name=name)
        other.cases = self.cases.of(other.subject)
        other.code = HandWritten(other.subject, self.code.absent)
        return other

    def adjoints(self, problem: Problem) -> tuple[list[Any], Any] | None:
        """The adjoint of every state, hand-derived and JAX's; None where either is missing."""
        if not self.jax.available:
            return None
        mine = self.code.adjoints(problem)
        return None if mine is None else (mine, self.jax.untied(problem).d_states)

    def reference(
        self,
        mode: str,
        problem: Problem,
        template: Template | None,
        patterns: Sequence[int] | None = None,
    ) -> Reference:
        """What JAX says of the blocks that the hand-written code returns: see ``jax.gradients``."""
        return self.jax.gradients(self.code, mode, problem, template, patterns)

    def difference(
        self, problem: Problem, along: Mapping[str, Array], enough: float = 0.0
    ) -> Estimate:
        """The derivative of the loss along a direction, from the forward pass alone.

        Args:
            problem: the point.
            along: block name -> direction; blocks left out are not moved.
            enough: a relative bar at which to stop; 0: as narrow as it gets.
        """
        leaves = Leaves(problem)
        point, direction, weights = leaves.difference_arguments(along)
        forward = surrogate_forward(self.subject) or self.code.layer.forward
        function = leaves.function(self.code.methods[0], forward)
        return finite_difference(function, point, direction, weights, enough=enough)


def _collect_sizes(strategy: Any, seed: int) -> tuple[tuple[int, int], ...] | None:
    """Distinct ``(n_in, n_hidden)`` drawn from a Hypothesis strategy, small ones first."""
    if strategy is None:
        return None
    from bpttcheck.problems.sizes import collect

    return collect(strategy, seed)
