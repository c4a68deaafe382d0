"""The index of cells and layers that have a native form."""

from __future__ import annotations

import importlib
from typing import Any

from bpttcheck.on_jax.form import JaxCell

_FORMS = {
    "bpttcheck.cells.elman.Elman": "elman",
    "bpttcheck.cells.gru_reset_after.GRUResetAfter": "gru_reset_after",
    "bpttcheck.cells.gru_reset_before.GRUResetBefore": "gru_reset_before",
    "bpttcheck.cells.jordan.Jordan": "jordan",
    "bpttcheck.cells.lstm.LSTM": "lstm",
    "bpttcheck.cells.peephole_lstm.PeepholeLSTM": "lstm",
}

# Built-in layers that compute the function of the cell in one of their attributes.
_CELL_OF = {
    "bpttcheck.bptt.layer.CellLayer": "cell",
    "bpttcheck.bptt.fused.elman.FusedElman": "reference",
    "bpttcheck.bptt.fused.gru_reset_after.FusedGRUResetAfter": "reference",
    "bpttcheck.bptt.fused.gru_reset_before.FusedGRUResetBefore": "reference",
    "bpttcheck.bptt.fused.lstm.FusedLSTM": "reference",
}


def form_of(subject: Any) -> JaxCell | None:
    """The native form of a cell or a layer, or None.

    The type must match exactly: a subclass may have overridden methods.
    """
    attribute = _CELL_OF.get(_name(subject))
    cell = subject if attribute is None else getattr(subject, attribute)
    home = _FORMS.get(_name(cell))
    if home is None:
        return None
    return importlib.import_module(f"bpttcheck.on_jax.{home}").form(cell)


def _name(subject: Any) -> str:
    return f"{type(subject).__module__}.{type(subject).__qualname__}"
