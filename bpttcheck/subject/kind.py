"""Is an object a cell or a layer, and if neither, what was probably meant?"""

from __future__ import annotations

import difflib
import types
from typing import Any, Literal

from bpttcheck.contract import CELL_METHODS, LAYER_METHODS
from bpttcheck.errors import ContractError
from bpttcheck.subject.user_code import SIGNATURES, examining
from bpttcheck.subject.values import describe, is_a

OTHER_NAMES = {
    "init": ("initialise", "initialize", "init_params", "init_parameters", "reset_parameters"),
    "initial_state": ("init_state", "zero_state", "init_hidden", "initial_hidden", "begin_state"),
    "step": ("forward_step", "step_forward", "forward", "cell", "__call__"),
    "step_vjp": ("backward", "vjp", "step_backward", "backward_step", "bwd", "step_grad", "grad"),
    "forward": ("fwd", "apply", "run", "unroll", "__call__"),
    "vjp": ("backward", "bwd", "forward_vjp", "grad", "backpropagate"),
}

_MISSING = object()


def validate_subject(candidate: object) -> Literal["cell", "layer"]:
    """Say whether ``candidate`` is a cell or a layer; an object that is both is a layer.

    Args:
        candidate: the object that the user wants checked.

    Returns:
        ``"cell"`` or ``"layer"``.

    Raises:
        ContractError: it is neither; the message says which methods are missing or what to pass.
    """
    with examining("", "subject"):
        return _validate_subject(candidate)


def _validate_subject(candidate: Any) -> Literal["cell", "layer"]:
    _reject_other_things(candidate)
    attributes = {name: _attribute(candidate, name) for name in (*CELL_METHODS, *LAYER_METHODS[2:])}
    kind = _likely_kind(attributes)
    wanted = CELL_METHODS if kind == "cell" else LAYER_METHODS
    missing = [name for name in wanted if attributes[name] is _MISSING]
    if missing:
        raise ContractError(
            _missing_message(candidate, kind, wanted, missing), method=missing[0], item="subject"
        )
    for name in wanted:
        _require_method(candidate, name, attributes[name])
    for name in ("initial_state_vjp",):
        optional = _attribute(candidate, name)
        if optional is not _MISSING and optional is not None:
            _require_method(candidate, name, optional)
    return kind


def _reject_other_things(candidate: Any) -> None:
    remedy = _what_to_pass(candidate)
    if remedy:
        raise ContractError(
            f"the subject is {describe(candidate)}, but should be a cell or a layer: {remedy}",
            item="subject",
        )


def _what_to_pass(candidate: Any) -> str:
    if is_a(candidate, type):
        return _instead_of_class(candidate)
    if is_a(candidate, types.ModuleType):
        return "pass an object with the methods of a cell, such as an instance of a class in it"
    if hasattr(type(candidate), "defvjp"):
        return "wrap it with bpttcheck.adapt.from_custom_vjp"
    if is_a(candidate, (types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
        return "wrap it with bpttcheck.adapt.from_callables"
    if is_a(candidate, str):
        return "pass the object itself; names are for the command line: bpttcheck verify NAME"
    if is_a(candidate, (list, tuple, dict, set)):
        return "pass one subject at a time"
    if type(candidate).__module__ in ("builtins", "numpy"):
        return f"a cell has the methods {_spoken(CELL_METHODS)}"
    return ""


def _instead_of_class(candidate: type) -> str:
    name = candidate.__name__
    if any(base.__module__.startswith("torch.autograd") for base in candidate.__mro__):
        return f"wrap it: bpttcheck.adapt.from_autograd_function({name})"
    return f"pass an instance: {name}()"


def _attribute(candidate: Any, name: str) -> Any:
    try:
        return getattr(candidate, name)
    except AttributeError:
        return _MISSING


def _likely_kind(attributes: dict[str, Any]) -> Literal["cell", "layer"]:
    def present(names: tuple[str, ...]) -> int:
        return sum(callable(attributes[name]) for name in names)

    as_layer, as_cell = present(LAYER_METHODS[2:]), present(CELL_METHODS[2:])
    return "layer" if as_layer == 2 or as_layer > as_cell else "cell"


def _require_method(candidate: Any, name: str, value: Any) -> None:
    if not callable(value):
        raise ContractError(
            f"{type(candidate).__name__}.{name} is {describe(value)}, but should be a method: "
            f"{SIGNATURES[name]}",
            method=name,
            item="subject",
        )


def _missing_message(candidate: Any, kind: str, wanted: tuple[str, ...], missing: list[str]) -> str:
    name = type(candidate).__name__
    said = f"{name} has no method {_spoken(missing)}; a {kind} has {_spoken(wanted)}"
    if any(base.__module__.split(".")[0] == "torch" for base in type(candidate).__mro__):
        return f"{said}: wrap a torch function with bpttcheck.adapt.from_autograd_function"
    others = [name for name in dir(candidate) if not name.startswith("_") and name not in wanted]
    near = {method: _near_miss(method, others) for method in missing}
    guesses = [f"is {other!r} meant to be {method!r}?" for method, other in near.items() if other]
    if guesses:
        return f"{said}: {' '.join(guesses)} Rename it to {SIGNATURES[missing[0]]}"
    return f"{said}: write {_spoken([SIGNATURES[method] for method in missing])}"


def _near_miss(method: str, names: list[str]) -> str | None:
    for other in OTHER_NAMES.get(method, ()):
        if other in names:
            return other
    folded = {name.replace("_", "").lower(): name for name in names}
    near = difflib.get_close_matches(method.replace("_", ""), folded, n=1, cutoff=0.7)
    if near:
        return folded[near[0]]
    words = set(method.split("_"))
    if len(words) == 1:
        return None
    return next((name for name in names if words <= set(name.split("_"))), None)


def _spoken(names: tuple[str, ...] | list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
