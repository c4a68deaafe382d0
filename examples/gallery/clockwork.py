"""The clockwork network: groups of units that tick every 1, 2, 4, ... steps.

    bpttcheck verify examples/gallery/clockwork.py:Clockwork

The state is ``(h, t)``; ``t`` counts steps in integers and is carried, not differentiated. Unit
``j`` has period ``p_j``, and ``M_jk = 1`` where ``p_k >= p_j``: fast units read slow ones, never
the other way. With units in order of their periods, ``M * W`` is block upper triangular. Forward:

    V  = M * W                                     (1)
    c  = tanh(U x + V h + b)                       (2)
    a  = 1 where p_j divides t, else 0             (3), no gradient: it reads integers only
    h' = a c + (1 - a) h,  t' = t + 1,  y = h'     (4)

Backward, with ``d = d_h' + d_y`` because the loss reads ``h'`` twice:

    d_z = d a (1 - c^2)                            from (4), from (2)
    d_U = d_z^T x,  d_x = d_z U                    from (2)
    d_b = sum of d_z over the rows                 from (2)
    d_V = d_z^T h,  d_W = M * d_V                  from (2), from (1)
    d_h = d_z V + d (1 - a)                        from (2), and from (4): the units at rest
    d_t = 0                                        integers carry no gradient

Source: Koutnik, Greff, Gomez and Schmidhuber (2014), "A clockwork RNN", section 3.
"""

import numpy as np


class Clockwork:
    """h' = tanh(U x + (M * W) h + b) in the units whose period divides t, and h in the others."""

    def __init__(self, periods=(1, 2, 4)):
        self.periods = periods

    def init(self, rng, n_in, n_hidden):
        def draw(*shape):
            return rng.standard_normal(shape) / np.sqrt(shape[-1])

        return {"U": draw(n_hidden, n_in), "W": draw(n_hidden, n_hidden), "b": draw(n_hidden)}

    def initial_state(self, params, batch_size):
        b = params["b"]
        return np.zeros((batch_size, len(b)), b.dtype), np.zeros(batch_size, int)

    def unit_periods(self, n_hidden):
        """Groups of nearly equal size, the fast ones first."""
        return np.array(self.periods)[np.arange(n_hidden) * len(self.periods) // n_hidden]

    def step(self, params, state, x):
        h, t = state
        p = self.unit_periods(len(params["b"]))
        V = params["W"] * (p[None, :] >= p[:, None])  # (1)
        c = np.tanh(x @ params["U"].T + h @ V.T + params["b"])  # (2)
        a = t[:, None] % p == 0  # (3)
        new = np.where(a, c, h)  # (4)
        return (new, t + 1), new, (x, h, c, a, V)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, c, a, V = cache
        d = d_state[0] + d_y
        d_z = d * a * (1 - c**2)  # (4), (2)
        p = self.unit_periods(len(params["b"]))
        d_W = (d_z.T @ h) * (p[None, :] >= p[:, None])  # (2), (1)
        d_params = {"U": d_z.T @ x, "W": d_W, "b": d_z.sum(0)}
        d_h = d_z @ V + d * ~a  # (2), (4)
        return d_params, (d_h, np.zeros(len(x))), d_z @ params["U"]
