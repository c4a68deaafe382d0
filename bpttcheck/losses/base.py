"""What every loss shares: the interface, which steps count, and the reduction."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from bpttcheck.contract import Array

REDUCTIONS = ("mean", "sum")


@runtime_checkable
class Loss(Protocol):
    """A scalar function of the outputs of a sequence, and its hand-derived gradient.

    ``outputs`` is ``(..., F)``: for a sequence ``(T, B, F)``, but any leading axes will do. An
    entry of the leading axes is a *step*; its loss is a sum over its ``F`` features. A step is
    *real* unless ``mask`` is false there or the loss itself ignores it::

        L = (sum of the losses of the real steps) / n

    with ``n = 1`` for the reduction ``"sum"``, and for ``"mean"`` the number of real steps, or the
    weighted number that the loss defines. Values of ``outputs`` and ``targets`` at a step that is
    not real have no influence, even NaN.
    """

    def value(self, outputs: Array, targets: Array, mask: Array | None = None) -> Any:
        """The scalar ``L``, in the dtype of ``outputs``.

        Args:
            outputs: ``(..., F)``, for a sequence ``(T, B, F)``.
            targets: what the loss compares them with: see :meth:`validate`.
            mask: bool ``(...)``, true where the step is real; None: everywhere.

        Raises:
            ContractError: as :meth:`validate`.
        """
        ...

    def gradient(self, outputs: Array, targets: Array, mask: Array | None = None) -> Array:
        """``dL/d_outputs``, in the shape and dtype of ``outputs``; zero where a step is not real.

        The targets are not differentiated. Arguments and errors are those of :meth:`value`.
        """
        ...

    def validate(self, outputs: Array, targets: Array, mask: Array | None = None) -> None:
        """Check the arguments of :meth:`value` and :meth:`gradient`, which both call it.

        Raises:
            ContractError: a wrong shape or dtype, a target that the loss is not defined for, or no
                real step to take the mean of.
        """
        ...


def unmasked(outputs: Array, mask: Array | None) -> Array:
    """The mask, or trues in the leading shape of ``outputs``.

    Args:
        outputs: ``(..., F)``.
        mask: bool ``(...)``, true where the step is real; None: everywhere.

    Returns:
        Bool ``(...)``.
    """
    return np.ones(outputs.shape[:-1], np.bool_) if mask is None else mask


def only_real(array: Array, real: Array) -> Array:
    """The array with zeros at every step that is not real, whatever stood there.

    A loss computes with these zeros rather than with the padding: a NaN or an overflow there would
    come through ``0 * NaN``, also in the gradient that autodiff takes of the value.

    Args:
        array: outputs or targets, ``(..., F)`` or ``(...)``.
        real: bool ``(...)``, true where the step is real.

    Returns:
        An array of the shape and dtype of ``array``.
    """
    return np.where(real[..., None] if array.ndim > real.ndim else real, array, 0)


def count(real: Array, reduction: str, dtype: Any) -> Any:
    """The ``n`` of :class:`Loss` without weights: the number of real steps, or 1.

    Args:
        real: bool ``(...)``, true where the step is real.
        reduction: ``"mean"`` or ``"sum"``.
        dtype: the dtype of the outputs, so that a division by ``n`` keeps it.

    Returns:
        A scalar of that dtype.
    """
    steps = np.sum(real) if reduction == "mean" else np.ones(())
    return steps.astype(dtype)


def reduced(losses: Array, real: Array, n: Any) -> Any:
    """``L``, the sum of the real steps' losses over ``n``.

    Args:
        losses: what each step loses, ``(...)``.
        real: bool ``(...)``, true where the step is real.
        n: the divisor, a scalar.

    Returns:
        A scalar.
    """
    # Divided before they are summed: the sum of large losses may overflow, their mean does not.
    return np.sum(np.where(real, losses, 0) / n)


def spread(d_losses: Array, real: Array, n: Any) -> Array:
    """``dL/d_outputs`` from the gradient of each step's own loss: the transpose of the reduction.

    Args:
        d_losses: the gradient of each step's loss with respect to its outputs, ``(..., F)``.
        real: bool ``(...)``, true where the step is real.
        n: the divisor, a scalar.

    Returns:
        An array ``(..., F)``.
    """
    return only_real(d_losses, real) / n
