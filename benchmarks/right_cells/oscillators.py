"""Right cells that turn and swing: springs, complex numbers, quaternions, a Runge-Kutta step."""

from __future__ import annotations

import numpy as np

from benchmarks.right_cells._parts import blank, draw


class Springs:
    """v' = v + s (tanh(q R + x U + b) - k q - c v),  q' = q + s v',  y = q';  k, c are exp."""

    s = 0.1

    def init(self, rng, n_in, n_hidden):
        return {"R": draw(rng, n_hidden, n_hidden), "U": draw(rng, n_in, n_hidden),
                "b": np.zeros(n_hidden), "k": np.zeros(n_hidden),
                "c": np.full(n_hidden, -2.0)}  # fmt: skip

    def initial_state(self, params, batch_size):
        zeros = blank(params["b"], batch_size, len(params["b"]))
        return {"q": zeros, "v": zeros.copy()}

    def step(self, params, state, x):
        q, v = state["q"], state["v"]
        f = np.tanh(q @ params["R"] + x @ params["U"] + params["b"])
        k, c = np.exp(params["k"]), np.exp(params["c"])
        v_new = v + self.s * (f - k * q - c * v)
        q_new = q + self.s * v_new
        return {"q": q_new, "v": v_new}, q_new, (x, q, v, f, k, c)

    def step_vjp(self, params, cache, d_state, d_y):
        x, q, v, f, k, c = cache
        d_q = d_state["q"] + d_y
        d_v = d_state["v"] + self.s * d_q
        g = self.s * d_v
        d_z = g * (1 - f * f)
        d_params = {"R": q.T @ d_z, "U": x.T @ d_z, "b": d_z.sum(0),
                    "k": -(g * q).sum(0) * k, "c": -(g * v).sum(0) * c}  # fmt: skip
        d_before = {"q": d_q - g * k + d_z @ params["R"].T, "v": d_v - g * c}
        return d_params, d_before, d_z @ params["U"].T


class Rotor:
    """z' = exp(-exp(n) + i w) z + x (U + i V), kept as pairs of reals, computed as complex numbers.

    y = |z'|^2 / 2 + Re z'.  With D = d_a + i d_b:  d_z = conj(l) D,  d_l = conj(z) D.
    """

    def init(self, rng, n_in, n_hidden):
        return {"n": np.full(n_hidden, -1.0), "w": np.linspace(0.1, 2.0, n_hidden),
                "U": draw(rng, n_in, n_hidden), "V": draw(rng, n_in, n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        return blank(params["w"], batch_size, len(params["w"]), 2)

    def step(self, params, state, x):
        turn = np.exp(-np.exp(params["n"]) + 1j * params["w"])
        z = state[..., 0] + 1j * state[..., 1]
        new = turn * z + (x @ params["U"] + 1j * (x @ params["V"]))
        y = 0.5 * (new.real**2 + new.imag**2) + new.real
        return np.stack([new.real, new.imag], 2), y, (x, turn, z, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, turn, z, new = cache
        D = d_state[..., 0] + 1j * d_state[..., 1] + d_y * new + d_y
        d_z = turn.conj() * D
        # The derivative along log(turn): d_n takes its real part, d_w its imaginary part.
        d_log = (z.conj() * D).sum(0) * turn.conj()
        d_params = {"n": -d_log.real * np.exp(params["n"]), "w": d_log.imag,
                    "U": x.T @ D.real, "V": x.T @ D.imag}  # fmt: skip
        d_x = D.real @ params["U"].T + D.imag @ params["V"].T
        return d_params, np.stack([d_z.real, d_z.imag], 2), d_x


def _times(p, q):
    """The product of quaternions along the last axis."""
    a, b, c, d = np.moveaxis(p, -1, 0)
    e, f, g, h = np.moveaxis(q, -1, 0)
    return np.stack(
        [a * e - b * f - c * g - d * h, a * f + b * e + c * h - d * g,
         a * g - b * h + c * e + d * f, a * h + b * g - c * f + d * e], -1,
    )  # fmt: skip


def _conjugate(q):
    return q * np.array([1, -1, -1, -1], q.dtype)


class Attitude:
    """A quaternion turned by an angular velocity: q' = q (cos n, w sin(n) / n), w = x U, y = q'.

    n = sqrt(|w|^2 + e).  d_q = D conj(r),  d_r = conj(q) D with r the factor.
    """

    e = 1e-6

    def init(self, rng, n_in, n_hidden):
        return {"U": 0.5 * draw(rng, n_in, n_hidden, 3)}

    def initial_state(self, params, batch_size):
        q = blank(params["U"], batch_size, params["U"].shape[1], 4)
        q[..., 0] = 1
        return q

    def step(self, params, q, x):
        w = np.tensordot(x, params["U"], 1)
        n = np.sqrt((w * w).sum(-1, keepdims=True) + self.e)
        ratio = np.sin(n) / n
        r = np.concatenate([np.cos(n), w * ratio], -1)
        new = _times(q, r)
        return new, new.reshape(len(x), -1), (x, q, w, n, ratio, r)

    def step_vjp(self, params, cache, d_state, d_y):
        x, q, w, n, ratio, r = cache
        D = d_state + d_y.reshape(d_state.shape)
        d_r = _times(_conjugate(q), D)
        d_ratio = (d_r[..., 1:] * w).sum(-1, keepdims=True)
        d_n = -d_r[..., :1] * np.sin(n) + d_ratio * (np.cos(n) - ratio) / n
        d_w = d_r[..., 1:] * ratio + d_n * w / n
        d_x = np.tensordot(d_w, params["U"], ((1, 2), (1, 2)))
        return {"U": np.tensordot(x, d_w, (0, 0))}, _times(D, _conjugate(r)), d_x


class Pendulum:
    """Four stages of Runge and Kutta of q. = p, p. = -k sin q - c p + x U;  y = sin q'.

    Backward the stages run in reverse: stage j sends what it receives into k_j, and from there
    into the point at which it was taken.
    """

    s = 0.3
    nodes, weights = (0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "k": np.ones(n_hidden), "c": np.full(n_hidden, 0.1)}

    def initial_state(self, params, batch_size):
        zeros = blank(params["k"], batch_size, len(params["k"]))
        return zeros, zeros.copy()

    def step(self, params, state, x):
        u = x @ params["U"]
        stages, rates = [], []
        for node in self.nodes:
            q, p = state
            if rates:
                q, p = (v + self.s * node * r for v, r in zip(state, rates[-1], strict=True))
            stages.append((q, p))
            rates.append((p, u - params["k"] * np.sin(q) - params["c"] * p))
        new = tuple(
            v + self.s * sum(w * rate[i] for w, rate in zip(self.weights, rates, strict=True))
            for i, v in enumerate(state)
        )
        return new, np.sin(new[0]), (x, stages, new[0])

    def step_vjp(self, params, cache, d_state, d_y):
        x, stages, q_new = cache
        d_new = d_state[0] + d_y * np.cos(q_new), d_state[1]
        d_q, d_p = d_new
        d_u = d_k = d_c = 0
        later = None  # the cotangent of the point of the stage after
        for j in reversed(range(4)):
            q, p = stages[j]
            d_rq, d_rp = (self.s * self.weights[j] * d for d in d_new)
            if later is not None:
                reach = self.s * self.nodes[j + 1]
                d_rq, d_rp = d_rq + reach * later[0], d_rp + reach * later[1]
            later = -d_rp * params["k"] * np.cos(q), d_rq - params["c"] * d_rp
            d_q, d_p = d_q + later[0], d_p + later[1]
            d_u = d_u + d_rp
            d_k = d_k - (d_rp * np.sin(q)).sum(0)
            d_c = d_c - (d_rp * p).sum(0)
        return {"U": x.T @ d_u, "k": d_k, "c": d_c}, (d_q, d_p), d_u @ params["U"].T


CELLS = (Springs, Rotor, Attitude, Pendulum)
