"""A layer for whatever a network is given as one of its parts."""

from __future__ import annotations

from typing import Any

from bpttcheck.contract import is_cell, is_layer
from bpttcheck.errors import ContractError
from bpttcheck.networks.direction import Direction
from bpttcheck.traits import Traits


def as_layer(given: Any, place: str) -> Any:
    """A layer for a cell or a layer.

    Raises:
        ContractError: ``given`` is neither, or a layer without ``sequence``.
    """
    if is_cell(given):
        return Direction(given)
    if is_layer(given) and Traits.of(given).sequence is not None:
        return given
    kind = "a layer without the method sequence" if is_layer(given) else repr(given)[:60]
    hint = "pass an instance: write LSTM()" if isinstance(given, type) else "see bpttcheck.contract"
    raise ContractError(
        f"{place} is {kind} (type={type(given).__name__}), but should be a cell, or a layer with"
        f" sequence(engine, params, xs, state0, mask): {hint}",
        item=place,
    )
