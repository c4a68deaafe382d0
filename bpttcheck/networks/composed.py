"""Networks made of named parts: flat parameter names, states, traits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Array, Layer, Params, State, is_cell
from bpttcheck.errors import ContractError
from bpttcheck.traits import trait


class Composed(ABC):
    """A layer made of named parts; it has a trait only if all parts have it."""

    @property
    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """The layers that it is made of; ``""`` names a part whose parameters keep their names."""

    @property
    def supports_mask(self) -> bool:
        """True if every part supports masks."""
        return all(trait(part, "supports_mask") for part in self.parts.values())

    @property
    def causal(self) -> bool:
        """True if no output depends on a later input."""
        return all(trait(part, "causal") for part in self.parts.values())

    @property
    def splits_in_time(self) -> bool:
        """True if running two halves of a sequence in turn gives the result of the whole."""
        return all(trait(part, "splits_in_time") for part in self.parts.values())

    @property
    def exact_length(self) -> bool:
        """True if masked steps at the end are not equivalent to no steps."""
        return any(trait(part, "exact_length") for part in self.parts.values())

    @property
    def surrogate(self) -> str:
        """The surrogates that the parts declare, or ``""``."""
        sentences = [trait(part, "surrogate") for part in self.parts.values()]
        return "; ".join(dict.fromkeys(filter(None, sentences)))

    @property
    def sizes(self) -> Any:
        """The sizes that the first part accepts: a Hypothesis strategy, or None for all."""
        return trait(next(iter(self.parts.values())), "sizes")


InitialStateVjp = Callable[[Params, State], Params]


def if_any_part_has_it(parts: Collection[Any], method: InitialStateVjp) -> InitialStateVjp:
    """``method``, for a property ``initial_state_vjp`` that exists only if a part has one.

    Raises:
        AttributeError: no part has an ``initial_state_vjp``.
    """
    if not any(trait(part, "initial_state_vjp") is not None for part in parts):
        raise AttributeError("initial_state_vjp: no part has a trainable initial state")
    return method


def initial_state_vjp(part: Any, params: Params, d_state0: State) -> Params:
    """The gradient of ``part.initial_state``; zeros for parameters that it does not read."""
    d_params = {name: np.zeros_like(value) for name, value in params.items()}
    method: InitialStateVjp | None = trait(part, "initial_state_vjp")
    return d_params | method(params, d_state0) if method is not None else d_params


def require_cells(given: Any, whole: str) -> tuple[Any, ...]:
    """The cells of a stack as a tuple.

    Raises:
        ContractError: there is none, or one is not a cell.
    """
    cells = require_some(given, whole, "cells", "cell")
    for i, cell in enumerate(cells):
        if isinstance(cell, type) or not is_cell(cell):
            raise ContractError(
                f"cells[{i}]={cell!r} (type={type(cell).__name__}) of {whole} should be a cell: an"
                " instance with init, initial_state, step and step_vjp, such as LSTM()",
                item="cells",
            )
    return cells


def require_some(given: Any, whole: str, item: str, kind: str) -> tuple[Any, ...]:
    """``given`` as a tuple of one or more.

    Raises:
        ContractError: it is empty, or neither a tuple nor a list.
    """
    if not isinstance(given, (tuple, list)):
        raise ContractError(
            f"{item}={given!r} (type={type(given).__name__}) of {whole} should be a list: write"
            f" [{type(given).__name__}()] for a single {kind}",
            item=item,
        )
    if not given:
        raise ContractError(
            f"{item}={given!r} of {whole} is empty: give at least one {kind}", item=item
        )
    return tuple(given)  # pyright: ignore[reportUnknownVariableType]


def require_states(state: Any, count: int, whole: str) -> None:
    """Reject a state that does not have one entry for each part.

    Raises:
        ContractError: it has another number of entries.
    """
    if not isinstance(state, tuple) or len(state) != count:  # pyright: ignore[reportUnknownArgumentType]
        raise ContractError(
            f"the state is {trees.structure(state).describe()}, but {whole} needs a tuple of"
            f" {count}, a state for each part: initial_state returns one",
            item="state0",
        )


def output_width(layer: Layer, params: Params, n_in: int) -> int:
    """The number of columns of a layer's output."""
    dtype = next((value.dtype for value in params.values()), np.dtype(np.float64))
    xs = np.zeros((0, 1, n_in), dtype)
    return int(layer.forward(params, xs, layer.initial_state(params, 1))[0].shape[-1])


def joined(parts: Mapping[str, Params]) -> Params:
    """The parameters of all parts in one dict.

    >>> joined({"0": {"W": 1}, "readout": {"V": 2}})
    {'0.W': 1, 'readout.V': 2}
    """
    return {f"{part}.{name}": v for part, params in parts.items() for name, v in params.items()}


def part_of(params: Params, part: str) -> Params:
    """The parameters of one part, under its own names.

    >>> part_of({"0.W": 1, "1.forward.W": 2}, "1")
    {'forward.W': 2}
    """
    head = f"{part}."
    return {name.removeprefix(head): v for name, v in params.items() if name.startswith(head)}


def without(params: Params, names: Collection[str]) -> Params:
    """The parameters without those called ``names``."""
    return {name: value for name, value in params.items() if name not in names}


def require_parts(params: Params, parts: Collection[str], whole: str) -> None:
    """Reject parameters that were made for other parts.

    Raises:
        ContractError: a part has no parameter, or a parameter belongs to none of ``parts``.
    """
    given = list(dict.fromkeys(name.partition(".")[0] for name in params))
    if set(given) != set(parts):
        raise ContractError(
            f"the parameters belong to {_spoken(given)}, but {whole} has the parts"
            f" {_spoken(parts)}: use the parameters that its own init returned",
            item="params",
        )


def require_names(params: Params, names: Collection[str], whole: str) -> None:
    """Reject parameters that lack one of ``names``.

    Raises:
        ContractError: one is missing.
    """
    missing = [name for name in names if name not in params]
    if missing:
        raise ContractError(
            f"the parameters {_spoken(params)} have no {_spoken(missing)}, which {whole} needs: use"
            " the parameters that its own init returned",
            item="params",
        )


def require_free(params: Params, names: Collection[str], whole: str) -> None:
    """Reject a parameter that would replace another.

    Raises:
        ContractError: a name is taken.
    """
    taken = [name for name in names if name in params]
    if taken:
        raise ContractError(
            f"the wrapped layer already has the parameters {_spoken(taken)}, which {whole} adds:"
            " wrap it once, or give it as a layer of a Stack",
            method="init",
            item="params",
        )


def shapes(params: Mapping[str, Array]) -> str:
    """``U (3, 4), W (3, 3)``, for messages."""
    return ", ".join(f"{name} {value.shape}" for name, value in params.items())


def _spoken(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"
