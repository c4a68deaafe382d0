"""Right cells in other hands' NumPy: in place, by einsum, by loops, in another precision."""

from __future__ import annotations

import numpy as np

from benchmarks.right_cells._parts import blank, draw, sigmoid


class InPlace:
    """u = sigmoid(.), r = sigmoid(.), c = tanh(x C + (r h) D), h' = h + u (c - h), with ``out=``.

    The gates share one array ``(B, 2 H)``; every buffer is made again in each call.
    """

    def init(self, rng, n_in, n_hidden):
        return {"X": draw(rng, n_in, 2 * n_hidden), "H": draw(rng, n_hidden, 2 * n_hidden),
                "C": draw(rng, n_in, n_hidden), "D": draw(rng, n_hidden, n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        return blank(params["D"], batch_size, len(params["D"]))

    def step(self, params, h, x):
        n = h.shape[1]
        gates = x @ params["X"]
        gates += h @ params["H"]
        gates *= 0.5
        np.tanh(gates, out=gates)
        gates += 1
        gates *= 0.5
        u, r = gates[:, :n], gates[:, n:]
        kept = r * h
        c = x @ params["C"]
        c += kept @ params["D"]
        np.tanh(c, out=c)
        new = np.subtract(c, h)
        new *= u
        new += h
        return new, new.copy(), (x, h, gates, kept, c)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, gates, kept, c = cache
        n = h.shape[1]
        u, r = gates[:, :n], gates[:, n:]
        d = d_state + d_y
        d_c = d * u
        d_c *= 1 - np.square(c)
        d_gates = np.empty_like(gates)
        np.multiply(d, c - h, out=d_gates[:, :n])
        d_kept = d_c @ params["D"].T
        np.multiply(d_kept, h, out=d_gates[:, n:])
        d_gates *= gates
        d_gates *= 1 - gates
        d *= 1 - u
        d += d_kept * r
        d += d_gates @ params["H"].T
        d_params = {"X": x.T @ d_gates, "H": h.T @ d_gates, "C": x.T @ d_c, "D": kept.T @ d_c}
        return d_params, d, d_gates @ params["X"].T + d_c @ params["C"].T


class ByEinsum:
    """Four gates in one array: i, f, o by sigmoid, g by tanh;  c' = f c + i g, h' = o tanh c'."""

    def init(self, rng, n_in, n_hidden):
        return {"W": rng.standard_normal((4, n_in, n_hidden)) / np.sqrt(n_in),
                "R": rng.standard_normal((4, n_hidden, n_hidden)) / np.sqrt(n_hidden),
                "b": np.zeros((4, n_hidden))}  # fmt: skip

    def initial_state(self, params, batch_size):
        zeros = blank(params["b"], batch_size, params["b"].shape[1])
        return zeros, zeros.copy()

    def step(self, params, state, x):
        h, c = state
        z = np.einsum("bn,gnh->gbh", x, params["W"]) + np.einsum("bk,gkh->gbh", h, params["R"])
        z = z + params["b"][:, None]
        i, f, o = sigmoid(z[:3])
        g = np.tanh(z[3])
        new = f * c + i * g
        t = np.tanh(new)
        return (o * t, new), o * t, (x, h, c, i, f, o, g, t)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, c, i, f, o, g, t = cache
        d_h = d_state[0] + d_y
        d_c = d_state[1] + d_h * o * (1 - t**2)
        d_z = np.stack([d_c * g * i * (1 - i), d_c * c * f * (1 - f),
                        d_h * t * o * (1 - o), d_c * i * (1 - g**2)])  # fmt: skip
        d_params = {"W": np.einsum("bn,gbh->gnh", x, d_z), "R": np.einsum("bk,gbh->gkh", h, d_z),
                    "b": np.einsum("gbh->gh", d_z)}  # fmt: skip
        d_before = np.einsum("gbh,gkh->bk", d_z, params["R"]), d_c * f
        return d_params, d_before, np.einsum("gbh,gnh->bn", d_z, params["W"])


class ByLoops:
    """h'_j = tanh(sum_i x_i U_ij + w_j h_(j-1)), written with one loop in another; y = h'."""

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "w": rng.standard_normal(n_hidden)}

    def initial_state(self, params, batch_size):
        return blank(params["w"], batch_size, len(params["w"]))

    def step(self, params, h, x):
        U, w = params["U"], params["w"]
        new = np.zeros_like(h)
        for b in range(len(x)):
            for j in range(len(w)):
                total = w[j] * h[b, j - 1]
                for i in range(x.shape[1]):
                    total = total + x[b, i] * U[i, j]
                new[b, j] = np.tanh(total)
        return new, new.copy(), (x, h, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, new = cache
        U, w = params["U"], params["w"]
        d_U, d_w, d_h, d_x = (np.zeros_like(a) for a in (U, w, h, x))
        for b in range(len(x)):
            for j in range(len(w)):
                d_z = (d_state[b, j] + d_y[b, j]) * (1 - new[b, j] ** 2)
                d_w[j] += d_z * h[b, j - 1]
                d_h[b, j - 1] += d_z * w[j]
                for i in range(x.shape[1]):
                    d_U[i, j] += d_z * x[b, i]
                    d_x[b, i] += d_z * U[i, j]
        return {"U": d_U, "w": d_w}, d_h, d_x


class _Leaky:
    """h' = 0.6 h + 0.4 tanh(x U + h R), y = h': ``_step`` and ``_pull`` in any dtype."""

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "R": draw(rng, n_hidden, n_hidden)}

    def initial_state(self, params, batch_size):
        return blank(params["R"], batch_size, len(params["R"]))

    def _step(self, params, h, x):
        c = np.tanh(x @ params["U"] + h @ params["R"])
        return 0.6 * h + 0.4 * c, c

    def _pull(self, params, x, h, c, d):
        d_z = 0.4 * d * (1 - c * c)
        d_h = 0.6 * d + d_z @ params["R"].T
        return {"U": x.T @ d_z, "R": h.T @ d_z}, d_h, d_z @ params["U"].T


class DoubleWithin(_Leaky):
    """Computes in float64 whatever it is given, and returns the dtype that it was given."""

    def step(self, params, h, x):
        wide = {key: value.astype(float) for key, value in params.items()}
        new, c = self._step(wide, h.astype(float), x.astype(float))
        return new.astype(x.dtype), new.astype(x.dtype), (x, h, c)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, c = cache
        wide = {key: value.astype(float) for key, value in params.items()}
        d_params, d_h, d_x = self._pull(wide, x.astype(float), h.astype(float), c, d_state + d_y)
        narrow = {key: value.astype(x.dtype) for key, value in d_params.items()}
        return narrow, d_h.astype(x.dtype), d_x.astype(x.dtype)


class DoubleThroughout(_Leaky):
    """Its constants are float64 arrays: float32 does not stay float32, a matter of conduct."""

    keep, take = np.array([0.6]), np.array([0.4])

    def step(self, params, h, x):
        c = np.tanh(x @ params["U"] + h @ params["R"])
        new = self.keep * h + self.take * c
        return new, new, (x, h, c)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, c = cache
        d = d_state + d_y
        d_z = self.take * d * (1 - c * c)
        d_h = self.keep * d + d_z @ params["R"].T
        return {"U": x.T @ d_z, "R": h.T @ d_z}, d_h, d_z @ params["U"].T


class NoneForCounter(_Leaky):
    """Carries an integer and returns None for its cotangent: a matter of conduct."""

    def initial_state(self, params, batch_size):
        return super().initial_state(params, batch_size), np.zeros(batch_size, int)

    def step(self, params, state, x):
        h, k = state
        new, c = self._step(params, h, x)
        return (new, k + 1), new, (x, h, c)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, c = cache
        d_params, d_h, d_x = self._pull(params, x, h, c, d_state[0] + d_y)
        return d_params, (d_h, None), d_x


CELLS = (InPlace, ByEinsum, ByLoops, DoubleWithin, DoubleThroughout, NoneForCounter)
