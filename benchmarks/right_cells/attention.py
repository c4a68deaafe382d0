"""Right cells that attend: to slots, to all earlier steps, to stored patterns, to a window."""

from __future__ import annotations

import numpy as np

from benchmarks.right_cells._parts import blank, draw, sigmoid, softmax


class SlotBlend:
    """Slots addressed by cosine similarity, read by softmax, overwritten where they were read.

    k = x K;  n_s = sqrt(|m_s|^2 + e), n_k = sqrt(|k|^2 + e)     (1)
    c_s = m_s . k / (n_s n_k),  a = softmax(3 c)                 (2)
    r = sum_s a_s m_s                                            (3)
    w = tanh(x V + r R + b)                                      (4)
    m_s' = m_s + a_s (w - m_s),  y = r + w                       (5)
    """

    slots, sharpness, e = 3, 3.0, 1e-4

    def init(self, rng, n_in, n_hidden):
        return {"K": draw(rng, n_in, n_hidden), "V": draw(rng, n_in, n_hidden),
                "R": draw(rng, n_hidden, n_hidden), "b": np.zeros(n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        d = len(params["b"])
        grid = np.cos(np.arange(self.slots * d).reshape(self.slots, d))
        return np.repeat(grid[None].astype(params["b"].dtype), batch_size, 0)

    def step(self, params, m, x):
        k = x @ params["K"]
        n_s = np.sqrt((m * m).sum(2) + self.e)  # (1)
        n_k = np.sqrt((k * k).sum(1, keepdims=True) + self.e)
        c = (m * k[:, None]).sum(2) / (n_s * n_k)  # (2)
        a = softmax(self.sharpness * c)
        r = (a[:, :, None] * m).sum(1)  # (3)
        w = np.tanh(x @ params["V"] + r @ params["R"] + params["b"])  # (4)
        return m + a[:, :, None] * (w[:, None] - m), r + w, (x, m, k, n_s, n_k, c, a, r, w)

    def step_vjp(self, params, cache, d_m_new, d_y):
        x, m, k, n_s, n_k, c, a, r, w = cache
        d_w = d_y + (a[:, :, None] * d_m_new).sum(1)  # (5)
        d_z = d_w * (1 - w * w)  # (4)
        d_r = d_y + d_z @ params["R"].T  # (5), (4)
        d_a = (d_m_new * (w[:, None] - m)).sum(2) + (d_r[:, None] * m).sum(2)  # (5), (3)
        d_c = self.sharpness * a * (d_a - (a * d_a).sum(1, keepdims=True))  # (2)
        share = d_c / (n_s * n_k)
        d_m = d_m_new * (1 - a[:, :, None]) + a[:, :, None] * d_r[:, None]  # (5), (3)
        d_m += share[:, :, None] * k[:, None] - (d_c * c / n_s**2)[:, :, None] * m  # (2), (1)
        d_k = (share[:, :, None] * m).sum(1) - (d_c * c).sum(1, keepdims=True) * k / n_k**2
        d_params = {"K": x.T @ d_k, "V": x.T @ d_z, "R": r.T @ d_z, "b": d_z.sum(0)}
        return d_params, d_m, d_k @ params["K"].T + d_z @ params["V"].T


class RunningPool:
    """A softmax average over all steps so far, with the largest score carried along.

    l = x L, v = x V;  m' = max(m, l)               (1)
    p = exp(m - m'),  q = exp(l - m')               (2)
    s' = s p + q,  u' = u p + v q                   (3)
    y = u' / s'                                     (4)
    """

    def init(self, rng, n_in, n_hidden):
        return {"L": draw(rng, n_in, n_hidden), "V": draw(rng, n_in, n_hidden)}

    def initial_state(self, params, batch_size):
        zeros = blank(params["L"], batch_size, params["L"].shape[1])
        return {"top": zeros, "mass": np.ones_like(zeros), "total": zeros.copy()}

    def step(self, params, state, x):
        m, s, u = state["top"], state["mass"], state["total"]
        score, v = x @ params["L"], x @ params["V"]
        top = np.maximum(m, score)  # (1)
        p, q = np.exp(m - top), np.exp(score - top)  # (2)
        mass, total = s * p + q, u * p + v * q  # (3)
        y = total / mass  # (4)
        return (
            {"top": top, "mass": mass, "total": total},
            y,
            (x, m >= score, s, u, v, p, q, mass, y),
        )

    def step_vjp(self, params, cache, d_state, d_y):
        x, stays, s, u, v, p, q, mass, y = cache
        d_u = d_state["total"] + d_y / mass  # (4)
        d_s = d_state["mass"] - d_y * y / mass  # (4)
        d_p, d_q = (d_s * s + d_u * u) * p, (d_s + d_u * v) * q  # (3), (2)
        d_top = d_state["top"] - d_p - d_q  # (2)
        d_score = d_q + np.where(stays, 0, d_top)  # (1)
        d_before = {"top": d_p + np.where(stays, d_top, 0), "mass": d_s * p, "total": d_u * p}
        d_v = d_u * q
        d_params = {"L": x.T @ d_score, "V": x.T @ d_v}
        return d_params, d_before, d_score @ params["L"].T + d_v @ params["V"].T


class DecayedOuter:
    """Linear attention whose rows decay by a gate of their own.

    g = sigmoid(x G + b), k = log(1 + exp(x K)), v = x V, q = x Q        (1)
    S' = diag(g) S + k^T v                                              (2)
    y = q S' / sqrt(H)                                                  (3)
    """

    def init(self, rng, n_in, n_hidden):
        params = {name: draw(rng, n_in, n_hidden) for name in "GKVQ"}
        return params | {"b": np.full(n_hidden, 1.0)}

    def initial_state(self, params, batch_size):
        d = len(params["b"])
        return blank(params["b"], batch_size, d, d)

    def step(self, params, S, x):
        g = sigmoid(x @ params["G"] + params["b"])  # (1)
        a = x @ params["K"]
        k, v, q = np.logaddexp(0, a), x @ params["V"], x @ params["Q"]
        new = g[:, :, None] * S + k[:, :, None] * v[:, None]  # (2)
        y = np.einsum("bi,bij->bj", q, new) / np.sqrt(len(params["b"])).astype(x.dtype)  # (3)
        return new, y, (x, S, g, a, k, v, q, new)

    def step_vjp(self, params, cache, d_S, d_y):
        x, S, g, a, k, v, q, new = cache
        d_r = d_y / np.sqrt(len(params["b"])).astype(d_y.dtype)
        d_q = np.einsum("bj,bij->bi", d_r, new)  # (3)
        d = d_S + q[:, :, None] * d_r[:, None]  # (3)
        d_b = (d * S).sum(2) * g * (1 - g)  # (2), (1)
        d_a = np.einsum("bij,bj->bi", d, v) * sigmoid(a)  # (2), (1)
        d_v = np.einsum("bij,bi->bj", d, k)  # (2)
        parts = {"G": d_b, "K": d_a, "V": d_v, "Q": d_q}
        d_x = sum(d_z @ params[name].T for name, d_z in parts.items())
        d_params = {name: x.T @ d_z for name, d_z in parts.items()}
        return d_params | {"b": d_b.sum(0)}, g[:, :, None] * d, d_x


class PatternRecall:
    """A Hopfield network that recalls once; its energy is an output beside what it recalls.

    u = h + x U,  t = exp(l)                           (1)
    s = t u P^T,  p = softmax(s)                       (2)
    h' = p P                                           (3)
    e = log sum exp(s) / t,  y = (h', e)               (4)
    """

    patterns = 4

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "l": np.array(0.2),
                "P": rng.standard_normal((self.patterns, n_hidden))}  # fmt: skip

    def initial_state(self, params, batch_size):
        return blank(params["P"], batch_size, params["P"].shape[1])

    def step(self, params, h, x):
        t = np.exp(params["l"])
        u = h + x @ params["U"]  # (1)
        f = u @ params["P"].T
        s = t * f
        top = s.max(1, keepdims=True)
        e = np.exp(s - top)
        Z = e.sum(1, keepdims=True)
        p = e / Z  # (2)
        new = p @ params["P"]  # (3)
        energy = (top + np.log(Z)) / t  # (4)
        return new, np.concatenate([new, energy], 1), (x, t, u, f, p, energy)

    def step_vjp(self, params, cache, d_state, d_y):
        x, t, u, f, p, energy = cache
        d_new, d_e = d_state + d_y[:, :-1], d_y[:, -1:]
        d_p = d_new @ params["P"].T  # (3)
        d_s = p * (d_p - (p * d_p).sum(1, keepdims=True)) + d_e * p / t  # (2), (4)
        d_t = (d_s * f).sum() - (d_e * energy).sum() / t  # (2), (4)
        d_u = t * d_s @ params["P"]  # (2)
        d_params = {"U": x.T @ d_u, "l": np.asarray(d_t * t, t.dtype),  # (1)
                    "P": p.T @ d_new + t * d_s.T @ u}  # (3), (2)  # fmt: skip
        return d_params, d_u, d_u @ params["U"].T


class LastThree:
    """Attention to the keys and values of this step and the three before, with a bias by age.

    q = x Q, k = x K, v = x V;  keys = (kept, k), values = (kept, v)       (1)
    a = softmax(q . keys / sqrt(H) + age)                                  (2)
    y = sum a values                                                       (3)
    """

    kept = 3

    def init(self, rng, n_in, n_hidden):
        params = {name: draw(rng, n_in, n_hidden) for name in "QKV"}
        return params | {"age": 0.1 * np.arange(self.kept + 1.0)}

    def initial_state(self, params, batch_size):
        zeros = blank(params["Q"], batch_size, self.kept, params["Q"].shape[1])
        return zeros, zeros.copy()

    def step(self, params, state, x):
        q = x @ params["Q"]
        keys = np.concatenate([state[0], (x @ params["K"])[:, None]], 1)  # (1)
        values = np.concatenate([state[1], (x @ params["V"])[:, None]], 1)
        scale = x.dtype.type(1 / np.sqrt(q.shape[1]))
        a = softmax(scale * np.einsum("bd,bsd->bs", q, keys) + params["age"])  # (2)
        y = np.einsum("bs,bsd->bd", a, values)  # (3)
        return (keys[:, 1:].copy(), values[:, 1:].copy()), y, (x, q, keys, values, a, scale)

    def step_vjp(self, params, cache, d_state, d_y):
        x, q, keys, values, a, scale = cache
        d_a = np.einsum("bd,bsd->bs", d_y, values)  # (3)
        d_values = a[:, :, None] * d_y[:, None]  # (3)
        d_values[:, 1:] += d_state[1]  # (1)
        d_s = a * (d_a - (a * d_a).sum(1, keepdims=True))  # (2)
        d_q = scale * np.einsum("bs,bsd->bd", d_s, keys)  # (2)
        d_keys = scale * d_s[:, :, None] * q[:, None]  # (2)
        d_keys[:, 1:] += d_state[0]  # (1)
        d_k, d_v = d_keys[:, -1], d_values[:, -1]
        d_params = {"Q": x.T @ d_q, "K": x.T @ d_k, "V": x.T @ d_v, "age": d_s.sum(0)}
        d_x = d_q @ params["Q"].T + d_k @ params["K"].T + d_v @ params["V"].T
        return d_params, (d_keys[:, :-1], d_values[:, :-1]), d_x


CELLS = (SlotBlend, RunningPool, DecayedOuter, PatternRecall, LastThree)
