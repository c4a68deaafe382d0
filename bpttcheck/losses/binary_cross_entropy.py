"""The binary cross-entropy of each step, from logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from bpttcheck.contract import Array
from bpttcheck.losses import base, validation


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """``-w y log σ(z) - (1 - y) log σ(-z)`` of the logits ``z``, summed over the features.

    Forward, with the logits ``z`` and the targets ``y`` in [0, 1], both ``(..., F)``, and the
    positive weight ``w``, a number or ``(F,)``::

        s⁺   = -log σ(-z) = log(1 + exp(z))                               (1)
        s⁻   = -log σ(z)  = log(1 + exp(-z))                              (2)
        loss = sum of w y s⁻ + (1 - y) s⁺ over the features               (3)
        n    = the number of real steps, or 1 for the sum                 (4)
        L    = (sum of loss over the real steps) / n                      (5)

    (1) and (2) are computed as ``logaddexp(±z, 0)``, which does not overflow. No term of (3) is
    negative, so that no digits cancel, and none has a kink. For ``w = 1`` it is equal to
    ``max(z, 0) - z y + log(1 + exp(-|z|))``, which has two kinks at ``z = 0``: they cancel, but
    autodiff sees each alone.

    Backward. The derivative of (1) is ``exp(z) / (1 + exp(z)) = σ(z)``, that of (2) ``-σ(-z)``. A
    small change ``dz`` changes a term of (3) by ``(-w y σ(-z) + (1 - y) σ(z)) dz``::

        d_loss = (1 - y) σ(z) - w y σ(-z)       from (1) to (3)           (6)
        d_z    = d_loss / n at real steps, else 0        from (5)         (7)

    For ``w = 1`` this is ``σ(z) - y``, because ``σ(-z) = 1 - σ(z)``; (6) keeps the digits of a
    small gradient. ``w`` is ``pos_weight`` of ``torch.nn.BCEWithLogitsLoss``, and does not enter
    ``n``; the mean is over steps, not over features, so that it is ``F`` times torch's.

    Args:
        positive_weight: ``w``, finite and not negative: a number, or one for each feature.
        reduction: ``"mean"`` over the real steps, or their ``"sum"``.

    Raises:
        ContractError: a weight is negative or not finite, or the reduction is unknown.

    Source:
        Bishop (2006), "Pattern recognition and machine learning", equations 4.90 and 4.91.
    """

    positive_weight: float | Sequence[float] | Array = 1.0
    reduction: str = "mean"

    def __post_init__(self) -> None:
        validation.reduction_known(self.reduction)
        weight: Any = self.positive_weight
        if np.ndim(weight):
            weight = validation.weights_as_tuple("positive_weight", weight)
            object.__setattr__(self, "positive_weight", weight)
        elif not (math.isfinite(weight) and weight >= 0):
            given = f"positive_weight={weight!r}"
            validation.refuse("positive_weight", given, "a finite number, 0 or more")

    def value(self, outputs: Array, targets: Array, mask: Array | None = None) -> Any:
        """The loss, equations (1) to (5).

        ``targets`` has the shape of ``outputs``, with entries in [0, 1].
        """
        self.validate(outputs, targets, mask)
        real = base.unmasked(outputs, mask)
        z, y, w = self._arguments(outputs, targets, real)
        s_plus = np.logaddexp(z, 0.0)  # (1)
        s_minus = np.logaddexp(-z, 0.0)  # (2)
        loss = np.sum(w * y * s_minus + (1.0 - y) * s_plus, axis=-1)  # (3)
        n = base.count(real, self.reduction, outputs.dtype)  # (4)
        return base.reduced(loss, real, n)  # (5)

    def gradient(self, outputs: Array, targets: Array, mask: Array | None = None) -> Array:
        """The gradient with respect to the logits, equations (6) and (7)."""
        self.validate(outputs, targets, mask)
        real = base.unmasked(outputs, mask)
        z, y, w = self._arguments(outputs, targets, real)
        d_loss = (1.0 - y) * special.expit(z) - w * y * special.expit(-z)  # (6)
        n = base.count(real, self.reduction, outputs.dtype)  # (4)
        return base.spread(d_loss, real, n)  # (7)

    def validate(self, outputs: Array, targets: Array, mask: Array | None = None) -> None:
        """Check the arguments of :meth:`value` and :meth:`gradient`.

        Raises:
            ContractError: a wrong shape or dtype, a target outside [0, 1], weights that are not one
                for each feature, or no real step to take the mean of.
        """
        validation.arrays(outputs, targets, mask)
        validation.same_shape(outputs, targets)
        weight: Any = self.positive_weight
        validation.weights_fit("positive_weight", weight, outputs)
        if validation.are_numbers(targets, mask):
            real = base.unmasked(outputs, mask)
            good = (targets >= 0) & (targets <= 1)
            validation.every_target(targets, good, real, "a probability, 0 to 1")
            validation.something_to_average(np.sum(real), self.reduction, outputs)

    def _arguments(self, outputs: Array, targets: Array, real: Array) -> tuple[Array, Array, Array]:
        y = targets.astype(outputs.dtype)
        w = np.asarray(self.positive_weight, outputs.dtype)
        return base.only_real(outputs, real), base.only_real(y, real), w
