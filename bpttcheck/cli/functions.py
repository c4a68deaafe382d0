"""Functions as targets: what the command line says of them, and the subjects made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from bpttcheck.errors import ContractError

_T = TypeVar("_T", bound=Callable[..., Any])

_HELP = {
    "signature": ("TEXT", "Inputs and outputs of a function: 'x: N T D, W: D H -> h: N T H'."),
    "grads": ("NAMES", "What the backward function returns: 'dx, dW, _'."),
    "receives": ("NAMES", "What the backward function takes: 'cache, dh'."),
    "returns": ("NAMES", "What a loss with gradients returns: 'loss, dW, _'."),
    "batch": ("LETTER", "The batch axis of the signature (default: B or N; '': none)."),
    "time": ("LETTER", "The time axis of the signature (default: T; '': none)."),
    "globals": ("TEXT", "Inputs that are globals of the file: 'Wx: D 4H, b: 4H'."),
    "at": ("FILE.npz", "Judge a function at these arguments alone, saved by name."),
}
NAMES = tuple(_HELP)
"""The options that say what a function takes and returns."""

_OF_A_PAIR = ("grads", "receives", "batch", "time")


def function_options(command: _T) -> _T:
    """Give a command the options that say what a function takes and returns."""
    for name in reversed(NAMES):
        metavar, text = _HELP[name]
        command = click.option(f"--{name}", metavar=metavar, help=text)(command)
    return command


def told(given: dict[str, Any]) -> dict[str, str]:
    """Take these options out of all that were given; those that were left out are not in it."""
    found = {name: given.pop(name, None) for name in NAMES}
    return {name: value for name, value in found.items() if value is not None}


def function_of(functions: list[Any], options: Mapping[str, str], module: Any) -> Any:
    """The subject made of one function or of two.

    Args:
        functions: a loss with gradients, or a forward and a backward function.
        options: what :func:`told` found.
        module: the module whose globals may be inputs.

    Raises:
        ContractError: options are missing, or do not go together.
    """
    from bpttcheck.adapt import from_grad, from_vjp, in_module

    if "signature" not in options and "at" not in options:
        raise ContractError(
            "what goes in and out is not known: add --signature 'x: N T D, W: D H -> h: N T H', or "
            "--at FILE.npz with arguments by name"
        )
    unfit = [f"--{name}" for name in ("returns",) if name in options]
    if len(functions) == 1:
        unfit = [f"--{name}" for name in _OF_A_PAIR if name in options]
    if unfit:
        one, two = "a loss with gradients, one function", "a forward and a backward function"
        given, other = (one, two) if len(functions) == 1 else (two, one)
        raise ContractError(f"it is {given}, but {unfit[0]} belongs to {other}")
    own: dict[str, Any] = dict(options)
    if "globals" in own:
        own["params"] = in_module(module, **_axes(own.pop("globals")))
    if len(functions) == 2:
        return from_vjp(functions[0], functions[1], **own)
    return from_grad(functions[0], **own)


def _axes(text: str) -> dict[str, str]:
    """The axes of each of the globals: ``{"Wx": "D 4H", "b": "4H"}``."""
    pairs = [part.partition(":") for part in text.split(",")]
    wrong = [
        name.strip() for name, colon, _ in pairs if not (colon and name.strip().isidentifier())
    ]
    if wrong:
        raise ContractError(
            f"--globals {text!r}: {wrong[0]!r} should be a name and its axes, as in "
            "'Wx: D 4H, b: 4H'"
        )
    return {name.strip(): axes.strip() for name, _, axes in pairs}


def for_subject(subject: Any, options: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The options of a check that a subject has a use for, and a remark on those that it has not.

    A function has its sizes by letter, and one that is judged at given arguments alone has few
    cases of those.
    """
    from bpttcheck.adapt.function import Function
    from bpttcheck.verify.functions import CASES_OF_A_POINT

    found = dict(options)
    function = getattr(subject, "target", subject)
    if not isinstance(function, Function):
        return found, ""
    unused = [name for name in ("lengths", "batches", "sizes") if found.pop(name, None) is not None]
    if function.only_points:
        most = CASES_OF_A_POINT * len(function.points)
        found["examples"] = min(found["examples"], most)
        known = tuple(d for d in found["dtypes"] if d in function.dtypes)
        found["dtypes"] = known or found["dtypes"]
    if not unused:
        return found, ""
    remark = f"{', '.join(unused)} left out: the sizes of a function are those of its signature"
    return found, f"{remark}, such as '... where T in 1|2'"
