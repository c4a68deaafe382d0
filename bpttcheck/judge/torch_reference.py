"""torch as an oracle: the gradients of a plain torch function that a subject gives as reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.blocks import YS, d_param
from bpttcheck.contract import is_float
from bpttcheck.errors import Declined
from bpttcheck.judge.handwritten import HandWritten
from bpttcheck.judge.oracle import Reference
from bpttcheck.judge.verdict import rounding
from bpttcheck.oracles import torch_autodiff
from bpttcheck.oracles.autodiff.autodiff import Spread
from bpttcheck.oracles.estimate import Estimate
from bpttcheck.problems.problem import Problem, Template


class TorchReference:
    """What torch differentiates for a subject that has the trait ``torch_reference``.

    Args:
        code: the hand-written side.
    """

    name = "torch"
    title = "torch"

    def __init__(self, code: HandWritten) -> None:
        self._code = code
        self._function = code.subject.traits.torch_reference
        self.relevant = self._function is not None
        self.declined = "" if self._function else "no torch function was given to compare with"

    def shared(self, code: HandWritten) -> TorchReference:
        """The same for other code."""
        return TorchReference(code)

    def gradient(self, mode: str, problem: Problem, template: Template | None = None) -> Reference:
        """The gradient of every input that the code returns, with noisy copies.

        Args:
            mode: not used: a function has one.
            problem: the point.
            template: not used: nothing is compiled.

        Raises:
            Declined: there is no reference, or torch cannot differentiate it here.
        """
        unit, _ = rounding(problem.dtype)
        function, slopes = self._at(problem)
        found = torch_autodiff.gradients(
            function, list(problem.params.values()), slopes, unit, problem.case.index & 0xFFFF
        )
        floats = [name for name, value in problem.params.items() if is_float(value)]
        blocks = {
            str(d_param(name)): spread
            for name, spread in zip(floats, found.gradients, strict=True)
            if not self._code.is_absent(d_param(name))
        }
        return Reference({str(YS): _row(found.outputs)}, blocks)

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
            enough: not used: its bar is as narrow as it gets.

        Raises:
            Declined: there is no reference, or torch cannot differentiate it twice.
        """
        unit, _ = rounding(problem.dtype)
        function, slopes = self._at(problem)
        moved = [along.get(str(d_param(name))) for name in problem.params]
        return torch_autodiff.directional(
            function, list(problem.params.values()), moved, slopes, unit, 1
        )

    def _at(self, problem: Problem) -> tuple[torch_autodiff.TorchFunction, list[Any]]:
        """The reference as a function of the inputs in their order, and the cotangents."""
        if self._function is None:
            raise Declined(self.declined)
        reference, names = self._function, list(problem.params)

        def function(leaves: list[Any]) -> list[Any]:
            outputs = reference(dict(zip(names, leaves, strict=True)))
            return [out.reshape(-1) for out in outputs]

        flat = np.asarray(problem.d_ys, np.float64).reshape(-1)
        sizes = [int(np.prod(shape)) for shape in self._shapes(problem)]
        return function, np.split(flat, np.cumsum(sizes)[:-1])

    def _shapes(self, problem: Problem) -> list[tuple[int, ...]]:
        import torch

        assert self._function is not None
        tensors = {n: torch.as_tensor(np.array(v)) for n, v in problem.params.items()}
        with torch.no_grad():
            return [tuple(out.shape) for out in self._function(tensors)]


def _row(outputs: list[Spread]) -> Spread:
    """All outputs in the one row ``(1, 1, M)`` that a function returns."""
    value = np.concatenate([one.value for one in outputs])
    copies = np.concatenate([one.copies for one in outputs], axis=1)
    return Spread(value.reshape(1, 1, -1), copies.reshape(len(copies), 1, 1, -1))
