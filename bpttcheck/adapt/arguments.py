"""Validation of the arguments of adapters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from bpttcheck.contract import is_cell, is_layer
from bpttcheck.errors import ContractError


def given(name: str, value: object) -> str:
    """The start of every error message: ``f=<function step at 0x...> (type=function)``."""
    return f"{name}={value!r} (type={type(value).__name__})"


def require_function(
    name: str, value: object, arguments: tuple[str, ...], keywords: tuple[str, ...] = ()
) -> Callable[..., Any]:
    """Return ``value`` if it is a function that takes ``arguments``, else raise.

    Raises:
        ContractError: ``value`` is a class, not callable, or takes another number of arguments.
    """
    expected = f"a function of ({', '.join(arguments + keywords)})"
    if isinstance(value, type):
        raise ContractError(
            f"{given(name, value)} is a class, expected {expected}; "
            "give a method of an instance, or the function itself",
            item=name,
        )
    if not callable(value):
        raise ContractError(f"{given(name, value)} is not callable, expected {expected}", item=name)
    signature = signature_of(value)
    if signature is not None:
        try:
            signature.bind(*arguments, **dict.fromkeys(keywords))
        except TypeError as error:
            raise ContractError(
                f"{given(name, value)} has the signature {signature}, expected {expected} "
                f"({error}); bind whatever else it takes with functools.partial",
                item=name,
            ) from error
    return value


def require_reference(value: object) -> Any:
    """Return ``value`` if it can serve as a reference: None, a function, a cell or a layer.

    Raises:
        ContractError: it is none of these.
    """
    if value is None or is_cell(value) or is_layer(value):
        return value
    return require_function("reference", value, ("params", "state", "x"))


def name_of(name: str | None, function: object) -> str:
    """The name given, else the function's own."""
    if name is not None:
        return name
    own = getattr(function, "__name__", None) or getattr(
        getattr(function, "func", None), "__name__", None
    )
    owner = getattr(function, "__self__", None)
    if own == "apply" and isinstance(owner, type):  # of a torch.autograd.Function
        return owner.__name__
    return own or type(function).__name__


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """The signature, None for compiled code without one."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None
