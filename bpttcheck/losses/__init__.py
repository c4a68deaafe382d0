"""Losses of a sequence: one file each, its derivation in its docstring, loaded when first used.

Adding a loss takes its file, one line in ``_HOMES`` and one in :data:`LOSSES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bpttcheck.errors import ContractError
from bpttcheck.lazy import factory, index

if TYPE_CHECKING:
    from bpttcheck.losses.base import Loss
    from bpttcheck.losses.binary_cross_entropy import BinaryCrossEntropy
    from bpttcheck.losses.huber import Huber
    from bpttcheck.losses.softmax_cross_entropy import SoftmaxCrossEntropy
    from bpttcheck.losses.squared_error import SquaredError

__all__ = [
    "LOSSES",
    "BinaryCrossEntropy",
    "Huber",
    "Loss",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "get",
]

_HOMES = {
    "BinaryCrossEntropy": "binary_cross_entropy",
    "Huber": "huber",
    "Loss": "base",
    "SoftmaxCrossEntropy": "softmax_cross_entropy",
    "SquaredError": "squared_error",
}

__getattr__, __dir__ = index(__name__, _HOMES)

LOSSES: dict[str, Callable[..., Any]] = {
    "softmax_cross_entropy": factory(__name__, "SoftmaxCrossEntropy"),
    "squared_error": factory(__name__, "SquaredError"),
    "huber": factory(__name__, "Huber"),
    "binary_cross_entropy": factory(__name__, "BinaryCrossEntropy"),
}
"""Every loss by its name; call the value, with options if you like, to make the loss."""


def get(loss: str | Loss) -> Loss:
    """The loss of this name, with its default options; a loss of your own is returned as it is.

    Args:
        loss: a key of :data:`LOSSES`, or any object with the methods of :class:`Loss`.

    Returns:
        The loss.

    Raises:
        ContractError: no loss has this name, or the object lacks a method.
    """
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]()
    methods = ("value", "gradient", "validate")
    if not isinstance(loss, (str, type)) and all(callable(getattr(loss, m, None)) for m in methods):
        return loss
    raise ContractError(
        f"loss={loss!r} (type={type(loss).__name__}) is unknown, expected one of"
        f" {', '.join(LOSSES)}; or pass an instance with the methods {', '.join(methods)}",
        item="loss",
    )
