"""A cell as a layer: the loop over time behind the whole-sequence interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bpttcheck.bptt.backpropagate import Gradients, backpropagate
from bpttcheck.bptt.unroll import CellTape, unroll
from bpttcheck.contract import Array, Cell, Params, State


@dataclass(frozen=True)
class CellLayer:
    """A :class:`bpttcheck.Layer` that steps ``cell`` forward and backward, one step at a time.

    Args:
        cell: any object with the methods of :class:`bpttcheck.Cell`.
    """

    cell: Cell
    supports_mask: ClassVar[bool] = True

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """The cell's fresh parameters."""
        return self.cell.init(rng, n_in, n_hidden)

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The cell's state before the first step."""
        return self.cell.initial_state(params, batch_size)

    def forward(
        self, params: Params, xs: Array, state0: State | None = None, mask: Array | None = None
    ) -> tuple[Array, State, CellTape]:
        """All steps forward, ``(ys, state_T, tape)``: see :func:`bpttcheck.unroll`."""
        return unroll(self.cell, params, xs, state0, mask)

    def vjp(
        self,
        params: Params,
        tape: CellTape,
        d_ys: Array | None,
        d_state_T: State | None = None,
    ) -> tuple[Params, Array, State]:
        """All steps backward, ``(d_params, d_xs, d_state0)``."""
        gradients = self.gradients(params, tape, d_ys, d_state_T)
        return gradients.d_params, gradients.d_xs, gradients.d_state0

    def adjoints(
        self,
        params: Params,
        tape: CellTape,
        d_ys: Array | None,
        d_state_T: State | None = None,
    ) -> list[State]:
        """``dL/dstate[t]`` for ``t = 0 .. T``, the initial state first."""
        return self.gradients(params, tape, d_ys, d_state_T).d_states

    def gradients(
        self,
        params: Params,
        tape: CellTape,
        d_ys: Array | None,
        d_state_T: State | None = None,
    ) -> Gradients:
        """All steps backward, everything at once: see :func:`bpttcheck.backpropagate`."""
        return backpropagate(self.cell, params, tape, d_ys, d_state_T)
