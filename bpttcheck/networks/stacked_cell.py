"""Cells on top of each other as one cell: a whole stack in a single step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.contract import Array, Cache, Params, State
from bpttcheck.networks.composed import (
    InitialStateVjp,
    if_any_part_has_it,
    initial_state_vjp,
    output_width,
    require_cells,
    require_states,
)
from bpttcheck.networks.direction import Direction
from bpttcheck.networks.names import joined, part_of, require_parts
from bpttcheck.traits import Traits


@dataclass(frozen=True)
class StackedCell:
    """Cells on top of each other, stepped together.

    Forward, for ``l = 0 .. L-1``, starting from ``z[0] = x``::

        state'[l], z[l+1] = step of cell[l](state[l], z[l])               (1)
        y = z[L]                                                          (2)

    Backward, for ``l = L-1 .. 0``. ``d_v`` is the gradient of the loss with respect to ``v``::

        d_z[L] = d_y                                     from (2)         (3)
        d_params[l], d_state[l], d_z[l]                  from (1)         (4)
             = step_vjp of cell[l] at d_state'[l], d_z[l+1]
        d_x = d_z[0]                                                      (5)

    Parameters: those of the cells, with the number of the cell: ``"0.W"``. State: a tuple of the
    cells' states. The same function as :class:`Stack` of the same cells, whose loop over time is
    inside of the loop over the layers.

    Args:
        cells: the cells from the first to the last.

    Raises:
        ContractError: there is no cell, or one is none.
    """

    cells: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", require_cells(self.cells, "a StackedCell"))

    @property
    def sizes(self) -> Any:
        """The sizes that the first cell takes: a Hypothesis strategy, or None for all."""
        return Traits.of(self.cells[0]).sizes

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Fresh parameters, every cell ``n_hidden`` wide and as many inputs as come from below."""
        made: dict[str, Params] = {}
        for i, cell in enumerate(self.cells):
            made[str(i)] = cell.init(rng, n_in, n_hidden)
            n_in = output_width(Direction(cell), made[str(i)], n_in)
        return joined(made)

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The cells' states before the first step."""
        self._require(params)
        return tuple(
            cell.initial_state(part_of(params, str(i)), batch_size)
            for i, cell in enumerate(self.cells)
        )

    @property
    def initial_state_vjp(self) -> InitialStateVjp:
        """The gradient of what the cells' initial states read, where they read something."""
        return if_any_part_has_it(self.cells, self._initial_state_vjp)

    def _initial_state_vjp(self, params: Params, d_state0: State) -> Params:
        return joined(
            {
                str(i): initial_state_vjp(cell, part_of(params, str(i)), d_state0[i])
                for i, cell in enumerate(self.cells)
            }
        )

    def step(
        self, params: Params, state: State, x: Array
    ) -> tuple[State, Array, tuple[Cache, ...]]:
        """One step of every cell forward, equations (1) and (2)."""
        self._require(params)
        require_states(state, len(self.cells), self._called)
        z = x
        states: list[State] = []
        caches: list[Cache] = []
        for i, cell in enumerate(self.cells):
            new_state, z, cache = cell.step(part_of(params, str(i)), state[i], z)  # (1)
            states.append(new_state)
            caches.append(cache)
        return tuple(states), z, tuple(caches)  # (2)

    def step_vjp(
        self, params: Params, cache: tuple[Cache, ...], d_state: State, d_y: Array
    ) -> tuple[Params, State, Array]:
        """One step of every cell backward, equations (3) to (5)."""
        d_z = d_y  # (3)
        d_parts: list[Params] = []
        d_states: list[State] = []
        for i, cell in reversed(list(enumerate(self.cells))):
            own = part_of(params, str(i))
            d_own, d_previous, d_z = cell.step_vjp(own, cache[i], d_state[i], d_z)  # (4)
            d_parts.insert(0, d_own)
            d_states.insert(0, d_previous)
        d_params = joined({str(i): d_own for i, d_own in enumerate(d_parts)})
        return d_params, tuple(d_states), d_z  # (5)

    def _require(self, params: Params) -> None:
        require_parts(params, [str(i) for i in range(len(self.cells))], self._called)

    @property
    def _called(self) -> str:
        return f"a StackedCell of {len(self.cells)}"
