"""Long short-term memory whose gates see the cell state through peepholes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from bpttcheck.cells.initialise import uniform
from bpttcheck.contract import Array, Params


class PeepholeLSTMCache(NamedTuple):
    """What the backward step needs: the inputs of the step, its gates, ``c'`` and ``tanh(c')``."""

    x: Array
    h: Array
    c: Array
    i: Array
    f: Array
    g: Array
    o: Array
    c_new: Array
    tanh_c: Array


@dataclass(frozen=True)
class PeepholeLSTM:
    """LSTM with diagonal peepholes: ``i`` and ``f`` see the old cell state, ``o`` sees the new one.

    The gates are stacked along the first axis of the weights as ``i, f, g, o``. A row of every
    array is one sample. ``σ`` is the logistic function; ``σ' = σ (1 - σ)``, ``tanh' = 1 - tanh²``.

    Forward, with ``x (B, N)`` and ``h, c (B, H)``::

        a  = x @ W_ih.T + h @ W_hh.T + b,  a = [a_i, a_f, a_g, a_o]       (1)
        i  = σ(a_i + p_i * c)                                             (2)
        f  = σ(a_f + p_f * c)                                             (3)
        g  = tanh(a_g)                                                    (4)
        c' = f * c + i * g                                                (5)
        o  = σ(a_o + p_o * c')                                            (6)
        h' = o * tanh(c')                                                 (7)
        y  = h'                                                           (8)

    Backward. ``d_v`` is the gradient of the loss with respect to ``v``; the cotangent of the new
    state is ``(d_h_next, d_c_next)``. The output gate comes first, because ``c'`` reaches the loss
    through it as well::

        d_h'  = d_h_next + d_y                             from (8)       (9)
        d_o   = d_h' * tanh(c')                            from (7)       (10)
        d_a_o = d_o * o * (1 - o)                          from (6)       (11)
        d_c'  = d_c_next                                   the next step  (12a)
              + d_h' * o * (1 - tanh(c')²)                 from (7)       (12b)
              + d_a_o * p_o                                from (6)       (12c)
        d_i   = d_c' * g                                   from (5)       (13)
        d_f   = d_c' * c                                   from (5)       (14)
        d_g   = d_c' * i                                   from (5)       (15)
        d_a_i = d_i * i * (1 - i)                          from (2)       (16)
        d_a_f = d_f * f * (1 - f)                          from (3)       (17)
        d_a_g = d_g * (1 - g²)                             from (4)       (18)
        d_c   = d_c' * f                                   from (5)       (19a)
              + d_a_i * p_i                                from (2)       (19b)
              + d_a_f * p_f                                from (3)       (19c)

    The sums in (2), (3) and (6) pass ``d_a`` on unchanged, so that each peephole has ``d_a`` times
    what it saw, and (1) is linear in each of its factors::

        d_p_i  = sum of d_a_i * c  over the batch          from (2)       (20)
        d_p_f  = sum of d_a_f * c  over the batch          from (3)       (21)
        d_p_o  = sum of d_a_o * c' over the batch          from (6)       (22)
        d_a    = [d_a_i, d_a_f, d_a_g, d_a_o]
        d_W_ih = d_a.T @ x                                 from (1)       (23)
        d_W_hh = d_a.T @ h                                 from (1)       (24)
        d_b    = sum of d_a over the batch                 from (1)       (25)
        d_h    = d_a @ W_hh                                from (1)       (26)
        d_x    = d_a @ W_ih                                from (1)       (27)

    Parameters: ``W_ih (4H, N)``, ``W_hh (4H, H)``, ``b (4H,)``, ``p_i, p_f, p_o (H,)``.

    Source:
        Gers and Schmidhuber (2000), "Recurrent nets that time and count", for the peepholes; with
        ``tanh`` on the output as in Graves (2013), "Generating sequences with recurrent neural
        networks", equations (7) to (11).
    """

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Every parameter uniform in ``±1/sqrt(n_hidden)``."""
        N, H = n_in, n_hidden
        return uniform(
            rng, H, W_ih=(4 * H, N), W_hh=(4 * H, H), b=(4 * H,), p_i=(H,), p_f=(H,), p_o=(H,)
        )

    def initial_state(self, params: Params, batch_size: int) -> tuple[Array, Array]:
        """Zeros ``(B, H)`` for ``h`` and for ``c``."""
        W_hh = params["W_hh"]
        shape = (batch_size, W_hh.shape[1])
        return np.zeros(shape, W_hh.dtype), np.zeros(shape, W_hh.dtype)

    def step(
        self, params: Params, state: tuple[Array, Array], x: Array
    ) -> tuple[tuple[Array, Array], Array, PeepholeLSTMCache]:
        """One step forward, equations (1) to (8)."""
        h, c = state
        a = x @ params["W_ih"].T + h @ params["W_hh"].T + params["b"]  # (1)
        a_i, a_f, a_g, a_o = np.split(a, 4, axis=-1)
        i = special.expit(a_i + params["p_i"] * c)  # (2)
        f = special.expit(a_f + params["p_f"] * c)  # (3)
        g = np.tanh(a_g)  # (4)
        c_new = f * c + i * g  # (5)
        o = special.expit(a_o + params["p_o"] * c_new)  # (6)
        tanh_c = np.tanh(c_new)
        h_new = o * tanh_c  # (7)
        cache = PeepholeLSTMCache(x, h, c, i, f, g, o, c_new, tanh_c)
        return (h_new, c_new), h_new, cache  # (8)

    def step_vjp(
        self, params: Params, cache: PeepholeLSTMCache, d_state: tuple[Array, Array], d_y: Array
    ) -> tuple[Params, tuple[Array, Array], Array]:
        """One step backward, equations (9) to (27)."""
        x, h, c, i, f, g, o, c_new, tanh_c = cache
        d_h_next, d_c_next = d_state
        d_h_new = d_h_next + d_y  # (9)
        d_o = d_h_new * tanh_c  # (10)
        d_a_o = d_o * o * (1.0 - o)  # (11)
        d_c_new = (
            d_c_next  # (12a)
            + d_h_new * o * (1.0 - tanh_c**2)  # (12b)
            + d_a_o * params["p_o"]  # (12c)
        )
        d_i = d_c_new * g  # (13)
        d_f = d_c_new * c  # (14)
        d_g = d_c_new * i  # (15)
        d_a_i = d_i * i * (1.0 - i)  # (16)
        d_a_f = d_f * f * (1.0 - f)  # (17)
        d_a_g = d_g * (1.0 - g**2)  # (18)
        d_c = (
            d_c_new * f  # (19a)
            + d_a_i * params["p_i"]  # (19b)
            + d_a_f * params["p_f"]  # (19c)
        )
        d_a = np.concatenate([d_a_i, d_a_f, d_a_g, d_a_o], axis=-1)
        d_params = {
            "W_ih": d_a.T @ x,  # (23)
            "W_hh": d_a.T @ h,  # (24)
            "b": d_a.sum(axis=0),  # (25)
            "p_i": (d_a_i * c).sum(axis=0),  # (20)
            "p_f": (d_a_f * c).sum(axis=0),  # (21)
            "p_o": (d_a_o * c_new).sum(axis=0),  # (22)
        }
        d_h = d_a @ params["W_hh"]  # (26)
        d_x = d_a @ params["W_ih"]  # (27)
        return d_params, (d_h, d_c), d_x
