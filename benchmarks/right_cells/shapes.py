"""Right cells with unusual states and parameters: nested, counted, none, bounded, positive."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from benchmarks.right_cells._parts import blank, draw, sigmoid


class Core(NamedTuple):
    """What the nested cell computes with."""

    hidden: Any
    traces: Any


class Nested:
    """A dict of a NamedTuple of a tuple, and an age that is an integer.

    z = x U + h R + p w,  h' = tanh z                     (1)
    p' = 0.5 p + h',  q' = q + 0.1 p' (x U)               (2)
    y = (h', q')                                          (3)
    """

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "R": draw(rng, n_hidden, n_hidden),
                "w": rng.standard_normal(n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        zeros = blank(params["w"], batch_size, len(params["w"]))
        return {"core": Core(zeros, (zeros.copy(), zeros.copy())),
                "age": np.zeros(batch_size, np.int32)}  # fmt: skip

    def step(self, params, state, x):
        h, (p, q) = state["core"]
        u = x @ params["U"]
        new = np.tanh(u + h @ params["R"] + p * params["w"])  # (1)
        p_new = 0.5 * p + new
        q_new = q + 0.1 * p_new * u  # (2)
        out = {"core": Core(new, (p_new, q_new)), "age": state["age"] + 1}
        return out, np.concatenate([new, q_new], 1), (x, h, p, u, new, p_new, state["age"])

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, p, u, new, p_new, age = cache
        d_h, (d_p, d_q) = d_state["core"]
        H = h.shape[1]
        d_q = d_q + d_y[:, H:]  # (3)
        d_p = d_p + 0.1 * d_q * u  # (2)
        d_z = (d_h + d_y[:, :H] + d_p) * (1 - new * new)  # (3), (2), (1)
        d_u = d_z + 0.1 * d_q * p_new  # (1), (2)
        d_params = {"U": x.T @ d_u, "R": h.T @ d_z, "w": (d_z * p).sum(0)}
        core = Core(d_z @ params["R"].T, (0.5 * d_p + d_z * params["w"], d_q))
        return d_params, {"core": core, "age": np.zeros(age.shape, x.dtype)}, d_u @ params["U"].T


class Metronome:
    """One of three matrices by turns: h' = tanh(x U + h R[k mod 3] + b[k mod 3]), k' = k + 1."""

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "b": rng.standard_normal((3, n_hidden)),
                "R": rng.standard_normal((3, n_hidden, n_hidden)) / np.sqrt(n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        return blank(params["b"], batch_size, params["b"].shape[1]), np.zeros(batch_size, int)

    def step(self, params, state, x):
        h, k = state
        beat = k % 3
        new = np.tanh(
            x @ params["U"] + np.einsum("bi,bij->bj", h, params["R"][beat]) + params["b"][beat]
        )
        return (new, k + 1), new, (x, h, beat, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, beat, new = cache
        d_z = (d_state[0] + d_y) * (1 - new * new)
        d_R, d_b = np.zeros_like(params["R"]), np.zeros_like(params["b"])
        np.add.at(d_R, beat, h[:, :, None] * d_z[:, None])
        np.add.at(d_b, beat, d_z)
        d_h = np.einsum("bj,bij->bi", d_z, params["R"][beat])
        d_before = d_h, np.zeros(beat.shape, x.dtype)
        return {"U": x.T @ d_z, "R": d_R, "b": d_b}, d_before, d_z @ params["U"].T


class MovingMoments:
    """No parameters: moving averages of the mean and of the mean square of the inputs.

    m' = 0.9 m + 0.1 mean x,  s' = 0.9 s + 0.1 mean x^2,  y = (m', s' - m'^2).
    """

    def init(self, rng, n_in, n_hidden):
        return {}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, 2))

    def step(self, params, state, x):
        now = np.stack([x.mean(1), (x * x).mean(1)], 1)
        new = (0.9 * state + 0.1 * now).astype(x.dtype)
        m, s = new.T
        return new, np.stack([m, s - m * m], 1), (x, m)

    def step_vjp(self, params, cache, d_state, d_y):
        x, m = cache
        d_m = d_state[:, 0] + d_y[:, 0] - 2 * m * d_y[:, 1]
        d_s = d_state[:, 1] + d_y[:, 1]
        d_x = 0.1 * (d_m[:, None] + 2 * x * d_s[:, None]) / x.shape[1]
        return {}, 0.9 * np.stack([d_m, d_s], 1), d_x


class Retained:
    """Rates strictly between 0 and 1: h' = r h + sqrt(1 - r^2) tanh(x U),  y = log(r) h'."""

    def init(self, rng, n_in, n_hidden):
        return {"r": rng.uniform(0.2, 0.8, n_hidden), "U": draw(rng, n_in, n_hidden)}

    def initial_state(self, params, batch_size):
        return blank(params["r"], batch_size, len(params["r"]))

    def step(self, params, h, x):
        r = params["r"]
        rest = np.sqrt(1 - r * r)
        c = np.tanh(x @ params["U"])
        new = r * h + rest * c
        return new, np.log(r) * new, (x, h, rest, c, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, rest, c, new = cache
        r = params["r"]
        d = d_state + d_y * np.log(r)
        d_c = d * rest * (1 - c * c)
        d_r = (d * h - d * c * r / rest + d_y * new / r).sum(0)
        return {"r": d_r, "U": x.T @ d_c}, r * d, d_c @ params["U"].T


class GeometricMean:
    """A positive state: h' = h^(1-a) g^a with g = log(1 + exp(x U + b)), a = sigmoid(w).

    The output is log h'. Backward:
    d log h = (1 - a) d log h',  d log g = a d log h',  d_a = sum (log g - log h) d log h'.
    """

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "b": np.ones(n_hidden), "w": np.zeros(n_hidden)}

    def initial_state(self, params, batch_size):
        return np.ones((batch_size, len(params["b"])), params["b"].dtype)

    def step(self, params, h, x):
        z = x @ params["U"] + params["b"]
        a = sigmoid(params["w"])
        g = np.logaddexp(0, z)
        log = (1 - a) * np.log(h) + a * np.log(g)
        new = np.exp(log)
        return new, log, (x, h, z, a, g, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z, a, g, new = cache
        d_log = d_state * new + d_y
        d_z = d_log * a / g * sigmoid(z)
        d_a = (d_log * (np.log(g) - np.log(h))).sum(0)
        d_params = {"U": x.T @ d_z, "b": d_z.sum(0), "w": d_a * a * (1 - a)}
        return d_params, d_log * (1 - a) / h, d_z @ params["U"].T


class TapLine:
    """The last four inputs and a kernel over them: y = sum_k past_k F_k + b;  no nonlinearity."""

    taps = 4

    def init(self, rng, n_in, n_hidden):
        return {"F": draw(rng, self.taps, n_in, n_hidden), "b": np.zeros(n_hidden)}

    def initial_state(self, params, batch_size):
        return blank(params["b"], batch_size, self.taps, params["F"].shape[1])

    def step(self, params, past, x):
        new = np.roll(past, -1, axis=1)
        new[:, -1] = x
        return new, np.tensordot(new, params["F"], 2) + params["b"], new

    def step_vjp(self, params, new, d_state, d_y):
        d = d_state + np.tensordot(d_y, params["F"], (1, 2))
        d_F = np.tensordot(new, d_y, (0, 0))
        d_past = np.concatenate([np.zeros_like(d[:, :1]), d[:, :-1]], 1)
        return {"F": d_F, "b": d_y.sum(0)}, d_past, d[:, -1]


CELLS = (Nested, Metronome, MovingMoments, Retained, GeometricMean, TapLine)
