"""Right cells that write into a matrix at every step: the delta rule and what came of it."""

from __future__ import annotations

import numpy as np

from benchmarks.right_cells._parts import blank, draw, sigmoid


class CorrectedWrite:
    """The delta rule: what the matrix recalls for a key of length one is moved towards a value.

    u = x K, n = sqrt(|u|^2 + e), k = u / n            (1)
    v = x V, q = x Q, w = sigmoid(x g)                 (2)
    e = v - k M                                        (3)
    M' = M + w k^T e                                   (4)
    y = q M'                                           (5)
    """

    e = 1e-8

    def init(self, rng, n_in, n_hidden):
        return {name: draw(rng, n_in, n_hidden) for name in "KVQ"} | {"g": draw(rng, n_in)}

    def initial_state(self, params, batch_size):
        d = params["K"].shape[1]
        return blank(params["K"], batch_size, d, d)

    def step(self, params, M, x):
        u = x @ params["K"]
        n = np.sqrt((u * u).sum(1, keepdims=True) + self.e)
        k = u / n  # (1)
        v, q = x @ params["V"], x @ params["Q"]
        w = sigmoid(x @ params["g"])[:, None]  # (2)
        error = v - np.einsum("bi,bij->bj", k, M)  # (3)
        new = M + (w * k)[:, :, None] * error[:, None]  # (4)
        return new, np.einsum("bi,bij->bj", q, new), (x, M, n, k, q, w, error, new)  # (5)

    def step_vjp(self, params, cache, d_M, d_y):
        x, M, n, k, q, w, error, new = cache
        d_q = np.einsum("bj,bij->bi", d_y, new)  # (5)
        d = d_M + q[:, :, None] * d_y[:, None]  # (5)
        d_wk = np.einsum("bij,bj->bi", d, error)  # (4)
        d_e = np.einsum("bij,bi->bj", d, w * k)  # (4)
        d_k = w * d_wk - np.einsum("bij,bj->bi", M, d_e)  # (4), (3)
        d_g = (d_wk * k).sum(1) * (w * (1 - w))[:, 0]  # (4), (2)
        d_u = (d_k - k * (k * d_k).sum(1, keepdims=True)) / n  # (1)
        d_params = {"K": x.T @ d_u, "V": x.T @ d_e, "Q": x.T @ d_q, "g": x.T @ d_g}
        d_x = d_u @ params["K"].T + d_e @ params["V"].T + d_q @ params["Q"].T
        d_x += d_g[:, None] * params["g"]
        return d_params, d - k[:, :, None] * d_e[:, None], d_x  # (4), (3)


class PrincipalTrace:
    """Oja's rule with a bounded response.

    u = x U,  o = tanh(h . u),  r = sigmoid(c)       (1)
    h' = h + r o (u - o h),  y = o h'                (2)
    """

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "c": np.array(-0.5)}

    def initial_state(self, params, batch_size):
        return np.full((batch_size, params["U"].shape[1]), 0.5, params["U"].dtype)

    def step(self, params, h, x):
        u = x @ params["U"]
        o = np.tanh((h * u).sum(1, keepdims=True))  # (1)
        r = sigmoid(params["c"])
        new = h + r * o * (u - o * h)  # (2)
        return new, o * new, (x, h, u, o, r, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, u, o, r, new = cache
        d = d_state + o * d_y  # (2)
        d_o = (d_y * new).sum(1, keepdims=True) + r * (d * (u - 2 * o * h)).sum(1, keepdims=True)
        d_r = (d * o * (u - o * h)).sum()  # (2)
        d_a = d_o * (1 - o * o)  # (1)
        d_u = r * o * d + d_a * h  # (2), (1)
        d_h = d * (1 - r * o * o) + d_a * u  # (2), (1)
        d_params = {"U": x.T @ d_u, "c": np.asarray(d_r * r * (1 - r), x.dtype)}
        return d_params, d_h, d_u @ params["U"].T


class ExponentialGates:
    """Exponential input gates, kept in range by a running logarithm of their largest product.

    a = x A + b, l = -log(1 + exp(-(x F + f))), z = tanh(x Z)     (1)
    m' = max(l + m, a)                                           (2)
    i = exp(a - m'), g = exp(l + m - m')                         (3)
    c' = g c + i z,  n' = g n + i                                (4)
    y = c' / sqrt(n'^2 + exp(-2 m'))                             (5)
    """

    def init(self, rng, n_in, n_hidden):
        return {name: draw(rng, n_in, n_hidden) for name in "AFZ"} | {
            "b": np.zeros(n_hidden), "f": np.ones(n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        zeros = blank(params["b"], batch_size, len(params["b"]))
        return zeros, zeros.copy(), zeros.copy()

    def step(self, params, state, x):
        c, n, m = state
        a = x @ params["A"] + params["b"]  # (1)
        pre = x @ params["F"] + params["f"]
        kept = m - np.logaddexp(0, -pre)
        z = np.tanh(x @ params["Z"])
        top = np.maximum(kept, a)  # (2)
        i, g = np.exp(a - top), np.exp(kept - top)  # (3)
        c_new, n_new = g * c + i * z, g * n + i  # (4)
        floor = np.exp(-2 * top)
        root = np.sqrt(n_new**2 + floor)
        y = c_new / root  # (5)
        return (c_new, n_new, top), y, (x, c, n, pre, z, kept >= a, i, g, n_new, floor, root, y)

    def step_vjp(self, params, cache, d_state, d_y):
        x, c, n, pre, z, stays, i, g, n_new, floor, root, y = cache
        d_root = -d_y * y / root  # (5)
        d_c = d_state[0] + d_y / root  # (5)
        d_n = d_state[1] + d_root * n_new / root  # (5)
        d_g, d_i = (d_c * c + d_n * n) * g, (d_c * z + d_n) * i  # (4), (3)
        d_top = d_state[2] - d_root * floor / root - d_g - d_i  # (5), (3)
        d_kept = d_g + np.where(stays, d_top, 0)  # (2)
        d_a = d_i + np.where(stays, 0, d_top)  # (2)
        d_pre = d_kept * sigmoid(-pre)  # (1)
        d_z = d_c * i * (1 - z * z)  # (4), (1)
        parts = {"A": d_a, "F": d_pre, "Z": d_z}
        d_params = {name: x.T @ d for name, d in parts.items()}
        d_params |= {"b": d_a.sum(0), "f": d_pre.sum(0)}
        d_x = sum(d @ params[name].T for name, d in parts.items())
        return d_params, (d_c * g, d_n * g, d_kept), d_x


class TwoRates:
    """Two heads that forget at fixed rates; each head's output is divided by its own size.

    k = x K, v = x V, q = x Q, split into two heads          (1)
    S' = r S + k^T v,  o = q S'                              (2)
    y = o / sqrt(mean o^2 + e)                               (3)
    """

    e = 1e-5

    def init(self, rng, n_in, n_hidden):
        return {name: draw(rng, n_in, 2 * n_hidden) for name in "KVQ"}

    def initial_state(self, params, batch_size):
        d = params["K"].shape[1] // 2
        return blank(params["K"], batch_size, 2, d, d)

    def _heads(self, z):
        return z.reshape(len(z), 2, -1)

    def step(self, params, S, x):
        k, v, q = (self._heads(x @ params[name]) for name in "KVQ")  # (1)
        rate = np.array([0.5, 0.9], x.dtype)[:, None, None]
        new = rate * S + np.einsum("bhi,bhj->bhij", k, v)  # (2)
        o = np.einsum("bhi,bhij->bhj", q, new)
        size = np.sqrt((o * o).mean(2, keepdims=True) + self.e)
        return new, (o / size).reshape(len(x), -1), (x, k, v, q, rate, new, o / size, size)  # (3)

    def step_vjp(self, params, cache, d_S, d_y):
        x, k, v, q, rate, new, y, size = cache
        d_y = self._heads(d_y)
        d_o = (d_y - y * (y * d_y).mean(2, keepdims=True)) / size  # (3)
        d_q = np.einsum("bhj,bhij->bhi", d_o, new)  # (2)
        d = d_S + np.einsum("bhi,bhj->bhij", q, d_o)  # (2)
        d_k = np.einsum("bhij,bhj->bhi", d, v)  # (2)
        d_v = np.einsum("bhij,bhi->bhj", d, k)  # (2)
        parts = {"K": d_k, "V": d_v, "Q": d_q}
        parts = {name: d_z.reshape(len(x), -1) for name, d_z in parts.items()}
        d_x = sum(d_z @ params[name].T for name, d_z in parts.items())
        return {name: x.T @ d_z for name, d_z in parts.items()}, rate * d, d_x


class LearnsWithin:
    """One step of descent with momentum on an inner regression is the recurrence.

    k = tanh(x K), v = x V, q = x Q,  r = log(1 + exp(s)), m = sigmoid(p)    (1)
    e = k W - v                                                             (2)
    G' = m G + k^T e,  W' = W - r G'                                        (3)
    y = q W'                                                                (4)
    """

    def init(self, rng, n_in, n_hidden):
        return {name: draw(rng, n_in, n_hidden) for name in "KVQ"} | {
            "s": np.array(-1.5), "p": np.array(0.0)}  # fmt: skip

    def initial_state(self, params, batch_size):
        d = params["K"].shape[1]
        return {
            "W": blank(params["K"], batch_size, d, d),
            "G": blank(params["K"], batch_size, d, d),
        }

    def step(self, params, state, x):
        W, G = state["W"], state["G"]
        k, v, q = np.tanh(x @ params["K"]), x @ params["V"], x @ params["Q"]
        r, m = np.logaddexp(0, params["s"]), sigmoid(params["p"])  # (1)
        e = (k[:, None] @ W)[:, 0] - v  # (2)
        G_new = m * G + k[:, :, None] * e[:, None]
        W_new = W - r * G_new  # (3)
        y = (q[:, None] @ W_new)[:, 0]  # (4)
        return {"W": W_new, "G": G_new}, y, (x, W, G, k, q, r, m, e, G_new, W_new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, W, G, k, q, r, m, e, G_new, W_new = cache
        d_W = d_state["W"] + q[:, :, None] * d_y[:, None]  # (4)
        d_q = (W_new @ d_y[:, :, None])[:, :, 0]  # (4)
        d_G = d_state["G"] - r * d_W  # (3)
        d_e = (k[:, None] @ d_G)[:, 0]  # (3)
        d_k = (d_G @ e[:, :, None] + W @ d_e[:, :, None])[:, :, 0] * (1 - k * k)  # (3), (2), (1)
        d_r, d_m = -(d_W * G_new).sum(), (d_G * G).sum()  # (3)
        parts = {"K": d_k, "V": -d_e, "Q": d_q}
        d_params = {name: x.T @ d for name, d in parts.items()}
        d_params |= {"s": np.asarray(d_r * sigmoid(params["s"]), x.dtype),
                     "p": np.asarray(d_m * m * (1 - m), x.dtype)}  # fmt: skip
        d_before = {"W": d_W + k[:, :, None] * d_e[:, None], "G": m * d_G}  # (2), (3)
        return d_params, d_before, sum(d @ params[name].T for name, d in parts.items())


CELLS = (CorrectedWrite, PrincipalTrace, ExponentialGates, TwoRates, LearnsWithin)
