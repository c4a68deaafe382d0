"""The backward step has the derivative of another activation than the forward step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from bpttcheck.activations import ACTIVATIONS
from bpttcheck.contract import is_cell
from bpttcheck.mutants._planted import cell_call
from bpttcheck.mutants.base import LIVELY, Anatomy, Call, Change, Mutant, MutatedCell, Pulled


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """For each option of a cell that names an activation, each other activation's derivative.

    The cell has to be a dataclass: another one, with another activation, does the backward step.
    """
    for option, own in _activations(parts.target):
        for other in ACTIVATIONS:
            change = _change(parts.target, option, other)
            if other == own or not _reaches(parts, change):
                continue
            yield Mutant(
                f"{option} {own} differentiated as {other}", "activation",
                f"step_vjp has the derivative of {other}, but {option}={own!r}",
                _plant(option, other), "cell", (), "wrong-derivative", regimes=LIVELY,
            )  # fmt: skip


def _activations(target: Any) -> Iterator[tuple[str, str]]:
    if not is_cell(target) or not is_dataclass(target):
        return
    for option in fields(target):
        value = getattr(target, option.name, None)
        name = getattr(value, "name", value)
        if option.init and "activation" in option.name and name in tuple(ACTIVATIONS):
            yield option.name, name


def _change(target: Any, option: str, other: str) -> Change:
    stranger: Any = replace(target, **{option: other})

    def change(call: Call) -> Pulled:
        return cell_call(stranger, call.params, call.record, call.d_state, call.d_y).right()

    return change


def _plant(option: str, other: str) -> Callable[[Any], Any]:
    def plant(target: Any) -> Any:
        return MutatedCell(target, _change(target, option, other))

    return plant


def _reaches(parts: Anatomy, change: Change) -> bool:
    try:
        return bool(parts.reached(change))
    except Exception:  # a cache that only its own activation can read
        return False
