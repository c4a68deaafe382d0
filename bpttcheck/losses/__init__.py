"""Losses of a sequence: one file each, its derivation in its docstring, loaded when first used.

Adding a loss takes its file, one line in ``_HOMES`` and one in :data:`LOSSES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from bpttcheck.errors import ContractError

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bpttcheck.losses' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"bpttcheck.losses.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _factory(class_name: str) -> Callable[..., Any]:
    def make(**options: Any) -> Any:
        cls = getattr(importlib.import_module(__name__), class_name)
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ContractError(
                f"{class_name} has no option {', '.join(unknown)}, expected some of"
                f" {', '.join(known)}",
                item=unknown[0],
            )
        return cls(**options)

    return make


LOSSES: dict[str, Callable[..., Any]] = {
    "softmax_cross_entropy": _factory("SoftmaxCrossEntropy"),
    "squared_error": _factory("SquaredError"),
    "huber": _factory("Huber"),
    "binary_cross_entropy": _factory("BinaryCrossEntropy"),
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
