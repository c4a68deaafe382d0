"""Code that takes the optimiser's step itself: the gradient is read from its parameters' change.

With ``W - lr * g`` in the place of ``W``, ``g`` is known to the rounding of ``W`` over ``lr``. So
the code is run on parameters with more digits than those that are judged: float64 for float32, and
the long double of the machine for float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import numpy as np

from bpttcheck.adapt.returned import IGNORED
from bpttcheck.errors import ContractError

_PLACES = ("params", "parameters", "weights")


def require_rate(update: Any) -> None:
    """Refuse what is no learning rate.

    Raises:
        ContractError: it is neither None nor a positive number.
    """
    number = isinstance(update, (int, float)) and not isinstance(update, bool)
    if update is not None and not (number and update > 0):
        raise ContractError(
            f"update={update!r}, but should be the learning rate with which the code changes its "
            "parameters, such as 0.1",
            item="update",
        )


def widened(value: Any) -> Any:
    """A copy of a parameter with more digits; what is traced stays as it is.

    Raises:
        ContractError: this machine has no wider floats.
    """
    if type(value) is not np.ndarray or value.dtype.kind != "f":
        return value
    wide = np.dtype(np.float64 if value.dtype.itemsize < 8 else np.longdouble)
    if np.finfo(wide).eps >= np.finfo(value.dtype).eps:
        raise ContractError(
            f"with update= a gradient is the change of a parameter, and this machine has no floats "
            f"with more digits than {value.dtype} to tell it by: dtypes=['float32']",
            item="update",
        )
    return value.astype(wide)


def change(before: Mapping[str, Any], after: Mapping[str, Any], rate: float) -> dict[str, Any]:
    """``(before - after) / rate`` by name."""
    return {f"d_{name}": (value - after[name]) / rate for name, value in before.items()}


def updating(
    function: Callable[..., Any],
    now: Callable[[], dict[str, Any]],
    rate: float,
    names: Sequence[str],
) -> Callable[..., Any]:
    """A function that changes its globals, with the gradients that this shows in its result.

    Args:
        function: a backward pass, or a function of a loss.
        now: copies of the globals as they are.
        rate: the learning rate.
        names: what it returns, in order.
    """

    @wraps(function)
    def run(*arguments: Any) -> Any:
        before = now()
        result = function(*arguments)
        changed = change(before, now(), rate)
        if isinstance(result, Mapping):
            return {**result, **changed}
        parts = list(result) if isinstance(result, (tuple, list)) else [result]
        named = dict(zip(names, parts, strict=False))
        return {**{name: part for name, part in named.items() if name != IGNORED}, **changed}

    return run


def kept(made: Any, where: Any, names: Sequence[str]) -> dict[str, Any]:
    """Copies of the parameters that an object keeps.

    Args:
        made: the object.
        where: a function of the object, or the name of an attribute; None: attributes of the
            parameters' names, or ``params``, ``parameters`` or ``weights``.
        names: the parameters.

    Raises:
        ContractError: they are not there.
    """
    found: Any = {}
    if where is not None:
        found = where(made) if callable(where) else getattr(made, where)
    elif all(hasattr(made, name) for name in names):
        found = {name: getattr(made, name) for name in names}
    else:
        found = next((getattr(made, one) for one in _PLACES if hasattr(made, one)), found)
    if isinstance(found, (list, tuple)):
        found = dict(zip(names, found, strict=False))
    missing = [name for name in names if name not in found]
    if missing:
        raise ContractError(
            f"{type(made).__name__} keeps no parameter {missing[0]!r} where it was looked for; "
            "with update= say where they are, in a dict by name or a list in their order: "
            "grads=lambda net: net.params",
            item="grads",
        )
    return {name: np.array(found[name]) for name in names}
