"""Right cells whose state or weights are divided by their own size: cancellation is inside."""

from __future__ import annotations

import numpy as np

from benchmarks.right_cells._parts import blank, draw, softmax


class OnTheSphere:
    """z = h R + x U + b,  h' = z / |z|,  y = h'.  At one unit only the sign is left."""

    e = 1e-12

    def init(self, rng, n_in, n_hidden):
        return {"R": draw(rng, n_hidden, n_hidden), "U": draw(rng, n_in, n_hidden),
                "b": 0.1 * np.ones(n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        d = len(params["b"])
        return np.full((batch_size, d), 1 / np.sqrt(d), params["b"].dtype)

    def step(self, params, h, x):
        z = h @ params["R"] + x @ params["U"] + params["b"]
        n = np.sqrt((z * z).sum(1, keepdims=True) + self.e)
        return z / n, z / n, (x, h, z / n, n)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, new, n = cache
        d = d_state + d_y
        d_z = (d - new * (new * d).sum(1, keepdims=True)) / n
        d_params = {"R": h.T @ d_z, "U": x.T @ d_z, "b": d_z.sum(0)}
        return d_params, d_z @ params["R"].T, d_z @ params["U"].T


class MeanSquareOne:
    """z = h R + x U,  r = sqrt(mean z^2 + e),  h' = tanh(g z / r),  y = h' - h."""

    e = 1e-6

    def init(self, rng, n_in, n_hidden):
        return {"R": draw(rng, n_hidden, n_hidden), "U": draw(rng, n_in, n_hidden),
                "g": np.ones(n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        return blank(params["g"], batch_size, len(params["g"]))

    def step(self, params, h, x):
        z = h @ params["R"] + x @ params["U"]
        r = np.sqrt(np.mean(z**2, 1, keepdims=True) + self.e)
        new = np.tanh(params["g"] * z / r)
        return new, new - h, (x, h, z / r, r, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, u, r, new = cache
        d_a = (d_state + d_y) * (1 - new**2)
        d_u = d_a * params["g"]
        d_z = (d_u - u * np.mean(u * d_u, 1, keepdims=True)) / r
        d_params = {"R": h.T @ d_z, "U": x.T @ d_z, "g": (d_a * u).sum(0)}
        return d_params, d_z @ params["R"].T - d_y, d_z @ params["U"].T


class CentredLeak:
    """Layer normalisation in a leaky unit.

    z = h R + x U,  u = (z - mean z) / sqrt(var z + e)            (1)
    c = tanh(g u + b),  h' = h + a (c - h),  y = h'               (2)
    """

    a, e = 0.3, 1e-5

    def init(self, rng, n_in, n_hidden):
        return {"R": draw(rng, n_hidden, n_hidden), "U": draw(rng, n_in, n_hidden),
                "g": np.ones(n_hidden), "b": np.zeros(n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        return blank(params["b"], batch_size, len(params["b"]))

    def step(self, params, h, x):
        z = h @ params["R"] + x @ params["U"]
        centred = z - z.mean(1, keepdims=True)
        sd = np.sqrt((centred**2).mean(1, keepdims=True) + self.e)
        u = centred / sd  # (1)
        c = np.tanh(params["g"] * u + params["b"])
        new = h + self.a * (c - h)  # (2)
        return new, new, {"x": x, "h": h, "u": u, "sd": sd, "c": c}

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, u, sd, c = (cache[name] for name in ("x", "h", "u", "sd", "c"))
        d = d_state + d_y
        d_a = self.a * d * (1 - c * c)  # (2)
        d_u = d_a * params["g"]  # (2)
        d_z = d_u - d_u.mean(1, keepdims=True) - u * (d_u * u).mean(1, keepdims=True)
        d_z = d_z / sd  # (1)
        d_params = {"R": h.T @ d_z, "U": x.T @ d_z, "g": (d_a * u).sum(0), "b": d_a.sum(0)}
        return d_params, (1 - self.a) * d + d_z @ params["R"].T, d_z @ params["U"].T


class Belief:
    """A Bayes filter over discrete states.

    A = softmax of each row of T,  l = exp(x E - max)        (1)
    w = (p A) l,  p' = w / sum w,  y = p'                    (2)
    """

    def init(self, rng, n_in, n_hidden):
        return {"T": rng.standard_normal((n_hidden, n_hidden)), "E": draw(rng, n_in, n_hidden)}

    def initial_state(self, params, batch_size):
        d = len(params["T"])
        return np.full((batch_size, d), 1 / d, params["T"].dtype)

    def step(self, params, p, x):
        A = softmax(params["T"])
        s = x @ params["E"]
        like = np.exp(s - s.max(1, keepdims=True))  # (1)
        prior = p @ A
        w = prior * like
        total = w.sum(1, keepdims=True)
        new = w / total  # (2)
        return new, new, (x, p, A, like, prior, total, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, p, A, like, prior, total, new = cache
        d = d_state + d_y
        d_w = (d - (d * new).sum(1, keepdims=True)) / total  # (2)
        d_prior = d_w * like  # (2)
        # The maximum that is taken off cancels in p', so that its derivative is nought.
        d_s = d_w * prior * like  # (1)
        d_A = p.T @ d_prior  # (2)
        d_T = A * (d_A - (A * d_A).sum(1, keepdims=True))  # (1)
        return {"T": d_T, "E": x.T @ d_s}, d_prior @ A.T, d_s @ params["E"].T


class DirectionAndLength:
    """Weights given by direction and length: W_j = g_j V_j / |V_j|;  h' = tanh([h, x, 1] W)."""

    def init(self, rng, n_in, n_hidden):
        return {"V": rng.standard_normal((n_hidden + n_in + 1, n_hidden)), "g": np.ones(n_hidden)}

    def initial_state(self, params, batch_size):
        return blank(params["g"], batch_size, len(params["g"]))

    def step(self, params, h, x):
        joined = np.concatenate([h, x, np.ones_like(x[:, :1])], 1)
        n = np.linalg.norm(params["V"], axis=0)
        unit = params["V"] / n
        f = joined @ unit
        new = np.tanh(params["g"] * f)
        return new, new, (joined, n, unit, f, new)

    def step_vjp(self, params, cache, d_state, d_y):
        joined, n, unit, f, new = cache
        d_z = (d_state + d_y) * (1 - new * new)
        d_f = d_z * params["g"]
        d_unit = joined.T @ d_f
        d_V = (d_unit - unit * (unit * d_unit).sum(0)) / n
        d_joined = d_f @ unit.T
        H = len(n)
        return {"V": d_V, "g": (d_z * f).sum(0)}, d_joined[:, :H], d_joined[:, H:-1]


CELLS = (OnTheSphere, MeanSquareOne, CentredLeak, Belief, DirectionAndLength)
