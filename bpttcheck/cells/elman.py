"""The simple recurrent network: hidden-to-hidden recurrence with any activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bpttcheck import activations
from bpttcheck.cells.initialise import uniform
from bpttcheck.contract import Array, Params


class ElmanCache(NamedTuple):
    """What the backward step needs: the input, the previous hidden state, the pre-activation."""

    x: Array
    h: Array
    z: Array


@dataclass(frozen=True)
class Elman:
    """The simple recurrent cell ``h' = f(U x + W h + b)``, whose output is its hidden state.

    A row of every array is one sample, so ``U x`` of the texts is ``x @ U.T`` in the code.

    Forward, with ``x (B, N)`` and ``h (B, H)``::

        z  = x @ U.T + h @ W.T + b                                        (1)
        h' = f(z)                                                         (2)
        y  = h'                                                           (3)

    Backward. ``d_v`` is the gradient of the loss ``L`` with respect to ``v``; the loss reads ``h'``
    as the next state and as the output, and both count::

        d_h' = d_state + d_y                        from (3)              (4)
        d_z  = d_h' * f'(z)                         from (2)              (5)

    Small changes of everything that enters (1) change the pre-activation by
    ``dz = x @ dU.T + h @ dW.T + db + dh @ W.T + dx @ U.T`` and the loss by ``sum(d_z * dz)``. The
    factor of each change in that sum is its gradient::

        d_U = d_z.T @ x                             the x @ dU.T term     (6)
        d_W = d_z.T @ h                             the h @ dW.T term     (7)
        d_b = sum of d_z over the batch             the db term           (8)
        d_h = d_z @ W                               the dh @ W.T term     (9)
        d_x = d_z @ U                               the dx @ U.T term     (10)

    Parameters: ``U (H, N)``, ``W (H, H)``, ``b (H,)``.

    Args:
        activation: the name of ``f`` in :mod:`bpttcheck.activations`, or an ``Activation``.

    Raises:
        ContractError: no activation has this name.

    Source:
        Elman (1990), "Finding structure in time"; Werbos (1990), "Backpropagation through time".
    """

    activation: str | activations.Activation = "tanh"

    def __post_init__(self) -> None:
        activations.get(self.activation)

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Every parameter uniform in ``±1/sqrt(n_hidden)``."""
        N, H = n_in, n_hidden
        return uniform(rng, H, U=(H, N), W=(H, H), b=(H,))

    def initial_state(self, params: Params, batch_size: int) -> Array:
        """Zeros ``(B, H)``."""
        b = params["b"]
        return np.zeros((batch_size, b.shape[0]), b.dtype)

    def step(self, params: Params, state: Array, x: Array) -> tuple[Array, Array, ElmanCache]:
        """One step forward, equations (1) to (3)."""
        f = activations.get(self.activation)
        h = state
        z = x @ params["U"].T + h @ params["W"].T + params["b"]  # (1)
        h_new = f.value(z)  # (2)
        return h_new, h_new, ElmanCache(x, h, z)  # (3)

    def step_vjp(
        self, params: Params, cache: ElmanCache, d_state: Array, d_y: Array
    ) -> tuple[Params, Array, Array]:
        """One step backward, equations (4) to (10)."""
        f = activations.get(self.activation)
        x, h, z = cache
        d_h_new = d_state + d_y  # (4)
        d_z = d_h_new * f.derivative(z)  # (5)
        d_params = {
            "U": d_z.T @ x,  # (6)
            "W": d_z.T @ h,  # (7)
            "b": d_z.sum(axis=0),  # (8)
        }
        d_h = d_z @ params["W"]  # (9)
        d_x = d_z @ params["U"]  # (10)
        return d_params, d_h, d_x
