"""Two directions side by side: what came before and what comes after, at every step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bpttcheck.contract import Array, Engine, Params, State, Tape
from bpttcheck.errors import ContractError
from bpttcheck.networks.composed import (
    Composed,
    InitialStateVjp,
    if_any_part_has_it,
    initial_state_vjp,
    joined,
    part_of,
    require_cells,
    require_parts,
    require_states,
)
from bpttcheck.networks.direction import Direction

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
        ContractError: a cell is none, or there is no such merge.

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
        """The layer that puts out each direction's final output alone."""
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
