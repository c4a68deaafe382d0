"""The squared error of each step, without a factor of 1/2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.losses import base, validation


@dataclass(frozen=True)
class SquaredError:
    """The sum of ``(o - y)²`` over the features of a step, without a factor of 1/2.

    Forward, with the outputs ``o`` and the targets ``y``, both ``(..., F)``::

        r    = o - y                                                      (1)
        loss = sum of r² over the features                                (2)
        n    = the number of real steps, or 1 for the sum                 (3)
        L    = (sum of loss over the real steps) / n                      (4)

    Backward. A small change ``do`` changes ``r`` by ``do`` and a step's loss by
    ``sum(2 r * do)``; the factor of ``do`` is the gradient::

        d_loss = 2 r                            from (1), (2)             (5)
        d_o    = d_loss / n at real steps, else 0        from (4)         (6)

    The mean is over steps, not over features: it is ``F`` times that of ``torch.nn.MSELoss``.

    Args:
        reduction: ``"mean"`` over the real steps, or their ``"sum"``.

    Raises:
        ContractError: the reduction is unknown.

    Source:
        Bishop (2006), "Pattern recognition and machine learning", equation 5.11, which has the
        factor of 1/2.
    """

    reduction: str = "mean"

    def __post_init__(self) -> None:
        validation.reduction_known(self.reduction)

    def value(self, outputs: Array, targets: Array, mask: Array | None = None) -> Any:
        """The loss, equations (1) to (4).; ``targets`` has the shape of ``outputs``."""
        self.validate(outputs, targets, mask)
        real = base.unmasked(outputs, mask)
        r = _residual(outputs, targets, real)  # (1)
        loss = np.sum(r * r, axis=-1)  # (2)
        n = base.count(real, self.reduction, outputs.dtype)  # (3)
        return base.reduced(loss, real, n)  # (4)

    def gradient(self, outputs: Array, targets: Array, mask: Array | None = None) -> Array:
        """The gradient with respect to the outputs, equations (5) and (6)."""
        self.validate(outputs, targets, mask)
        real = base.unmasked(outputs, mask)
        d_loss = 2.0 * _residual(outputs, targets, real)  # (5)
        n = base.count(real, self.reduction, outputs.dtype)  # (3)
        return base.spread(d_loss, real, n)  # (6)

    def validate(self, outputs: Array, targets: Array, mask: Array | None = None) -> None:
        """Check the arguments of :meth:`value` and :meth:`gradient`.

        Raises:
            ContractError: a wrong shape or dtype, a target that is not finite, or no real step to
                take the mean of.
        """
        validation.finite_numbers(outputs, targets, mask, self.reduction)


def _residual(outputs: Array, targets: Array, real: Array) -> Array:
    y = targets.astype(outputs.dtype)
    return base.only_real(outputs, real) - base.only_real(y, real)
