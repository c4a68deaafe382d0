"""The minimal gated unit: one gate that both forgets and lets in.

    bpttcheck verify examples/gallery/mgu.py:MGU

Forward:

    f  = sigmoid(U_f x + W_f h + b_f)          (1)
    r  = f h                                   (2)
    c  = tanh(U_c x + W_c r + b_c)             (3)
    h' = (1 - f) h + f c,  y = h'              (4)

Backward, with ``d = d_state + d_y`` because the loss reads ``h'`` twice:

    d_c  = d f                                 from (4)
    d_zc = d_c (1 - c^2)                       from (3), before the tanh
    d_r  = d_zc W_c                            from (3)
    d_f  = d (c - h) + d_r h                   from (4), and from (2)
    d_zf = d_f f (1 - f)                       from (1), before the sigmoid
    d_h  = d (1 - f) + d_r f + d_zf W_f        from (4), from (2), from (1)
    d_x  = d_zc U_c + d_zf U_f                 from (3), from (1)
    d_Uc = d_zc^T x,  d_Wc = d_zc^T r,  d_bc = sum of d_zc over the rows     from (3)
    d_Uf = d_zf^T x,  d_Wf = d_zf^T h,  d_bf = sum of d_zf over the rows     from (1)

Source: Zhou, Wu, Zhang and Zhou (2016), "Minimal gated unit for recurrent neural networks",
the three equations of its unit. There every matrix acts on ``[h, x]``; here it is split in two.
"""

import numpy as np


def sigmoid(z):
    return 0.5 * (1 + np.tanh(0.5 * z))  # overflows nowhere


class MGU:
    """h' = (1 - f) h + f tanh(U_c x + W_c (f h) + b_c), with the gate f = sigmoid(...)."""

    def init(self, rng, n_in, n_hidden):
        def draw(*shape):
            return rng.standard_normal(shape) / np.sqrt(shape[-1])

        params = {}
        for name in ("f", "c"):
            params["U_" + name] = draw(n_hidden, n_in)
            params["W_" + name] = draw(n_hidden, n_hidden)
            params["b_" + name] = draw(n_hidden)
        return params

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b_f"])), params["b_f"].dtype)

    def step(self, params, h, x):
        f = sigmoid(x @ params["U_f"].T + h @ params["W_f"].T + params["b_f"])  # (1)
        r = f * h  # (2)
        c = np.tanh(x @ params["U_c"].T + r @ params["W_c"].T + params["b_c"])  # (3)
        new = (1 - f) * h + f * c  # (4)
        return new, new, (x, h, f, r, c)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, f, r, c = cache
        d = d_state + d_y
        d_zc = d * f * (1 - c**2)  # (4), (3)
        d_r = d_zc @ params["W_c"]  # (3)
        d_f = d * (c - h) + d_r * h  # (4), (2)
        d_zf = d_f * f * (1 - f)  # (1)
        d_h = d * (1 - f) + d_r * f + d_zf @ params["W_f"]  # (4), (2), (1)
        d_x = d_zc @ params["U_c"] + d_zf @ params["U_f"]  # (3), (1)
        d_params = {"U_c": d_zc.T @ x, "W_c": d_zc.T @ r, "b_c": d_zc.sum(0)}  # (3)
        d_params |= {"U_f": d_zf.T @ x, "W_f": d_zf.T @ h, "b_f": d_zf.sum(0)}  # (1)
        return d_params, d_h, d_x
