"""The Huber loss of each step: quadratic near the target, linear far from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.losses import base, validation


@dataclass(frozen=True)
class Huber:
    """``r²/2`` for ``|r| <= delta``, else ``delta (|r| - delta/2)``, summed over the features.

    Both branches are one formula in the residual ``r`` and the clipped residual ``c``, with no
    square of a large number. Forward, with the outputs ``o`` and the targets ``y``, ``(..., F)``::

        r    = o - y                                                      (1)
        c    = clip(r, -delta, delta)                                     (2)
        loss = sum of c (r - c/2) over the features                       (3)
        n    = the number of real steps, or 1 for the sum                 (4)
        L    = (sum of loss over the real steps) / n                      (5)

    Where ``|r| <= delta``, ``c = r`` and (3) has the term ``r²/2``; elsewhere
    ``c = delta sign(r)`` and the term is ``delta |r| - delta²/2``.

    Backward. A small change ``do`` changes ``r`` by ``do`` and ``c`` by some ``dc``, hence a term
    of (3) by ``dc (r - c/2) + c (do - dc/2) = dc (r - c) + c do``. Of the first summand one factor
    is always zero: ``r = c`` inside, ``dc = 0`` outside, and at ``|r| = delta`` it is ``r = c``,
    whatever ``dc`` is taken to be there. What is left is continuous: only the second derivative
    jumps, at ``|r| = delta``::

        d_loss = c                              from (1) to (3)           (6)
        d_o    = d_loss / n at real steps, else 0        from (5)         (7)

    The mean is over steps, not over features: it is ``F`` times that of ``torch.nn.HuberLoss``.

    Args:
        delta: the residual at which the loss becomes linear; positive and finite.
        reduction: ``"mean"`` over the real steps, or their ``"sum"``.

    Raises:
        ContractError: ``delta`` is not positive and finite, or the reduction is unknown.

    Source:
        Huber (1964), "Robust estimation of a location parameter".
    """

    delta: float = 1.0
    reduction: str = "mean"

    def __post_init__(self) -> None:
        validation.reduction_known(self.reduction)
        if not (self.delta > 0 and math.isfinite(self.delta)):
            validation.refuse("delta", f"delta={self.delta!r}", "a positive, finite number")

    def value(self, outputs: Array, targets: Array, mask: Array | None = None) -> Any:
        """The loss, equations (1) to (5).; ``targets`` has the shape of ``outputs``."""
        self.validate(outputs, targets, mask)
        real = base.unmasked(outputs, mask)
        r, c = self._residuals(outputs, targets, real)  # (1), (2)
        loss = np.sum(c * (r - 0.5 * c), axis=-1)  # (3)
        n = base.count(real, self.reduction, outputs.dtype)  # (4)
        return base.reduced(loss, real, n)  # (5)

    def gradient(self, outputs: Array, targets: Array, mask: Array | None = None) -> Array:
        """The gradient with respect to the outputs, equations (6) and (7)."""
        self.validate(outputs, targets, mask)
        real = base.unmasked(outputs, mask)
        _, c = self._residuals(outputs, targets, real)  # (1), (2)
        d_loss = c  # (6)
        n = base.count(real, self.reduction, outputs.dtype)  # (4)
        return base.spread(d_loss, real, n)  # (7)

    def validate(self, outputs: Array, targets: Array, mask: Array | None = None) -> None:
        """Check the arguments of :meth:`value` and :meth:`gradient`.

        Raises:
            ContractError: a wrong shape or dtype, a target that is not finite, or no real step to
                take the mean of.
        """
        validation.finite_numbers(outputs, targets, mask, self.reduction)

    def _residuals(self, outputs: Array, targets: Array, real: Array) -> tuple[Array, Array]:
        y = targets.astype(outputs.dtype)
        r = base.only_real(outputs, real) - base.only_real(y, real)
        delta = float(self.delta)  # np.float64 would not leave float32 alone
        return r, np.clip(r, -delta, delta)
