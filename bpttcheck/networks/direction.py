"""One cell over a sequence, in either direction, with a fixed or a trainable initial state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from bpttcheck import trees
from bpttcheck.bptt.backpropagate import backpropagate
from bpttcheck.bptt.unroll import CellTape, unroll
from bpttcheck.cells.initialise import uniform
from bpttcheck.contract import Array, Engine, Params, State, Tape, is_cell, is_float, is_layer
from bpttcheck.errors import ContractError
from bpttcheck.networks.composed import (
    Composed,
    InitialStateVjp,
    if_any_part_has_it,
    initial_state_vjp,
    require_cells,
    require_free,
    require_names,
    shapes,
    without,
)
from bpttcheck.networks.final_output import FinalOutput, final
from bpttcheck.traits import trait


@dataclass(frozen=True)
class Direction:
    """A cell as a layer that runs forward or backward in time.

    ``flip`` reverses the time axis if ``reverse``, and does nothing otherwise; it is its own
    inverse and transpose.

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
        """The surrogate that the cell declares, or ``""``."""
        return trait(self.cell, "surrogate")

    @property
    def sizes(self) -> Any:
        """The sizes that the cell accepts: a Hypothesis strategy, or None for all."""
        return trait(self.cell, "sizes")

    def final(self) -> FinalOutput:
        """The layer that outputs this direction's last output alone."""
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


# What the name of a row begins with; "state0" alone is the row of a state that is one array.
_HEADS = ("state0[", "state0.")


@dataclass(frozen=True)
class TrainableState(Composed):
    """A layer whose initial state is a parameter.

    Forward, for every row ``b`` of the batch::

        state0[b] = s                                                     (1)
        ys, state_T = layer(xs, state0)                                   (2)

    Backward. ``d_v`` is the gradient of the loss with respect to ``v``; ``vjp`` goes back to
    ``state0``, and ``initial_state_vjp`` from there to ``s``::

        d_params, d_xs, d_state0 = vjp of layer              from (2)     (3)
        d_s = sum over b of d_state0[b]                      from (1)     (4)

    If the caller passes a state, (1) and (4) do not apply.

    Parameters: those of the layer, and for each floating leaf of its state one row, called
    ``"state0"`` and the place of the leaf: ``"state0"`` for Elman, ``"state0[0]"`` and
    ``"state0[1]"`` for ``h`` and ``c`` of an LSTM. State: that of the layer.

    Args:
        layer: a cell or a layer.

    Raises:
        ContractError: ``layer`` is neither, or has a trainable initial state already.
    """

    layer: Any

    def __post_init__(self) -> None:
        layer = as_layer(self.layer, "layer")
        if trait(layer, "initial_state_vjp") is not None:
            raise ContractError(
                f"layer={self.layer!r} already has a trainable initial state, and a second one"
                " would replace it: wrap it once",
                item="layer",
            )
        object.__setattr__(self, "layer", layer)

    @property
    def parts(self) -> dict[str, Any]:
        """The layer."""
        return {"": self.layer}

    def final(self) -> TrainableState:
        """The layer that outputs the final output alone."""
        return replace(self, layer=final(self.layer))

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """The layer's parameters; those of the state are uniform in ``±1/sqrt(n_hidden)``."""
        own = self.layer.init(rng, n_in, n_hidden)
        rows = {name: leaf.shape[1:] for name, leaf in self._leaves(own).items()}
        require_free(own, rows, "a TrainableState")
        return own | uniform(rng, n_hidden, **rows)

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The row ``s`` for every sample, equation (1)."""
        own = self._own(params)
        like = self.layer.initial_state(own, batch_size)
        require_names(params, self._leaves(own), "a TrainableState")
        leaves, structure = trees.flatten(like)
        names = [_name(path) for path in structure.paths]
        rows = [
            np.repeat(params[name][None], batch_size, axis=0) if is_float(leaf) else leaf  # (1)
            for name, leaf in zip(names, leaves, strict=True)
        ]
        return structure.unflatten(rows)

    def initial_state_vjp(self, params: Params, d_state0: State) -> Params:
        """The backward pass from the initial state to its parameters, equation (4)."""
        d_params = {name: np.zeros_like(value) for name, value in params.items()}
        paths = map(_name, trees.structure(d_state0).paths)
        d_leaves = dict(zip(paths, trees.leaves(d_state0), strict=True))
        for name in self._leaves(self._own(params)):
            d_params[name] = d_leaves[name].sum(axis=0)  # (4)
        return d_params

    def forward(
        self, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State, Tape]:
        """All steps forward, equation (2)."""
        return self.layer.forward(self._own(params), xs, state0, mask)  # (2)

    def vjp(
        self, params: Params, tape: Tape, d_ys: Array, d_state_T: State
    ) -> tuple[Params, Array, State]:
        """All steps backward, equation (3); zeros for the rows, which ``forward`` does not read."""
        own = self._own(params)
        d_own, d_xs, d_state0 = self.layer.vjp(own, tape, d_ys, d_state_T)  # (3)
        rows = {name: np.zeros_like(v) for name, v in params.items() if name not in own}
        return d_own | rows, d_xs, d_state0

    def sequence(
        self, engine: Engine, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State]:
        """The forward pass in terms of an engine."""
        return self.layer.sequence(engine, self._own(params), xs, state0, mask)

    def _own(self, params: Params) -> Params:
        rows = [name for name in params if name == "state0" or name.startswith(_HEADS)]
        return without(params, rows)

    def _leaves(self, own: Params) -> dict[str, Array]:
        state = self.layer.initial_state(own, 1)
        named = zip(trees.structure(state).paths, trees.leaves(state), strict=True)
        return {_name(path): leaf for path, leaf in named if is_float(leaf)}


def _name(path: str) -> str:
    return f"state0{path}"


def as_layer(given: Any, place: str) -> Any:
    """A layer for a cell or a layer.

    Raises:
        ContractError: ``given`` is neither, or a layer without ``sequence``.
    """
    if is_cell(given):
        return Direction(given)
    if is_layer(given) and trait(given, "sequence") is not None:
        return given
    kind = "a layer without the method sequence" if is_layer(given) else repr(given)[:60]
    hint = "pass an instance: write LSTM()" if isinstance(given, type) else "see bpttcheck.contract"
    raise ContractError(
        f"{place} is {kind} (type={type(given).__name__}), but should be a cell, or a layer with"
        f" sequence(engine, params, xs, state0, mask): {hint}",
        item=place,
    )
