"""Right cells whose numbers differ by many powers of ten."""

from __future__ import annotations

import numpy as np

from benchmarks.right_cells._parts import blank, draw


class ChargeAndCount:
    """A leaf near 1e-8 beside one near 1e8.

    c = tanh(1e8 q R + x U)                       (1)
    q' = 0.8 q + 1e-8 c                           (2)
    n' = 0.5 n + 1e8 exp(c)                       (3)
    y = 1e8 q' + 1e-8 n' g                        (4)
    """

    def init(self, rng, n_in, n_hidden):
        return {"R": draw(rng, n_hidden, n_hidden), "U": draw(rng, n_in, n_hidden),
                "g": np.ones(n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        zeros = blank(params["g"], batch_size, len(params["g"]))
        return {"charge": zeros, "count": zeros + params["g"].dtype.type(1e8)}

    def step(self, params, state, x):
        q, n = state["charge"], state["count"]
        c = np.tanh(1e8 * q @ params["R"] + x @ params["U"])  # (1)
        e = np.exp(c)
        q_new, n_new = 0.8 * q + 1e-8 * c, 0.5 * n + 1e8 * e  # (2), (3)
        y = 1e8 * q_new + 1e-8 * n_new * params["g"]  # (4)
        return {"charge": q_new, "count": n_new}, y, (x, q, c, e, n_new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, q, c, e, n_new = cache
        d_q = d_state["charge"] + 1e8 * d_y  # (4)
        d_n = d_state["count"] + 1e-8 * d_y * params["g"]  # (4)
        d_z = (1e-8 * d_q + 1e8 * e * d_n) * (1 - c * c)  # (2), (3), (1)
        d_params = {"R": 1e8 * q.T @ d_z, "U": x.T @ d_z, "g": 1e-8 * (d_y * n_new).sum(0)}
        d_before = {"charge": 0.8 * d_q + 1e8 * d_z @ params["R"].T, "count": 0.5 * d_n}
        return d_params, d_before, d_z @ params["U"].T


class Micrometres:
    """Weights near 1e-6 and near 1e6: z = 1e6 (x U) + h R,  h' = tanh z,  y = 1e-6 h' V."""

    def init(self, rng, n_in, n_hidden):
        return {"U": 1e-6 * draw(rng, n_in, n_hidden), "R": draw(rng, n_hidden, n_hidden),
                "V": 1e6 * draw(rng, n_hidden, n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        return blank(params["R"], batch_size, len(params["R"]))

    def step(self, params, h, x):
        new = np.tanh(1e6 * (x @ params["U"]) + h @ params["R"])
        return new, 1e-6 * (new @ params["V"]), (x, h, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, new = cache
        d_out = 1e-6 * d_y
        d_z = (d_state + d_out @ params["V"].T) * (1 - new * new)
        d_params = {"U": 1e6 * (x.T @ d_z), "R": h.T @ d_z, "V": new.T @ d_out}
        return d_params, d_z @ params["R"].T, 1e6 * (d_z @ params["U"].T)


class SlowUnits:
    """Time constants from 1 to 1e6: h' = h + (tanh(x U + h R) - h) / tau;  y = h'."""

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "R": draw(rng, n_hidden, n_hidden),
                "tau": np.logspace(0, 6, n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        return blank(params["tau"], batch_size, len(params["tau"]))

    def step(self, params, h, x):
        c = np.tanh(x @ params["U"] + h @ params["R"])
        new = h + (c - h) / params["tau"]
        return new, new, (x, h, c)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, c = cache
        d = d_state + d_y
        share = d / params["tau"]
        d_z = share * (1 - c * c)
        d_params = {"U": x.T @ d_z, "R": h.T @ d_z,
                    "tau": -(share * (c - h) / params["tau"]).sum(0)}  # fmt: skip
        return d_params, d - share + d_z @ params["R"].T, d_z @ params["U"].T


class MixedColumns:
    """Columns from 1e-6 to 1e6 in one leaf: h' = 0.7 h + s tanh(x U + h w / s), y = h'/s."""

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "w": rng.standard_normal(n_hidden)}

    def initial_state(self, params, batch_size):
        return blank(params["w"], batch_size, len(params["w"]))

    @staticmethod
    def _s(params):
        return np.logspace(-6, 6, len(params["w"])).astype(params["w"].dtype)

    def step(self, params, h, x):
        s = self._s(params)
        c = np.tanh(x @ params["U"] + h / s * params["w"])
        new = 0.7 * h + s * c
        return new, new / s, (x, h, s, c)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, s, c = cache
        d = d_state + d_y / s
        d_z = d * s * (1 - c * c)
        d_params = {"U": x.T @ d_z, "w": (d_z * h / s).sum(0)}
        return d_params, 0.7 * d + d_z * params["w"] / s, d_z @ params["U"].T


CELLS = (ChargeAndCount, Micrometres, SlowUnits, MixedColumns)
