"""The cross-entropy of each step between its target and the softmax of its logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.losses import base, validation

# Probabilities often come out of a float32 computation, and only then into float64.
SUM_SLACK = 1e-5


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """``-sum of t log softmax(o)`` over the classes, from logits ``o``.

    The options mean what those of ``torch.nn.CrossEntropyLoss`` mean. Forward, with logits
    ``o (..., C)``, class weights ``w (C,)`` (ones if there are none), the label smoothing ``s``,
    and as targets integer labels ``(...)`` or probabilities ``(..., C)``::

        q[c] = 1 if c is the label, else 0      integer labels            (1a)
        q    = targets                          probabilities             (1b)
        t[c] = w[c] ((1 - s) q[c] + s / C)                                (2)
        g    = o - max of o over the classes                              (3)
        lse  = log(sum of exp(g) over the classes)                        (4)
        loss = sum of t (lse - g) over the classes                        (5)
        n    = sum of w[label] over the real steps       mean, labels     (6a)
        n    = the number of real steps       mean, probabilities         (6b)
        n    = 1                                sum                       (6c)
        L    = (sum of loss over the real steps) / n                      (7)

    ``g - lse`` is the logarithm of the softmax ``p = exp(g) / sum(exp(g))``: the maximum of (3)
    cancels, and keeps ``exp`` from overflowing. A step with an ignored label is not real: it counts
    neither in the sum nor in ``n``. Note (6a): the smoothing does not enter ``n``.

    Backward. The maximum shifts ``g`` and ``lse`` alike, so its own change drops out. With
    ``d lse = sum(p * do)`` a small change ``do`` changes a step's loss by
    ``sum(t) sum(p * do) - sum(t * do)``; the factor of ``do`` is the gradient. For plain labels,
    where ``sum(t) = 1``, it is the well-known ``p - q``::

        p      = exp(g) / sum of exp(g)         from (4)                  (8)
        d_loss = sum(t) p - t                   from (3) to (5)           (9)
        d_o    = d_loss / n at real steps, else 0        from (7)         (10)

    A logit of ``-inf`` forbids a class; of two logits that are further apart than the largest
    floating-point number, that number is taken to be the difference.

    Args:
        label_smoothing: ``s``, in [0, 1).
        class_weights: ``w``, one for each class, finite and not negative; None: ones.
        ignored: a label, of a class or not, whose steps do not count; None: there is none.
        reduction: ``"mean"``, see (6a) and (6b), or ``"sum"``.

    Raises:
        ContractError: an option is out of its range.

    Source:
        Bridle (1990), "Probabilistic interpretation of feedforward classification network outputs";
        Bishop (2006), "Pattern recognition and machine learning", equations 4.108 and 4.109;
        Szegedy et al. (2016), "Rethinking the Inception architecture for computer vision", section
        7, for label smoothing.
    """

    label_smoothing: float = 0.0
    class_weights: Sequence[float] | Array | None = None
    ignored: int | None = None
    reduction: str = "mean"

    def __post_init__(self) -> None:
        validation.reduction_known(self.reduction)
        s = self.label_smoothing
        ignored: Any = self.ignored
        if not 0 <= s < 1:
            validation.refuse("label_smoothing", f"label_smoothing={s!r}", "a number in [0, 1)")
        if self.class_weights is not None:
            weights = validation.weights_as_tuple("class_weights", self.class_weights)
            object.__setattr__(self, "class_weights", weights)
        if ignored is not None and not isinstance(ignored, (int, np.integer)):
            given = f"ignored={ignored!r} (type={type(ignored).__name__})"
            validation.refuse("ignored", given, "an integer label, or None")

    def value(self, outputs: Array, targets: Array, mask: Array | None = None) -> Any:
        """The loss, equations (1) to (7).

        ``targets`` are integer labels ``(...)``, or probabilities ``(..., C)``.
        """
        self.validate(outputs, targets, mask)
        real = self._real(outputs, targets, mask)
        t, n = self._weighted(outputs, targets, real)  # (1), (2), (6)
        g = _gaps(base.only_real(outputs, real))  # (3)
        lse = np.log(np.sum(np.exp(g), axis=-1, keepdims=True))  # (4)
        loss = np.sum(t * (lse - g), axis=-1)  # (5)
        return base.reduced(loss, real, n)  # (7)

    def gradient(self, outputs: Array, targets: Array, mask: Array | None = None) -> Array:
        """The gradient with respect to the logits, equations (8) to (10)."""
        self.validate(outputs, targets, mask)
        real = self._real(outputs, targets, mask)
        t, n = self._weighted(outputs, targets, real)  # (1), (2), (6)
        e = np.exp(_gaps(base.only_real(outputs, real)))  # (3)
        p = e / np.sum(e, axis=-1, keepdims=True)  # (8)
        d_loss = np.sum(t, axis=-1, keepdims=True) * p - t  # (9)
        return base.spread(d_loss, real, n)  # (10)

    def validate(self, outputs: Array, targets: Array, mask: Array | None = None) -> None:
        """Check the arguments of :meth:`value` and :meth:`gradient`.

        Raises:
            ContractError: a wrong shape or dtype, a label out of range, probabilities that are
                negative or do not add up to 1, class weights that are not one for each class, or
                no real step with a weight to take the mean of.
        """
        validation.arrays(outputs, targets, mask)
        weights: Any = self.class_weights
        validation.weights_fit("class_weights", weights, outputs)
        self._require_targets(outputs, targets)
        if not validation.are_numbers(targets, mask):
            return
        real = self._real(outputs, targets, mask)
        if _are_labels(targets):
            last = outputs.shape[-1] - 1
            good = (targets >= 0) & (targets <= last)
            validation.every_target(targets, good, real, f"a label in the range 0..{last}")
        else:
            _require_probabilities(targets, real)
        _, n = self._weighted(outputs, targets, real)
        validation.something_to_average(n, self.reduction, outputs)

    def _require_targets(self, outputs: Array, targets: Array) -> None:
        leading, full = outputs.shape[:-1], outputs.shape
        given = f"targets.shape={targets.shape}, targets.dtype={targets.dtype}"
        if full[-1] == 0:
            validation.refuse("outputs", f"outputs.shape={full}", "at least one class")
        if _are_labels(targets):
            if targets.shape != leading:
                validation.refuse("targets", given, f"integer labels in the shape {leading}")
        elif targets.dtype.kind != "f" or targets.shape != full:
            expected = (
                f"integer labels in the shape {leading}, or probabilities in the shape {full}"
            )
            validation.refuse("targets", given, expected)
        elif self.ignored is not None:
            given = f"probabilities as targets with ignored={self.ignored}"
            validation.refuse("targets", given, "integer labels, or ignored=None and a mask")

    def _real(self, outputs: Array, targets: Array, mask: Array | None) -> Array:
        real = base.unmasked(outputs, mask)
        return real if self.ignored is None else real & (targets != self.ignored)

    def _weighted(self, outputs: Array, targets: Array, real: Array) -> tuple[Array, Any]:
        """``t (..., C)`` and ``n``, equations (1), (2) and (6)."""
        C, dtype = outputs.shape[-1], outputs.dtype
        s = float(self.label_smoothing)  # np.float64 would not leave float32 alone
        w = (
            np.ones(C, dtype)
            if self.class_weights is None
            else np.asarray(self.class_weights, dtype)
        )
        targets = base.only_real(targets, real)
        labels = _are_labels(targets)
        if labels:
            q = (targets[..., None] == np.arange(C)).astype(dtype)  # (1a)
        else:
            q = targets.astype(dtype)  # (1b)
        t = w * ((1.0 - s) * q + s / C)  # (2)
        if labels and self.reduction == "mean":
            return t, np.sum(np.where(real, np.sum(q * w, axis=-1), 0))  # (6a)
        return t, base.count(real, self.reduction, dtype)  # (6b), (6c)


def _are_labels(targets: Array) -> bool:
    return targets.dtype.kind in "iu"


def _gaps(o: Array) -> Array:
    """``g``, equation (3), at least minus the largest number of the dtype."""
    half = 0.5 * o
    # Halves, because the difference of two large logits overflows.
    below = half - np.max(half, axis=-1, keepdims=True)
    least = -0.5 * float(np.finfo(o.dtype).max)
    return 2.0 * np.maximum(below, least)


def _require_probabilities(targets: Array, real: Array) -> None:
    good = (targets >= 0) & (targets <= 1)
    validation.every_target(targets, good, real, "a probability, 0 to 1")
    total = np.sum(base.only_real(targets, real), axis=-1)
    bad = np.argwhere(real & (np.abs(total - 1) > SUM_SLACK))
    if len(bad):
        position = tuple(bad[0].tolist())
        where = ", ".join([*map(str, position), ":"])
        given = f"targets[{where}] adds up to {total[position]}"
        validation.refuse("targets", given, "probabilities that add up to 1")
