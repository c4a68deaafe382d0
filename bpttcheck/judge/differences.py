"""Finite differences as an oracle: slopes along directions, from the native forward pass alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from bpttcheck.errors import Declined
from bpttcheck.judge.handwritten import HandWritten
from bpttcheck.judge.oracle import Reference
from bpttcheck.oracles.differences.finite_difference import finite_difference
from bpttcheck.oracles.estimate import Estimate
from bpttcheck.problems.leaves import Leaves
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.subject.surrogate import surrogate_forward


class Differences:
    """Finite differences of a subject's own forward pass.

    Args:
        code: the hand-written side.
    """

    name = "differences"
    title = "the finite differences"
    relevant = True

    def __init__(self, code: HandWritten) -> None:
        self._code = code
        self.declined = "differences are taken along one direction at a time"

    def shared(self, code: HandWritten) -> Differences:
        """The differences of other code."""
        return Differences(code)

    def gradient(self, mode: str, problem: Problem, template: Template | None = None) -> Reference:
        """No gradient: every entry would cost a direction.

        Raises:
            Declined: always.
        """
        raise Declined(self.declined)

    def directional(
        self,
        problem: Problem,
        along: Mapping[str, NDArray[Any]],
        template: Template | None = None,
        enough: float = 0.0,
    ) -> Estimate:
        """The derivative of the loss along a direction.

        Args:
            problem: the point.
            along: block name -> direction; blocks left out are not moved.
            template: not used: nothing is compiled.
            enough: a relative bar at which to stop; 0: as narrow as it gets.

        Raises:
            BpttcheckError: if the forward pass fails, or differences cannot follow it.
        """
        code = self._code
        forward = surrogate_forward(code.subject) or code.layer.forward
        arguments = Leaves(problem).difference_arguments(along, code.methods[0], forward)
        return finite_difference(*arguments, enough=enough)
