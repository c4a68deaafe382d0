"""The output of a whole stack fed back into it, with or without teacher forcing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bpttcheck import activations
from bpttcheck.cells.initialise import uniform
from bpttcheck.contract import Array, Cache, Params, State
from bpttcheck.errors import ContractError
from bpttcheck.networks.composed import (
    InitialStateVjp,
    if_any_part_has_it,
    initial_state_vjp,
    output_width,
    require_cells,
    require_parts,
    require_states,
    without,
)
from bpttcheck.networks.direction import Direction
from bpttcheck.networks.readout import NAMES, C, V, require_n_out
from bpttcheck.networks.stack import StackedCell


class FeedbackCache(NamedTuple):
    """What the backward step needs: the stack's cache and output, and the pre-activation."""

    inner: Cache
    h: Array
    q: Array


@dataclass(frozen=True)
class OutputFeedback:
    """A cell made of a stack of cells and a readout whose output comes back as an input.

    The state is ``(s, o)``: the states of the cells, and what is fed back, of the step before.

    Forward, with ``x (B, N)`` and ``o (B, n_out)``::

        u  = [x, o]                              free running             (1a)
        u  = [x_in, o],  [x_in, target] = x      teacher forced           (1b)
        s', h = step of the stack(s, u)                                   (2)
        q  = h @ V.T + c                                                  (3)
        y  = g(q)                                                         (4)
        o' = y                                   free running             (5a)
        o' = target                              teacher forced           (5b)

    Backward. ``d_v`` is the gradient of the loss with respect to ``v``. Running freely, the loss
    reads the output twice, now and as the next state. Teacher forced, the next step reads the
    target instead, and the cotangent of ``o'`` goes there::

        d_out    = d_y + d_o'                    free running, (5a)       (6a)
        d_out    = d_y                           teacher forced           (6b)
        d_target = d_o'                          teacher forced, (5b)     (7)
        d_q      = d_out * g'(q)                 from (4)                 (8)
        d_V      = d_q.T @ h                     from (3)                 (9)
        d_c      = sum of d_q over the batch     from (3)                 (10)
        d_h      = d_q @ V                       from (3)                 (11)
        d_cells, d_s, d_u                        from (2)                 (12)
                 = step_vjp of the stack at d_s', d_h
        [d_x, d_o] = d_u                         free running, (1a)       (13a)
        [d_x_in, d_o] = d_u                      teacher forced, (1b)     (13b)
        d_x      = [d_x_in, d_target]            teacher forced, (1b)     (14)

    Parameters: those of the cells as ``"0.W"``, ``readout.V (n_out, H)`` and ``readout.c
    (n_out,)``. The first cell has ``N + n_out`` inputs; teacher forced, ``N``: the target leaves
    its columns to what is fed back.

    Args:
        cells: the cells from the first to the last.
        n_out: the number of outputs.
        teacher_forced: True if the last ``n_out`` columns of ``x`` are the target, which takes the
            place of the output at the next step.
        output_activation: the name of ``g`` in :mod:`bpttcheck.activations`, or an ``Activation``.

    Raises:
        ContractError: there is no cell, one is not a cell, ``n_out`` is not positive, or no
            activation has this name.

    Source:
        Jordan (1986), "Serial order"; Williams and Zipser (1989) for teacher forcing; Goodfellow,
        Bengio and Courville (2016), "Deep learning", section 10.2.
    """

    cells: Any
    n_out: int
    teacher_forced: bool = False
    output_activation: str | activations.Activation = "identity"

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", require_cells(self.cells, "an OutputFeedback"))
        require_n_out(self.n_out, "an OutputFeedback")
        activations.get(self.output_activation)

    @property
    def sizes(self) -> Any:
        """A Hypothesis strategy of ``(n_in, n_hidden)`` when teacher forced, else None."""
        if not self.teacher_forced:
            return None
        from hypothesis import strategies as st

        return st.tuples(st.integers(self.n_out, self.n_out + 5), st.integers(1, 6))

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Fresh parameters; those of the readout are uniform in ``±1/sqrt(H)``.

        Raises:
            ContractError: teacher forced, and ``x`` has fewer columns than the target.
        """
        if self.teacher_forced and n_in < self.n_out:
            raise ContractError(
                f"n_in={n_in}, expected at least n_out={self.n_out}: with teacher_forced=True the"
                " last n_out columns of x are the target",
                method="init",
                item="n_in",
            )
        width = n_in if self.teacher_forced else n_in + self.n_out
        own = self._stack.init(rng, width, n_hidden)
        H = output_width(Direction(self._stack), own, width)
        return own | uniform(rng, H, **{V: (self.n_out, H), C: (self.n_out,)})

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The cells' states, and zeros ``(B, n_out)``."""
        self._require(params)
        c = params[C]
        states = self._stack.initial_state(without(params, NAMES), batch_size)
        return states, np.zeros((batch_size, c.shape[0]), c.dtype)

    @property
    def initial_state_vjp(self) -> InitialStateVjp:
        """The gradient of what the cells' initial states read, where they read something."""
        return if_any_part_has_it([self._stack], self._initial_state_vjp)

    def _initial_state_vjp(self, params: Params, d_state0: State) -> Params:
        zeros = {name: np.zeros_like(params[name]) for name in NAMES}
        return initial_state_vjp(self._stack, without(params, NAMES), d_state0[0]) | zeros

    def step(self, params: Params, state: State, x: Array) -> tuple[State, Array, FeedbackCache]:
        """One step forward, equations (1) to (5)."""
        self._require(params)
        require_states(state, 2, "an OutputFeedback")
        g = activations.get(self.output_activation)
        s, o = state
        N = x.shape[1] - self.n_out if self.teacher_forced else x.shape[1]
        u = np.concatenate([x[:, :N], o], axis=-1)  # (1a), (1b)
        s_new, h, inner = self._stack.step(without(params, NAMES), s, u)  # (2)
        q = h @ params[V].T + params[C]  # (3)
        y = g.value(q)  # (4)
        if self.teacher_forced:
            o_new = x[:, N:].copy()  # (5b); a copy, because a state is no view of an input
        else:
            o_new = y  # (5a)
        return (s_new, o_new), y, FeedbackCache(inner, h, q)

    def step_vjp(
        self, params: Params, cache: FeedbackCache, d_state: State, d_y: Array
    ) -> tuple[Params, State, Array]:
        """One step backward, equations (6) to (14)."""
        g = activations.get(self.output_activation)
        inner, h, q = cache
        d_s_new, d_o_new = d_state
        if self.teacher_forced:
            d_out = d_y  # (6b)
        else:
            d_out = d_y + d_o_new  # (6a)
        d_q = d_out * g.derivative(q)  # (8)
        d_readout = {
            V: d_q.T @ h,  # (9)
            C: d_q.sum(axis=0),  # (10)
        }
        d_h = d_q @ params[V]  # (11)
        own = without(params, NAMES)
        d_cells, d_s, d_u = self._stack.step_vjp(own, inner, d_s_new, d_h)  # (12)
        N = d_u.shape[1] - self.n_out
        d_x, d_o = d_u[:, :N], d_u[:, N:]  # (13a), (13b)
        if self.teacher_forced:
            d_x = np.concatenate([d_x, d_o_new], axis=-1)  # (7), (14)
        return d_cells | d_readout, (d_s, d_o), d_x

    @property
    def _stack(self) -> StackedCell:
        return StackedCell(self.cells)

    def _require(self, params: Params) -> None:
        parts = [*(str(i) for i in range(len(self.cells))), "readout"]
        require_parts(params, parts, f"an OutputFeedback of {len(self.cells)}")
