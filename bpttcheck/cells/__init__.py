"""The built-in cells: one file each, its derivation in its docstring, loaded when first used.

Adding a cell takes its file, one line in ``_HOMES`` and one in :data:`BUILTINS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bpttcheck.errors import ContractError
from bpttcheck.lazy import factory, index

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

__getattr__, __dir__ = index(__name__, _HOMES)

BUILTINS: dict[str, Callable[..., Any]] = {
    "elman": factory(__name__, "Elman"),
    "lstm": factory(__name__, "LSTM"),
    "peephole_lstm": factory(__name__, "PeepholeLSTM"),
    "gru_reset_before": factory(__name__, "GRUResetBefore"),
    "gru_reset_after": factory(__name__, "GRUResetAfter"),
    "jordan": factory(__name__, "Jordan"),
    "jordan_teacher_forced": factory(__name__, "Jordan", teacher_forced=True),
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
