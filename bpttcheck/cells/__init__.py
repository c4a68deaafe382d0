"""The built-in cells: one file each, its derivation in its docstring, loaded when first used.

Adding a cell takes its file, one line in ``_HOMES`` and one in :data:`BUILTINS`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from bpttcheck.errors import ContractError

if TYPE_CHECKING:
    from bpttcheck.cells.elman import Elman
    from bpttcheck.cells.gru_reset_after import GRUResetAfter
    from bpttcheck.cells.gru_reset_before import GRUResetBefore
    from bpttcheck.cells.jordan import Jordan
    from bpttcheck.cells.lstm import LSTM
    from bpttcheck.cells.peephole_lstm import PeepholeLSTM

__all__ = [
    "BUILTINS",
    "LSTM",
    "Elman",
    "GRUResetAfter",
    "GRUResetBefore",
    "Jordan",
    "PeepholeLSTM",
    "builtin",
    "every_name",
]

_HOMES = {
    "Elman": "elman",
    "GRUResetAfter": "gru_reset_after",
    "GRUResetBefore": "gru_reset_before",
    "Jordan": "jordan",
    "LSTM": "lstm",
    "PeepholeLSTM": "peephole_lstm",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bpttcheck.cells' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"bpttcheck.cells.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _factory(class_name: str, **options: Any) -> Callable[..., Any]:
    def make(**more: Any) -> Any:
        cls = getattr(importlib.import_module(__name__), class_name)
        unknown = set(more) - {field.name for field in fields(cls)}
        if unknown:
            raise ContractError(f"{class_name} has no option {', '.join(sorted(unknown))}")
        return cls(**{**options, **more})

    return make


BUILTINS: dict[str, Callable[..., Any]] = {
    "elman": _factory("Elman"),
    "lstm": _factory("LSTM"),
    "peephole_lstm": _factory("PeepholeLSTM"),
    "gru_reset_before": _factory("GRUResetBefore"),
    "gru_reset_after": _factory("GRUResetAfter"),
    "jordan": _factory("Jordan"),
    "jordan_teacher_forced": _factory("Jordan", teacher_forced=True),
}
"""Every built-in cell by its name on the command line; call the value to make the cell."""


def every_name() -> tuple[str, ...]:
    """The name of every built-in cell, Elman's with each activation: what ``verify`` checks."""
    from bpttcheck.activations import ACTIVATIONS

    elman = [f"elman[{activation}]" for activation in ACTIVATIONS]
    return (*elman, *(name for name in BUILTINS if name != "elman"))


def builtin(name: str) -> Any:
    """The built-in cell of this name.

    Args:
        name: a key of :data:`BUILTINS`, with an activation in brackets if the cell takes one:
            ``"lstm"``, ``"elman"``, ``"elman[relu]"``.

    Returns:
        A new instance of the cell.

    Raises:
        ContractError: no cell or no activation has this name, or the cell takes no activation.
    """
    match = re.fullmatch(r"(\w+)(?:\[(\w+)\])?", name)
    if match is None or match[1] not in BUILTINS:
        raise ContractError(
            f"no built-in cell is called {name!r}, expected one of {', '.join(BUILTINS)}, where a"
            " cell with an activation may name it: 'elman[relu]'",
            item="name",
        )
    if match[2] is None:
        return BUILTINS[match[1]]()
    return BUILTINS[match[1]](activation=match[2])
