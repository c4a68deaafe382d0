"""One cell over a sequence, from the first step to the last or from the last to the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from bpttcheck.bptt.backpropagate import backpropagate
from bpttcheck.bptt.unroll import CellTape, unroll
from bpttcheck.contract import Array, Engine, Params, State
from bpttcheck.errors import ContractError
from bpttcheck.networks.composed import (
    InitialStateVjp,
    if_any_part_has_it,
    initial_state_vjp,
    require_cells,
)
from bpttcheck.networks.final_output import FinalOutput
from bpttcheck.networks.names import shapes
from bpttcheck.traits import Traits


@dataclass(frozen=True)
class Direction:
    """A cell as a layer that runs forward or backward in time.

    ``flip`` turns the time axis round if ``reverse``, and does nothing otherwise; it is its own
    inverse, and linear, so that its transpose is itself.

    Forward::

        ws, real    = flip(xs), flip(mask)                                (1)
        vs, state_T = unroll(cell, ws, state0, real)                      (2)
        ys          = flip(vs)                                            (3)

    Backward. ``d_v`` is the gradient of the loss with respect to ``v``::

        d_vs = flip(d_ys)                                from (3)         (4)
        d_params, d_ws, d_state0                         from (2)         (5)
             = backpropagate(cell, d_vs, d_state_T)
        d_xs = flip(d_ws)                                from (1)         (6)

    The parameters and the state are those of the cell. ``ys[t]`` belongs to ``xs[t]``; in reverse,
    ``state0`` is the state before the step ``T - 1``, and ``state_T`` that after the step 0.

    Args:
        cell: any object with the methods of :class:`bpttcheck.Cell`.
        reverse: True for the steps ``T-1 .. 0``.

    Raises:
        ContractError: ``cell`` is not a cell.
    """

    cell: Any
    reverse: bool = False
    supports_mask: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_cells([self.cell], "a Direction")

    @property
    def causal(self) -> bool:
        """True unless it runs in reverse."""
        return not self.reverse

    @property
    def surrogate(self) -> str:
        """What the cell says of a backward pass that is deliberately no gradient, or ``""``."""
        return Traits.of(self.cell).surrogate

    @property
    def sizes(self) -> Any:
        """The sizes that the cell takes: a Hypothesis strategy, or None for all."""
        return Traits.of(self.cell).sizes

    def final(self) -> FinalOutput:
        """The layer that puts out this direction's last output alone."""
        return FinalOutput(self, reverse=self.reverse)

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """The cell's fresh parameters."""
        return self.cell.init(rng, n_in, n_hidden)

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The cell's state before the first step that is taken."""
        return self.cell.initial_state(params, batch_size)

    @property
    def initial_state_vjp(self) -> InitialStateVjp:
        """The cell's own ``initial_state_vjp``, where it has one."""
        return if_any_part_has_it(
            [self.cell], lambda params, d_state0: initial_state_vjp(self.cell, params, d_state0)
        )

    def forward(
        self, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State, CellTape]:
        """All steps forward, equations (1) to (3)."""
        ws = self._flip(xs)  # (1)
        real = None if mask is None else self._flip(mask)  # (1)
        try:
            vs, state_T, tape = unroll(self.cell, params, ws, state0, real)  # (2)
        except ValueError as error:
            raise ContractError(
                f"xs.shape={np.shape(xs)} and the parameters {shapes(params)} of"
                f" {type(self.cell).__name__} do not fit together ({error}): xs should be (T, B,"
                " n_in) with the n_in that was given to init, and the state that of initial_state",
                method="forward",
                item="xs",
            ) from error
        return self._flip(vs), state_T, tape  # (3)

    def vjp(
        self, params: Params, tape: CellTape, d_ys: Array, d_state_T: State
    ) -> tuple[Params, Array, State]:
        """All steps backward, equations (4) to (6)."""
        d_vs = self._flip(d_ys)  # (4)
        back = backpropagate(self.cell, params, tape, d_vs, d_state_T)  # (5)
        return back.d_params, self._flip(back.d_xs), back.d_state0  # (6)

    def sequence(
        self, engine: Engine, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State]:
        """The forward pass in terms of an engine."""
        return engine.scan(self.cell, params, xs, state0, mask, reverse=self.reverse)

    def _flip(self, sequence: Array) -> Array:
        return sequence[::-1] if self.reverse else sequence
