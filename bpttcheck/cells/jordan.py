"""Recurrence only from the output to the next hidden units, with or without teacher forcing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bpttcheck import activations
from bpttcheck.cells.initialise import uniform
from bpttcheck.contract import Array, Params
from bpttcheck.errors import ContractError


class JordanCache(NamedTuple):
    """What the backward step needs: the inputs of the step, ``h``, and both pre-activations."""

    x_in: Array
    o: Array
    z: Array
    h: Array
    q: Array


@dataclass(frozen=True)
class Jordan:
    """The output network: what comes back at the next step is the output, not the hidden state.

    A row of every array is one sample. The state is the output ``o`` of the step before.

    Forward, with ``x (B, N)`` and ``o (B, n_out)``::

        x_in = x                                 free running             (1a)
        [x_in, target] = x                       teacher forced           (1b)
        z  = x_in @ U.T + o @ W.T + b                                     (2)
        h  = f(z)                                                         (3)
        q  = h @ V.T + c                                                  (4)
        y  = g(q)                                                         (5)
        o' = y                                   free running             (6a)
        o' = target                              teacher forced           (6b)

    Backward. ``d_v`` is the gradient of the loss with respect to ``v``. Running freely, the loss
    reads the output twice, now and as the next state. Teacher forced, the next state is the target,
    so that its cotangent goes there and nowhere else: no gradient flows back through time::

        d_out    = d_y + d_state                 free running, (6a)       (7a)
        d_out    = d_y                           teacher forced           (7b)
        d_target = d_state                       teacher forced, (6b)     (8)
        d_q      = d_out * g'(q)                 from (5)                 (9)
        d_V      = d_q.T @ h                     from (4)                 (10)
        d_c      = sum of d_q over the batch     from (4)                 (11)
        d_h      = d_q @ V                       from (4)                 (12)
        d_z      = d_h * f'(z)                   from (3)                 (13)
        d_U      = d_z.T @ x_in                  from (2)                 (14)
        d_W      = d_z.T @ o                     from (2)                 (15)
        d_b      = sum of d_z over the batch     from (2)                 (16)
        d_o      = d_z @ W                       from (2)                 (17)
        d_x_in   = d_z @ U                       from (2)                 (18)
        d_x      = d_x_in                        free running, (1a)       (19a)
        d_x      = [d_x_in, d_target]            teacher forced, (1b)     (19b)

    Parameters: ``U (H, N)``, or ``U (H, N - n_out)`` when teacher forced; ``W (H, n_out)``,
    ``b (H,)``, ``V (n_out, H)``, ``c (n_out,)``.

    Args:
        n_out: the number of outputs. None: as many as inputs; when teacher forced, half of the
            columns of ``x``, rounded down, and at least one.
        activation: the name of ``f`` in :mod:`bpttcheck.activations`, or an ``Activation``.
        output_activation: the same for ``g``.
        teacher_forced: True if the last ``n_out`` columns of ``x`` are the target, which takes the
            place of the output at the next step.

    Raises:
        ContractError: no activation has this name, or ``n_out`` is not positive.

    Source:
        Jordan (1986), "Serial order"; Williams and Zipser (1989) for teacher forcing; Goodfellow,
        Bengio and Courville (2016), "Deep learning", section 10.2.1.
    """

    n_out: int | None = None
    activation: str | activations.Activation = "tanh"
    output_activation: str | activations.Activation = "identity"
    teacher_forced: bool = False

    def __post_init__(self) -> None:
        activations.get(self.activation)
        activations.get(self.output_activation)
        if self.n_out is not None and self.n_out < 1:
            raise ContractError(f"n_out={self.n_out}, expected 1 or more, or None", item="n_out")

    @property
    def sizes(self) -> Any:
        """A Hypothesis strategy of ``(n_in, n_hidden)`` when teacher forced, else None.

        ``n_in == n_out`` works too, but leaves ``U`` without a column and so without a gradient.
        """
        if not self.teacher_forced:
            return None
        from hypothesis import strategies as st

        least = 1 + (self.n_out or 1)
        return st.tuples(st.integers(least, least + 5), st.integers(1, 6))

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Every parameter uniform in ``±1/sqrt(n_hidden)``.

        Raises:
            ContractError: teacher forced, and ``x`` has fewer columns than the target.
        """
        n_out = self.n_out or (max(1, n_in // 2) if self.teacher_forced else n_in)
        N, H = n_in - n_out if self.teacher_forced else n_in, n_hidden
        if N < 0:
            raise ContractError(
                f"n_in={n_in}, expected at least n_out={n_out}: with teacher_forced=True the last"
                " n_out columns of x are the target",
                method="init",
                item="n_in",
            )
        return uniform(rng, H, U=(H, N), W=(H, n_out), b=(H,), V=(n_out, H), c=(n_out,))

    def initial_state(self, params: Params, batch_size: int) -> Array:
        """Zeros ``(B, n_out)``."""
        c = params["c"]
        return np.zeros((batch_size, c.shape[0]), c.dtype)

    def step(self, params: Params, state: Array, x: Array) -> tuple[Array, Array, JordanCache]:
        """One step forward, equations (1) to (6)."""
        f, g = activations.get(self.activation), activations.get(self.output_activation)
        o = state
        N = params["U"].shape[1]
        x_in = x[:, :N]  # (1a), (1b)
        z = x_in @ params["U"].T + o @ params["W"].T + params["b"]  # (2)
        h = f.value(z)  # (3)
        q = h @ params["V"].T + params["c"]  # (4)
        y = g.value(q)  # (5)
        if self.teacher_forced:
            o_new = x[:, N:].copy()  # (6b); a copy, because a state is no view of an input
        else:
            o_new = y  # (6a)
        return o_new, y, JordanCache(x_in, o, z, h, q)

    def step_vjp(
        self, params: Params, cache: JordanCache, d_state: Array, d_y: Array
    ) -> tuple[Params, Array, Array]:
        """One step backward, equations (7) to (19)."""
        f, g = activations.get(self.activation), activations.get(self.output_activation)
        x_in, o, z, h, q = cache
        if self.teacher_forced:
            d_out = d_y  # (7b)
        else:
            d_out = d_y + d_state  # (7a)
        d_q = d_out * g.derivative(q)  # (9)
        d_h = d_q @ params["V"]  # (12)
        d_z = d_h * f.derivative(z)  # (13)
        d_params = {
            "U": d_z.T @ x_in,  # (14)
            "W": d_z.T @ o,  # (15)
            "b": d_z.sum(axis=0),  # (16)
            "V": d_q.T @ h,  # (10)
            "c": d_q.sum(axis=0),  # (11)
        }
        d_o = d_z @ params["W"]  # (17)
        d_x = d_z @ params["U"]  # (18), (19a)
        if self.teacher_forced:
            d_x = np.concatenate([d_x, d_state], axis=-1)  # (8), (19b)
        return d_params, d_o, d_x
