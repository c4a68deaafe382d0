"""Gated recurrent unit as cuDNN and torch have it: the reset gate acts after the product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from bpttcheck.cells.initialise import uniform
from bpttcheck.contract import Array, Params


class GRUResetAfterCache(NamedTuple):
    """What the backward step needs: the inputs of the step, its gates, and what ``r`` scales."""

    x: Array
    h: Array
    r: Array
    z: Array
    n: Array
    q: Array


@dataclass(frozen=True)
class GRUResetAfter:
    """Gated recurrent unit with the reset after the product, ``r * (W_hn h + b_hn)``.

    Its output is ``h'``. The gates are stacked along the first axis of the weights as reset ``r``,
    update ``z``, candidate ``n``: torch's order. The candidate has two biases, one inside the reset
    and one outside. A row of every array is one sample. ``σ`` is the logistic function;
    ``σ' = σ (1 - σ)``, ``tanh' = 1 - tanh²``.

    Forward, with ``x (B, N)`` and ``h (B, H)``::

        a = x @ W_ih.T + b,        a = [a_r, a_z, a_n]                    (1)
        s = h @ W_hh.T,            s = [s_r, s_z, s_n]                    (2)
        r = σ(a_r + s_r)                                                  (3)
        z = σ(a_z + s_z)                                                  (4)
        q = s_n + b_hn                                                    (5)
        n = tanh(a_n + r * q)                                             (6)
        h' = (1 - z) * n + z * h                                          (7)
        y = h'                                                            (8)

    Backward. ``d_v`` is the gradient of the loss with respect to ``v``::

        d_h'  = d_state + d_y                              from (8)       (9)
        d_n   = d_h' * (1 - z)                             from (7)       (10)
        d_z   = d_h' * (h - n)                             from (7)       (11)
        d_a_n = d_n * (1 - n²)                             from (6)       (12)
        d_r   = d_a_n * q                                  from (6)       (13)
        d_q   = d_a_n * r                                  from (6)       (14)
        d_a_z = d_z * z * (1 - z)                          from (4)       (15)
        d_a_r = d_r * r * (1 - r)                          from (3)       (16)

    The gates pass the same cotangent to ``a`` and to ``s``; the candidate does not, because the
    reset stands between them::

        d_a    = [d_a_r, d_a_z, d_a_n]
        d_s    = [d_a_r, d_a_z, d_q]
        d_b_hn = sum of d_q over the batch                 from (5)       (17)
        d_W_ih = d_a.T @ x                                 from (1)       (18)
        d_b    = sum of d_a over the batch                 from (1)       (19)
        d_x    = d_a @ W_ih                                from (1)       (20)
        d_W_hh = d_s.T @ h                                 from (2)       (21)
        d_h    = d_h' * z                                  from (7)       (22a)
               + d_s @ W_hh                                from (2)       (22b)

    Parameters: ``W_ih (3H, N)``, ``W_hh (3H, H)``, ``b (3H,)``, ``b_hn (H,)``: the reset and the
    update gate have one bias where torch has the sum of two.

    Source:
        Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder", in the
        variant of cuDNN (Appleyard et al., 2016, "Optimizing performance of recurrent neural
        networks on GPUs").
    """

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Every parameter uniform in ``±1/sqrt(n_hidden)``."""
        N, H = n_in, n_hidden
        return uniform(rng, H, W_ih=(3 * H, N), W_hh=(3 * H, H), b=(3 * H,), b_hn=(H,))

    def initial_state(self, params: Params, batch_size: int) -> Array:
        """Zeros ``(B, H)``."""
        W_hh = params["W_hh"]
        return np.zeros((batch_size, W_hh.shape[1]), W_hh.dtype)

    def step(
        self, params: Params, state: Array, x: Array
    ) -> tuple[Array, Array, GRUResetAfterCache]:
        """One step forward, equations (1) to (8)."""
        h = state
        a = x @ params["W_ih"].T + params["b"]  # (1)
        s = h @ params["W_hh"].T  # (2)
        a_r, a_z, a_n = np.split(a, 3, axis=-1)
        s_r, s_z, s_n = np.split(s, 3, axis=-1)
        r = special.expit(a_r + s_r)  # (3)
        z = special.expit(a_z + s_z)  # (4)
        q = s_n + params["b_hn"]  # (5)
        n = np.tanh(a_n + r * q)  # (6)
        h_new = (1.0 - z) * n + z * h  # (7)
        return h_new, h_new, GRUResetAfterCache(x, h, r, z, n, q)  # (8)

    def step_vjp(
        self, params: Params, cache: GRUResetAfterCache, d_state: Array, d_y: Array
    ) -> tuple[Params, Array, Array]:
        """One step backward, equations (9) to (22)."""
        x, h, r, z, n, q = cache
        d_h_new = d_state + d_y  # (9)
        d_n = d_h_new * (1.0 - z)  # (10)
        d_z = d_h_new * (h - n)  # (11)
        d_a_n = d_n * (1.0 - n**2)  # (12)
        d_r = d_a_n * q  # (13)
        d_q = d_a_n * r  # (14)
        d_a_z = d_z * z * (1.0 - z)  # (15)
        d_a_r = d_r * r * (1.0 - r)  # (16)
        d_a = np.concatenate([d_a_r, d_a_z, d_a_n], axis=-1)
        d_s = np.concatenate([d_a_r, d_a_z, d_q], axis=-1)
        d_params = {
            "W_ih": d_a.T @ x,  # (18)
            "W_hh": d_s.T @ h,  # (21)
            "b": d_a.sum(axis=0),  # (19)
            "b_hn": d_q.sum(axis=0),  # (17)
        }
        d_h = (
            d_h_new * z  # (22a)
            + d_s @ params["W_hh"]  # (22b)
        )
        d_x = d_a @ params["W_ih"]  # (20)
        return d_params, d_h, d_x
