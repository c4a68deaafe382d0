"""Validation of the options and arguments of losses.

Shapes and dtypes are always checked, values only where they are concrete: not while JAX traces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.errors import ContractError
from bpttcheck.losses.base import REDUCTIONS, unmasked


def refuse(item: str, given: str, expected: str) -> NoReturn:
    """Raise the ContractError that says what was given and what was expected."""
    raise ContractError(f"{given}, expected {expected}", method="validate", item=item)


def reduction_known(reduction: Any) -> None:
    """Raise unless this is the name of a reduction."""
    if reduction not in REDUCTIONS:
        expected = " or ".join(repr(name) for name in REDUCTIONS)
        refuse("reduction", f"reduction={reduction!r} (type={type(reduction).__name__})", expected)


def weights_as_tuple(item: str, weights: Any) -> tuple[float, ...]:
    """Weights as an option holds them: comparable and hashable, and checked.

    Args:
        item: the option's name.
        weights: a sequence or an array ``(C,)`` of numbers that are finite and not negative.

    Returns:
        The same numbers.

    Raises:
        ContractError: they are not.
    """
    array = np.asarray(weights)
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        given = f"{item} of shape {array.shape} and dtype {array.dtype}"
        refuse(item, given, "one number for each class")
    for position, weight in enumerate(array.tolist()):
        if not (math.isfinite(weight) and weight >= 0):
            refuse(item, f"{item}[{position}]={weight}", "a finite number, 0 or more")
    return tuple(float(weight) for weight in array)


def weights_fit(item: str, weights: float | Sequence[float] | None, outputs: Array) -> None:
    """Raise unless there is one weight for each of the last axis of the outputs."""
    width = outputs.shape[-1]
    if isinstance(weights, tuple) and len(weights) != width:
        given = f"{item} of length {len(weights)} for outputs.shape={outputs.shape}"
        refuse(item, given, f"length {width}, one for each entry of the last axis")


def arrays(outputs: Any, targets: Any, mask: Any) -> None:
    """Raise unless these are arrays, the outputs floating, the mask bool of the leading shape."""
    for name, array in (("outputs", outputs), ("targets", targets), ("mask", mask)):
        if not isinstance(array, (np.ndarray, np.generic)) and not (
            name == "mask" and mask is None
        ):
            refuse(name, f"{name} of type {type(array).__name__}", "a NumPy array")
    if outputs.ndim < 1 or outputs.dtype.kind != "f":
        given = f"outputs.shape={outputs.shape}, outputs.dtype={outputs.dtype}"
        refuse("outputs", given, "floating numbers (..., F): for a sequence (T, B, F)")
    leading = outputs.shape[:-1]
    if mask is not None and (mask.dtype != np.bool_ or mask.shape != leading):
        given = f"mask.shape={mask.shape}, mask.dtype={mask.dtype}"
        refuse("mask", given, f"{leading} and bool, true where the step is real")


def same_shape(outputs: Array, targets: Array) -> None:
    """Raise unless the targets are real numbers in the shape of the outputs."""
    if targets.shape != outputs.shape or targets.dtype.kind not in "biuf":
        given = f"targets.shape={targets.shape}, targets.dtype={targets.dtype}"
        refuse("targets", given, f"numbers in the shape {outputs.shape} of the outputs")


def are_numbers(*items: Any) -> bool:
    """Whether these arrays have concrete values.

    While JAX traces, an array passes ``isinstance`` of ndarray without being one: it has no values.
    """
    return all(item is None or issubclass(type(item), (np.ndarray, np.generic)) for item in items)


def every_target(targets: Array, good: Array, real: Array, expected: str) -> None:
    """Raise for the first invalid target of a real step, with its value and position.

    Args:
        targets: ``(..., F)`` or ``(...)``.
        good: bool, of the shape of ``targets``.
        real: bool ``(...)``, true where the step is real.
        expected: what was expected.

    Raises:
        ContractError: there is one.
    """
    step = real[..., None] if targets.ndim > real.ndim else real
    bad = np.argwhere(step & ~good)
    if len(bad):
        position = tuple(bad[0].tolist())
        where = f"[{', '.join(map(str, position))}]" if position else ""
        refuse("targets", f"targets{where}={targets[position]}", expected)


def finite_numbers(outputs: Any, targets: Any, mask: Any, reduction: str) -> None:
    """Raise unless the targets are finite numbers, one for each output of a real step."""
    arrays(outputs, targets, mask)
    same_shape(outputs, targets)
    if are_numbers(targets, mask):
        real = unmasked(outputs, mask)
        every_target(targets, np.isfinite(targets), real, "a finite number")
        something_to_average(np.sum(real), reduction, outputs)


def something_to_average(n: Any, reduction: str, outputs: Array) -> None:
    """Raise if the mean is over no step, or over steps whose weights are all zero."""
    if reduction == "mean" and n == 0:
        given = f"nothing to average: outputs.shape={outputs.shape}, and no step counts"
        refuse("outputs", given, "a real step with a weight; or use reduction='sum', which is 0")
