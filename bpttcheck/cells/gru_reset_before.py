"""Gated recurrent unit in its first form: the reset gate acts before the recurrent product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from bpttcheck.cells.initialise import uniform
from bpttcheck.contract import Array, Params


class GRUResetBeforeCache(NamedTuple):
    """What the backward step needs: the inputs of the step and its gates."""

    x: Array
    h: Array
    r: Array
    z: Array
    n: Array


@dataclass(frozen=True)
class GRUResetBefore:
    """Gated recurrent unit with the reset before the product, ``W_n (r * h)``; it outputs ``h'``.

    The gates are stacked along the first axis of the weights as reset ``r``, update ``z``,
    candidate ``n``; below, ``W_hh = [W_g; W_n]`` with ``W_g (2H, H)`` for both gates. A row of
    every array is one sample. ``σ`` is the logistic function; ``σ' = σ (1 - σ)``,
    ``tanh' = 1 - tanh²``.

    Forward, with ``x (B, N)`` and ``h (B, H)``::

        a       = x @ W_ih.T + b,  a = [a_r, a_z, a_n]                    (1)
        [u, v]  = h @ W_g.T                                               (2)
        r       = σ(a_r + u)                                              (3)
        z       = σ(a_z + v)                                              (4)
        n       = tanh(a_n + (r * h) @ W_n.T)                             (5)
        h'      = z * h + (1 - z) * n                                     (6)
        y       = h'                                                      (7)

    Backward. ``d_v`` is the gradient of the loss with respect to ``v``. The old state reaches the
    loss along three ways: through (6), through the reset product in (5), and through both gates::

        d_h'  = d_state + d_y                              from (7)       (8)
        d_n   = d_h' * (1 - z)                             from (6)       (9)
        d_z   = d_h' * (h - n)                             from (6)       (10)
        d_a_n = d_n * (1 - n²)                             from (5)       (11)
        d_rh  = d_a_n @ W_n                                from (5)       (12)
        d_r   = d_rh * h                                   from (5)       (13)
        d_a_r = d_r * r * (1 - r)                          from (3)       (14)
        d_a_z = d_z * z * (1 - z)                          from (4)       (15)
        d_uv  = [d_a_r, d_a_z],   d_a = [d_a_r, d_a_z, d_a_n]
        d_h   = d_h' * z                                   from (6)       (16a)
              + d_rh * r                                   from (5)       (16b)
              + d_uv @ W_g                                 from (2)       (16c)
        d_W_g  = d_uv.T @ h                                from (2)       (17)
        d_W_n  = d_a_n.T @ (r * h)                         from (5)       (18)
        d_W_ih = d_a.T @ x                                 from (1)       (19)
        d_b    = sum of d_a over the batch                 from (1)       (20)
        d_x    = d_a @ W_ih                                from (1)       (21)

    Parameters: ``W_ih (3H, N)``, ``W_hh (3H, H)``, ``b (3H,)``.

    Source:
        Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder", equations
        (5) to (8), with biases.
    """

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Every parameter uniform in ``±1/sqrt(n_hidden)``."""
        N, H = n_in, n_hidden
        return uniform(rng, H, W_ih=(3 * H, N), W_hh=(3 * H, H), b=(3 * H,))

    def initial_state(self, params: Params, batch_size: int) -> Array:
        """Zeros ``(B, H)``."""
        W_hh = params["W_hh"]
        return np.zeros((batch_size, W_hh.shape[1]), W_hh.dtype)

    def step(
        self, params: Params, state: Array, x: Array
    ) -> tuple[Array, Array, GRUResetBeforeCache]:
        """One step forward, equations (1) to (7)."""
        h = state
        W_g, W_n = _gates_and_candidate(params["W_hh"])
        a = x @ params["W_ih"].T + params["b"]  # (1)
        a_r, a_z, a_n = np.split(a, 3, axis=-1)
        u, v = np.split(h @ W_g.T, 2, axis=-1)  # (2)
        r = special.expit(a_r + u)  # (3)
        z = special.expit(a_z + v)  # (4)
        n = np.tanh(a_n + (r * h) @ W_n.T)  # (5)
        h_new = z * h + (1.0 - z) * n  # (6)
        return h_new, h_new, GRUResetBeforeCache(x, h, r, z, n)  # (7)

    def step_vjp(
        self, params: Params, cache: GRUResetBeforeCache, d_state: Array, d_y: Array
    ) -> tuple[Params, Array, Array]:
        """One step backward, equations (8) to (21)."""
        x, h, r, z, n = cache
        W_g, W_n = _gates_and_candidate(params["W_hh"])
        d_h_new = d_state + d_y  # (8)
        d_n = d_h_new * (1.0 - z)  # (9)
        d_z = d_h_new * (h - n)  # (10)
        d_a_n = d_n * (1.0 - n**2)  # (11)
        d_rh = d_a_n @ W_n  # (12)
        d_r = d_rh * h  # (13)
        d_a_r = d_r * r * (1.0 - r)  # (14)
        d_a_z = d_z * z * (1.0 - z)  # (15)
        d_uv = np.concatenate([d_a_r, d_a_z], axis=-1)
        d_a = np.concatenate([d_a_r, d_a_z, d_a_n], axis=-1)
        d_h = (
            d_h_new * z  # (16a)
            + d_rh * r  # (16b)
            + d_uv @ W_g  # (16c)
        )
        d_W_g = d_uv.T @ h  # (17)
        d_W_n = d_a_n.T @ (r * h)  # (18)
        d_params = {
            "W_ih": d_a.T @ x,  # (19)
            "W_hh": np.concatenate([d_W_g, d_W_n]),
            "b": d_a.sum(axis=0),  # (20)
        }
        d_x = d_a @ params["W_ih"]  # (21)
        return d_params, d_h, d_x


def _gates_and_candidate(W_hh: Array) -> tuple[Array, Array]:
    H = W_hh.shape[1]
    return W_hh[: 2 * H], W_hh[2 * H :]
