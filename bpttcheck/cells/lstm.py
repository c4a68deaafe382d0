"""Long short-term memory with a forget gate, in torch's layout of the gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from bpttcheck.cells.initialise import uniform
from bpttcheck.contract import Array, Params


class LSTMCache(NamedTuple):
    """What the backward step needs: the inputs of the step, its gates, and ``tanh(c')``."""

    x: Array
    h: Array
    c: Array
    i: Array
    f: Array
    g: Array
    o: Array
    tanh_c: Array


@dataclass(frozen=True)
class LSTM:
    """Long short-term memory, whose state is ``(h, c)`` and whose output is ``h'``.

    The gates are stacked along the first axis of the weights as input ``i``, forget ``f``,
    candidate ``g``, output ``o``: torch's order. A row of every array is one sample. ``σ`` is the
    logistic function; ``σ' = σ (1 - σ)`` and ``tanh' = 1 - tanh²``.

    Forward, with ``x (B, N)`` and ``h, c (B, H)``::

        a  = x @ W_ih.T + h @ W_hh.T + b,  a = [a_i, a_f, a_g, a_o]       (1)
        i  = σ(a_i)                                                       (2)
        f  = σ(a_f)                                                       (3)
        g  = tanh(a_g)                                                    (4)
        o  = σ(a_o)                                                       (5)
        c' = f * c + i * g                                                (6)
        h' = o * tanh(c')                                                 (7)
        y  = h'                                                           (8)

    Backward. ``d_v`` is the gradient of the loss with respect to ``v``; the cotangent of the new
    state is ``(d_h_next, d_c_next)``::

        d_h' = d_h_next + d_y                              from (8)       (9)
        d_o  = d_h' * tanh(c')                             from (7)       (10)
        d_c' = d_c_next + d_h' * o * (1 - tanh(c')²)       from (7)       (11)
        d_f  = d_c' * c                                    from (6)       (12)
        d_i  = d_c' * g                                    from (6)       (13)
        d_g  = d_c' * i                                    from (6)       (14)
        d_c  = d_c' * f                                    from (6)       (15)

    The gates pass their cotangents to the pre-activations::

        d_a_i = d_i * i * (1 - i)                          from (2)       (16)
        d_a_f = d_f * f * (1 - f)                          from (3)       (17)
        d_a_g = d_g * (1 - g²)                             from (4)       (18)
        d_a_o = d_o * o * (1 - o)                          from (5)       (19)
        d_a   = [d_a_i, d_a_f, d_a_g, d_a_o]

    and (1), which is linear in each of its factors, gives the rest::

        d_W_ih = d_a.T @ x                                 from (1)       (20)
        d_W_hh = d_a.T @ h                                 from (1)       (21)
        d_b    = sum of d_a over the batch                 from (1)       (22)
        d_h    = d_a @ W_hh                                from (1)       (23)
        d_x    = d_a @ W_ih                                from (1)       (24)

    Parameters: ``W_ih (4H, N)``, ``W_hh (4H, H)``, ``b (4H,)``: one bias where torch has the sum of
    two.

    Source:
        Hochreiter and Schmidhuber (1997), "Long short-term memory"; the forget gate is that of
        Gers, Schmidhuber and Cummins (2000), "Learning to forget".
    """

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Every parameter uniform in ``±1/sqrt(n_hidden)``."""
        N, H = n_in, n_hidden
        return uniform(rng, H, W_ih=(4 * H, N), W_hh=(4 * H, H), b=(4 * H,))

    def initial_state(self, params: Params, batch_size: int) -> tuple[Array, Array]:
        """Zeros ``(B, H)`` for ``h`` and for ``c``."""
        W_hh = params["W_hh"]
        shape = (batch_size, W_hh.shape[1])
        return np.zeros(shape, W_hh.dtype), np.zeros(shape, W_hh.dtype)

    def step(
        self, params: Params, state: tuple[Array, Array], x: Array
    ) -> tuple[tuple[Array, Array], Array, LSTMCache]:
        """One step forward, equations (1) to (8)."""
        h, c = state
        a = x @ params["W_ih"].T + h @ params["W_hh"].T + params["b"]  # (1)
        a_i, a_f, a_g, a_o = np.split(a, 4, axis=-1)
        i = special.expit(a_i)  # (2)
        f = special.expit(a_f)  # (3)
        g = np.tanh(a_g)  # (4)
        o = special.expit(a_o)  # (5)
        c_new = f * c + i * g  # (6)
        tanh_c = np.tanh(c_new)
        h_new = o * tanh_c  # (7)
        return (h_new, c_new), h_new, LSTMCache(x, h, c, i, f, g, o, tanh_c)  # (8)

    def step_vjp(
        self, params: Params, cache: LSTMCache, d_state: tuple[Array, Array], d_y: Array
    ) -> tuple[Params, tuple[Array, Array], Array]:
        """One step backward, equations (9) to (24)."""
        x, h, c, i, f, g, o, tanh_c = cache
        d_h_next, d_c_next = d_state
        d_h_new = d_h_next + d_y  # (9)
        d_o = d_h_new * tanh_c  # (10)
        d_c_new = d_c_next + d_h_new * o * (1.0 - tanh_c**2)  # (11)
        d_f = d_c_new * c  # (12)
        d_i = d_c_new * g  # (13)
        d_g = d_c_new * i  # (14)
        d_c = d_c_new * f  # (15)
        d_a_i = d_i * i * (1.0 - i)  # (16)
        d_a_f = d_f * f * (1.0 - f)  # (17)
        d_a_g = d_g * (1.0 - g**2)  # (18)
        d_a_o = d_o * o * (1.0 - o)  # (19)
        d_a = np.concatenate([d_a_i, d_a_f, d_a_g, d_a_o], axis=-1)
        d_params = {
            "W_ih": d_a.T @ x,  # (20)
            "W_hh": d_a.T @ h,  # (21)
            "b": d_a.sum(axis=0),  # (22)
        }
        d_h = d_a @ params["W_hh"]  # (23)
        d_x = d_a @ params["W_ih"]  # (24)
        return d_params, (d_h, d_c), d_x
