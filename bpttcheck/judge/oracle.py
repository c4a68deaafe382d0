"""What every oracle is to the judgement of a case: a source of the gradient, or of slopes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from bpttcheck.errors import Declined
from bpttcheck.judge.handwritten import HandWritten
from bpttcheck.oracles.autodiff.autodiff import Spread
from bpttcheck.oracles.differences.finite_difference import finite_difference
from bpttcheck.oracles.estimate import Estimate
from bpttcheck.problems.leaves import Leaves
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.subject.surrogate import surrogate_forward


@dataclass(frozen=True)
class Reference:
    """What an oracle says about one problem: outputs and gradients by name, with noisy copies."""

    forward: Mapping[str, Spread]
    gradients: Mapping[str, Spread]


class Oracle(Protocol):
    """An independent source of the gradient of one subject.

    Attributes:
        name: what it is called in counts and options.
        title: what it is called in a sentence.
        declined: why it gives no gradient of this subject at all, or ``""``.
        relevant: False if it has nothing to do with subjects of this kind.
    """

    name: str
    title: str
    declined: str
    relevant: bool

    def gradient(self, mode: str, problem: Problem, template: Template | None = None) -> Reference:
        """The gradient of every block that the code returns, with noisy copies.

        Args:
            mode: ``"step"`` or ``"sequence"``.
            problem: the point.
            template: the compiled shape to use; None: the problem's own.

        Raises:
            Declined: if it cannot give one here.
        """
        ...

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
            template: the compiled shape to use; None: the problem's own.
            enough: a relative bar at which it may stop; 0: as narrow as it gets.

        Raises:
            Declined: if it cannot give one here.
        """
        ...

    def shared(self, code: HandWritten) -> Oracle:
        """The same for other code with the same forward pass."""
        ...


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
