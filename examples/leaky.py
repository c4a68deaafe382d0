"""A leaky integrator: a cell of your own, with its derivation.

    bpttcheck verify examples/leaky.py:Leaky

Forward, for a leak ``a`` in each unit:

    z  = U x + W h + b                  (1)
    c  = tanh(z)                        (2)
    h' = a h + (1 - a) c,  y = h'       (3)

Backward, with ``d = d_state + d_y`` because the loss reads ``h'`` twice:

    d_a = sum over rows of d (h - c)    from (3)
    d_c = d (1 - a)                     from (3)
    d_z = d_c (1 - c^2)                 from (2)
    d_U = d_z^T x,  d_x = d_z U         from (1)
    d_W = d_z^T h,  d_b = sum of d_z    from (1)
    d_h = d_z W + d a                   from (1), and from (3): the path that is easily forgotten
"""

import numpy as np


class Leaky:
    """h' = a h + (1 - a) tanh(U x + W h + b), a leaky integrator with leak a in each unit."""

    def init(self, rng, n_in, n_hidden):
        def draw(*shape):
            return rng.standard_normal(shape) / np.sqrt(shape[-1])

        return {
            "U": draw(n_hidden, n_in),
            "W": draw(n_hidden, n_hidden),
            "b": draw(n_hidden),
            "a": rng.uniform(0.1, 0.9, n_hidden),
        }

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b"])), params["b"].dtype)

    def step(self, params, h, x):
        c = np.tanh(x @ params["U"].T + h @ params["W"].T + params["b"])  # (1), (2)
        new = params["a"] * h + (1 - params["a"]) * c  # (3)
        return new, new, (x, h, c)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, c = cache
        d = d_state + d_y
        d_z = d * (1 - params["a"]) * (1 - c**2)
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h, "b": d_z.sum(0), "a": (d * (h - c)).sum(0)}
        d_h = d_z @ params["W"] + d * params["a"]
        return d_params, d_h, d_z @ params["U"]
