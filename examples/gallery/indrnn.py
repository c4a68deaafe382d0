"""The independently recurrent network: each unit sees only its own past.

    bpttcheck verify examples/gallery/indrnn.py:IndRNN

Forward, ``u`` a vector with one recurrent weight for each unit:

    z  = W x + u h + b                  (1)
    h' = max(z, 0),  y = h'             (2)

Backward, with ``d = d_state + d_y`` because the loss reads ``h'`` twice:

    d_z = d where z > 0, else 0         from (2); at z = 0 any slope from 0 to 1 is right
    d_W = d_z^T x,  d_x = d_z W         from (1)
    d_u = sum over rows of d_z h        from (1): a product in each unit, not a matrix
    d_b = sum over rows of d_z          from (1)
    d_h = d_z u                         from (1)

Source: Li, Li, Cook, Zhu and Gao (2018), "Independently recurrent neural network (IndRNN)",
equation 2, with the rectifier that the paper recommends for long sequences.
"""

import numpy as np


class IndRNN:
    """h' = max(W x + u h + b, 0), with a vector u in the place of a recurrent matrix."""

    def init(self, rng, n_in, n_hidden):
        return {
            "W": rng.standard_normal((n_hidden, n_in)) / np.sqrt(n_in),
            "u": rng.uniform(-1, 1, n_hidden),
            "b": 0.1 * rng.standard_normal(n_hidden),
        }

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b"])), params["b"].dtype)

    def step(self, params, h, x):
        z = x @ params["W"].T + params["u"] * h + params["b"]  # (1)
        new = np.maximum(z, 0)  # (2)
        return new, new, (x, h, z)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z = cache
        d_z = (d_state + d_y) * (z > 0)  # (2)
        d_params = {"W": d_z.T @ x, "u": (d_z * h).sum(0), "b": d_z.sum(0)}  # (1)
        return d_params, d_z * params["u"], d_z @ params["W"]  # (1)
