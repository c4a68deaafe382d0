"""The minimal GRU: neither gate nor candidate reads the state, so that steps run in parallel.

    bpttcheck verify examples/gallery/mingru.py:MinGRU

Forward:

    z  = sigmoid(U_z x + b_z)           (1)
    c  = U_c x + b_c                    (2)
    h' = (1 - z) h + z c,  y = h'       (3)

Backward, with ``d = d_state + d_y`` because the loss reads ``h'`` twice:

    d_z = d (c - h)                     from (3)
    d_c = d z                           from (3)
    d_h = d (1 - z)                     from (3): the only path, as (1) and (2) do not read h
    d_a = d_z z (1 - z)                 from (1), before the sigmoid
    d_Uz = d_a^T x,  d_bz = sum of d_a over the rows             from (1)
    d_Uc = d_c^T x,  d_bc = sum of d_c over the rows             from (2)
    d_x = d_a U_z + d_c U_c             from (1), from (2)

Source: Feng, Tung, Ahmed, Bengio and Hajimirsadeghi (2024), "Were RNNs all we needed?", the
minGRU in its plain form. The paper's log-space form keeps the state positive and is another cell.
"""

import numpy as np


def sigmoid(z):
    return 0.5 * (1 + np.tanh(0.5 * z))  # overflows nowhere


class MinGRU:
    """h' = (1 - z) h + z (U_c x + b_c), with z = sigmoid(U_z x + b_z)."""

    def init(self, rng, n_in, n_hidden):
        def draw(*shape):
            return rng.standard_normal(shape) / np.sqrt(shape[-1])

        return {
            "U_z": draw(n_hidden, n_in),
            "b_z": draw(n_hidden),
            "U_c": draw(n_hidden, n_in),
            "b_c": draw(n_hidden),
        }

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b_z"])), params["b_z"].dtype)

    def step(self, params, h, x):
        z = sigmoid(x @ params["U_z"].T + params["b_z"])  # (1)
        c = x @ params["U_c"].T + params["b_c"]  # (2)
        new = (1 - z) * h + z * c  # (3)
        return new, new, (x, h, z, c)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z, c = cache
        d = d_state + d_y
        d_a = d * (c - h) * z * (1 - z)  # (3), (1)
        d_c = d * z  # (3)
        d_params = {"U_z": d_a.T @ x, "b_z": d_a.sum(0)}  # (1)
        d_params |= {"U_c": d_c.T @ x, "b_c": d_c.sum(0)}  # (2)
        d_x = d_a @ params["U_z"] + d_c @ params["U_c"]  # (1), (2)
        return d_params, d * (1 - z), d_x  # (3)
