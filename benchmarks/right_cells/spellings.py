"""Right cells that write elementary functions and their slopes in other exact ways."""

from __future__ import annotations

import numpy as np
from scipy.special import erf

from benchmarks.right_cells._parts import blank, draw


class _Simple:
    """``z = x U + h R + b``: parameters and state of the cells below."""

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "R": draw(rng, n_hidden, n_hidden),
                "b": 0.1 * rng.standard_normal(n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        return blank(params["b"], batch_size, len(params["b"]))

    @staticmethod
    def pre(params, h, x):
        return x @ params["U"] + h @ params["R"] + params["b"]

    @staticmethod
    def pull(params, x, h, d_z):
        d_params = {"U": x.T @ d_z, "R": h.T @ d_z, "b": d_z.sum(0)}
        return d_params, d_z @ params["R"].T, d_z @ params["U"].T


class TanhByExponentials(_Simple):
    """h' = 2 / (1 + exp(-2 z)) - 1, whose slope is written 1 / cosh(z)^2."""

    def step(self, params, h, x):
        z = self.pre(params, h, x)
        with np.errstate(over="ignore"):
            new = 2 / (1 + np.exp(-2 * z)) - 1
        return new, new, (x, h, z)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z = cache
        with np.errstate(over="ignore"):
            slope = 1 / np.cosh(z) ** 2
        return self.pull(params, x, h, (d_state + d_y) * slope)


class TwoSigmoids:
    """A gate and its complement, each by an exponential of its own.

    g = 1 / (1 + exp(-z)), 1 - g = 1 / (1 + exp(z)),  h' = g h + (1 - g) tanh(x V),  y = h'.
    The slope of g is e / (1 + e)^2 with e = exp(-|z|).
    """

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "R": draw(rng, n_hidden, n_hidden),
                "V": draw(rng, n_in, n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        return blank(params["R"], batch_size, len(params["R"]))

    def step(self, params, h, x):
        z = x @ params["U"] + h @ params["R"]
        c = np.tanh(x @ params["V"])
        with np.errstate(over="ignore"):
            g, rest = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))
        new = g * h + rest * c
        return new, new, (x, h, z, c, g, rest)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z, c, g, rest = cache
        d = d_state + d_y
        e = np.exp(-np.abs(z))
        d_z = d * (h - c) * e / (1 + e) ** 2
        d_c = d * rest * (1 - c * c)
        d_params = {"U": x.T @ d_z, "R": h.T @ d_z, "V": x.T @ d_c}
        d_x = d_z @ params["U"].T + d_c @ params["V"].T
        return d_params, d * g + d_z @ params["R"].T, d_x


class SlopeOfValue(_Simple):
    """h' = log(1 + exp z) with its slope from its own value, 1 - exp(-h');  y = 1 / (1 + h')."""

    def step(self, params, h, x):
        z = self.pre(params, h, x)
        new = np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))
        y = 1 / (1 + new)
        return new, y, (x, h, new, y)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, new, y = cache
        slope = -np.expm1(-new)
        return self.pull(params, x, h, (d_state - d_y * y * y) * slope)


class ErrorFunction(_Simple):
    """h' = 0.5 h + z P(z), P normal, by erf;  slope P + z exp(-z^2/2)/sqrt(2 pi)."""

    def step(self, params, h, x):
        z = self.pre(params, h, x)
        P = (0.5 * (1 + erf(z / np.sqrt(2)))).astype(x.dtype)
        new = 0.5 * h + z * P
        return new, new, (x, h, z, P)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z, P = cache
        d = d_state + d_y
        slope = P + z * np.exp(-0.5 * z * z) / x.dtype.type(np.sqrt(2 * np.pi))
        d_params, d_h, d_x = self.pull(params, x, h, d * slope)
        return d_params, d_h + 0.5 * d, d_x


class LogCosh(_Simple):
    """h' = arctan z, slope cos(h')^2;  y = log cosh h' by log-sum-exp, slope tanh."""

    def step(self, params, h, x):
        new = np.arctan(self.pre(params, h, x))
        return new, np.logaddexp(new, -new) - np.log(2).astype(x.dtype), (x, h, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, new = cache
        return self.pull(params, x, h, (d_state + d_y * np.tanh(new)) * np.cos(new) ** 2)


CELLS = (TanhByExponentials, TwoSigmoids, SlopeOfValue, ErrorFunction, LogCosh)
