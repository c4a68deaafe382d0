"""Layers on top of each other, two directions side by side, and cells stepped together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bpttcheck.contract import Array, Cache, Engine, Params, State, Tape
from bpttcheck.errors import ContractError
from bpttcheck.networks.composed import (
    Composed,
    InitialStateVjp,
    if_any_part_has_it,
    initial_state_vjp,
    joined,
    output_width,
    part_of,
    require_cells,
    require_parts,
    require_some,
    require_states,
)
from bpttcheck.networks.direction import Direction, as_layer
from bpttcheck.networks.final_output import final
from bpttcheck.traits import trait


@dataclass(frozen=True)
class Stack(Composed):
    """Any number of layers of any kind on top of each other.

    Forward, for ``l = 0 .. L-1``, starting from ``zs[0] = xs``::

        zs[l+1], state_T[l] = layer[l](zs[l], state0[l])                  (1)
        ys = zs[L]                                                        (2)

    Backward. ``d_v`` is the gradient of the loss with respect to ``v``. An adjoint travels in two
    directions: through time inside of a layer, and through its input to the layer below. For
    ``l = L-1 .. 0``, starting from::

        d_zs[L] = d_ys                                   from (2)         (3)
        d_params[l], d_zs[l], d_state0[l]                from (1)         (4)
             = vjp of layer[l] at d_zs[l+1], d_state_T[l]
        d_xs = d_zs[0]                                                    (5)

    Parameters: those of the layers, with the number of the layer: ``"0.W"``, ``"1.forward.W"``.
    State: a tuple of the layers' states.

    Args:
        layers: the layers from the first to the last; a cell given is a layer in one direction.

    Raises:
        ContractError: there is no layer, or one is neither a cell nor a layer with ``sequence``.
    """

    layers: Any

    def __post_init__(self) -> None:
        given = require_some(self.layers, "a Stack", "layers", "cell or layer")
        made = tuple(as_layer(one, f"layers[{i}]") for i, one in enumerate(given))
        object.__setattr__(self, "layers", made)

    @property
    def parts(self) -> dict[str, Any]:
        """The layers by their numbers."""
        return {str(i): layer for i, layer in enumerate(self.layers)}

    def final(self) -> Stack:
        """The stack that outputs the last layer's final output alone."""
        return replace(self, layers=(*self.layers[:-1], final(self.layers[-1])))

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Fresh parameters, every layer ``n_hidden`` wide and as many inputs as come from below."""
        made: dict[str, Params] = {}
        for i, layer in self.parts.items():
            made[i] = layer.init(rng, n_in, n_hidden)
            n_in = output_width(layer, made[i], n_in)
        return joined(made)

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The layers' states before the first step."""
        require_parts(params, self.parts, self._called)
        return tuple(p.initial_state(part_of(params, i), batch_size) for i, p in self.parts.items())

    @property
    def initial_state_vjp(self) -> InitialStateVjp:
        """The gradient of what the layers' initial states read, where they read something."""
        return if_any_part_has_it(self.layers, self._initial_state_vjp)

    def _initial_state_vjp(self, params: Params, d_state0: State) -> Params:
        found = zip(self.parts.items(), d_state0, strict=True)
        return joined({i: initial_state_vjp(p, part_of(params, i), d) for (i, p), d in found})

    def forward(
        self, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State, tuple[Tape, ...]]:
        """All steps of all layers forward, equations (1) and (2)."""
        require_parts(params, self.parts, self._called)
        require_states(state0, len(self.layers), self._called)
        zs, states, tapes = xs, [], []
        for (i, layer), state in zip(self.parts.items(), state0, strict=True):
            zs, state_T, tape = layer.forward(part_of(params, i), zs, state, mask)  # (1)
            states.append(state_T)
            tapes.append(tape)
        return zs, tuple(states), tuple(tapes)  # (2)

    def vjp(
        self, params: Params, tape: tuple[Tape, ...], d_ys: Array, d_state_T: State
    ) -> tuple[Params, Array, State]:
        """All steps of all layers backward, equations (3) to (5)."""
        d_zs = d_ys  # (3)
        d_parts: dict[str, Params] = {}
        d_states: list[State] = []
        above = zip(self.parts.items(), tape, d_state_T, strict=True)
        for (i, layer), inner, d_last in reversed(list(above)):
            own = part_of(params, i)
            d_parts[i], d_zs, d_state = layer.vjp(own, inner, d_zs, d_last)  # (4)
            d_states.append(d_state)
        d_params = joined({i: d_parts[i] for i in self.parts})
        return d_params, d_zs, tuple(reversed(d_states))  # (5)

    def sequence(
        self, engine: Engine, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State]:
        """The forward pass in terms of an engine."""
        zs, states = xs, []
        for (i, layer), state in zip(self.parts.items(), state0, strict=True):
            zs, state_T = layer.sequence(engine, part_of(params, i), zs, state, mask)
            states.append(state_T)
        return zs, tuple(states)

    @property
    def _called(self) -> str:
        return f"a Stack of {len(self.layers)}"


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
    cells' states. It computes the same function as a :class:`Stack` of the same cells, whose loop
    over time is inside the loop over the layers.

    Args:
        cells: the cells from the first to the last.

    Raises:
        ContractError: there is no cell, or one is not a cell.
    """

    cells: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", require_cells(self.cells, "a StackedCell"))

    @property
    def sizes(self) -> Any:
        """The sizes that the first cell takes: a Hypothesis strategy, or None for all."""
        return trait(self.cells[0], "sizes")

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


MERGES = ("concat", "sum")


class BidirectionalTape(NamedTuple):
    """The tapes of both directions, and the width of the forward one's output."""

    forward: Tape
    backward: Tape
    width: int


@dataclass(frozen=True)
class Bidirectional(Composed):
    """One cell from the first step to the last, another from the last to the first, merged.

    Each has parameters and a state of its own; ``forward`` and ``backward`` are the two
    :class:`Direction` layers.

    Forward::

        fs, state_f = forward(xs)                                         (1)
        bs, state_b = backward(xs)                                        (2)
        ys = [fs, bs]                            concat                   (3a)
        ys = fs + bs                             sum                      (3b)

    Backward. ``d_v`` is the gradient of the loss with respect to ``v``::

        [d_fs, d_bs] = d_ys                      concat, (3a)             (4a)
        d_fs = d_bs = d_ys                       sum, (3b)                (4b)
        d_forward, d_xs_f, d_state_f             vjp of (1)               (5)
        d_backward, d_xs_b, d_state_b            vjp of (2)               (6)
        d_xs = d_xs_f + d_xs_b                   (1) and (2) read xs      (7)

    A masked step is passed over in both directions, so that with lengths the backward one begins at
    each row's own last step. Parameters: those of the cells, as ``"forward.W"`` and
    ``"backward.W"``. State: ``(state of forward, state of backward)``.

    Args:
        cell: the cell of the forward direction.
        backward_cell: that of the backward direction; None: the same, with its own parameters.
        merge: ``"concat"`` (along the last axis, forward first) or ``"sum"``.
        final_only: True for each direction's final output alone, put at the row's last real step.

    Raises:
        ContractError: a cell is not a cell, or ``merge`` is unknown.

    Source:
        Schuster and Paliwal (1997), "Bidirectional recurrent neural networks".
    """

    cell: Any
    backward_cell: Any = None
    merge: str = "concat"
    final_only: bool = False

    def __post_init__(self) -> None:
        given = [self.cell] if self.backward_cell is None else [self.cell, self.backward_cell]
        require_cells(given, "a Bidirectional")
        require_merge(self.merge)

    @property
    def parts(self) -> dict[str, Any]:
        """Both directions."""
        backward_cell = self.cell if self.backward_cell is None else self.backward_cell
        forward, backward = Direction(self.cell), Direction(backward_cell, reverse=True)
        if self.final_only:
            return {"forward": forward.final(), "backward": backward.final()}
        return {"forward": forward, "backward": backward}

    def final(self) -> Bidirectional:
        """The layer that outputs each direction's final output alone."""
        return replace(self, final_only=True)

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Fresh parameters of both cells, the forward one's first."""
        return joined({k: part.init(rng, n_in, n_hidden) for k, part in self.parts.items()})

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The states of both cells."""
        require_parts(params, self.parts, "a Bidirectional")
        return tuple(p.initial_state(part_of(params, k), batch_size) for k, p in self.parts.items())

    @property
    def initial_state_vjp(self) -> InitialStateVjp:
        """The gradient of what the cells' initial states read, where they read something."""
        return if_any_part_has_it(self.parts.values(), self._initial_state_vjp)

    def _initial_state_vjp(self, params: Params, d_state0: State) -> Params:
        found = zip(self.parts.items(), d_state0, strict=True)
        return joined({k: initial_state_vjp(p, part_of(params, k), d) for (k, p), d in found})

    def forward(
        self, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State, BidirectionalTape]:
        """All steps forward, equations (1) to (3)."""
        require_parts(params, self.parts, "a Bidirectional")
        require_states(state0, 2, "a Bidirectional")
        forward, backward = self.parts.values()
        p_f, p_b = part_of(params, "forward"), part_of(params, "backward")
        fs, state_f, tape_f = forward.forward(p_f, xs, state0[0], mask)  # (1)
        bs, state_b, tape_b = backward.forward(p_b, xs, state0[1], mask)  # (2)
        ys = self._merged(fs, bs)
        return ys, (state_f, state_b), BidirectionalTape(tape_f, tape_b, fs.shape[-1])

    def vjp(
        self, params: Params, tape: BidirectionalTape, d_ys: Array, d_state_T: State
    ) -> tuple[Params, Array, State]:
        """All steps backward, equations (4) to (7)."""
        forward, backward = self.parts.values()
        p_f, p_b = part_of(params, "forward"), part_of(params, "backward")
        if self.merge == "concat":
            d_fs, d_bs = d_ys[:, :, : tape.width], d_ys[:, :, tape.width :]  # (4a)
        else:
            d_fs = d_bs = d_ys  # (4b)
        d_f, d_xs_f, d_state_f = forward.vjp(p_f, tape.forward, d_fs, d_state_T[0])  # (5)
        d_b, d_xs_b, d_state_b = backward.vjp(p_b, tape.backward, d_bs, d_state_T[1])  # (6)
        d_params = joined({"forward": d_f, "backward": d_b})
        return d_params, d_xs_f + d_xs_b, (d_state_f, d_state_b)  # (7)

    def sequence(
        self, engine: Engine, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State]:
        """The forward pass in terms of an engine."""
        forward, backward = self.parts.values()
        p_f, p_b = part_of(params, "forward"), part_of(params, "backward")
        fs, state_f = forward.sequence(engine, p_f, xs, state0[0], mask)
        bs, state_b = backward.sequence(engine, p_b, xs, state0[1], mask)
        return self._merged(fs, bs), (state_f, state_b)

    def _merged(self, fs: Array, bs: Array) -> Array:
        if self.merge == "concat":
            return np.concatenate([fs, bs], axis=-1)  # (3a)
        if fs.shape[-1] != bs.shape[-1]:
            raise ContractError(
                f"merge='sum' of {fs.shape[-1]} outputs forward and {bs.shape[-1]} backward, but"
                " they should be as many: use merge='concat', or cells with equal outputs",
                item="merge",
            )
        return fs + bs  # (3b)


def require_merge(merge: str) -> None:
    """Refuse an unknown merge.

    Raises:
        ContractError: there is no such merge.
    """
    if merge not in MERGES:
        raise ContractError(
            f"merge={merge!r} is unknown, expected one of {', '.join(map(repr, MERGES))}",
            item="merge",
        )
