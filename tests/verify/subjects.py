"""Right cells and a right layer, which tests spoil."""

import numpy as np


class Plain:
    """h' = tanh(U x + W h + b), y = h', right."""

    def init(self, rng, n_in, n_hidden):
        shapes = {"W": (n_hidden, n_hidden), "U": (n_hidden, n_in), "b": (n_hidden,)}
        return {k: rng.standard_normal(s) / np.sqrt(s[-1]) for k, s in shapes.items()}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b"])), params["b"].dtype)

    def step(self, params, state, x):
        h = np.tanh(x @ params["U"].T + state @ params["W"].T + params["b"])
        return h, h, (x, state, h)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h_prev, h = cache
        d_z = (d_state + d_y) * (1 - h**2)
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h_prev, "b": d_z.sum(axis=0)}
        return d_params, d_z @ params["W"], d_z @ params["U"]


class PlainLayer(Plain):
    """The same over time, right; a masked step keeps the state and outputs zero."""

    step = step_vjp = None

    def forward(self, params, xs, state0, mask=None):
        mask = np.ones(xs.shape[:2], bool) if mask is None else np.asarray(mask, bool)
        hs = [state0]
        for x, real in zip(xs, mask[:, :, None], strict=True):
            new = np.tanh(x @ params["U"].T + hs[-1] @ params["W"].T + params["b"])
            hs.append(np.where(real, new, hs[-1]))
        hs = np.stack(hs)
        return hs[1:] * mask[:, :, None], hs[-1].copy(), (xs, hs, mask)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, mask = tape
        d_zs, d_h = np.zeros_like(hs[1:]), d_state_T
        for t in reversed(range(len(xs))):
            d_zs[t] = (d_h + d_ys[t]) * (1 - hs[t + 1] ** 2) * mask[t][:, None]
            d_h = np.where(mask[t][:, None], d_zs[t] @ params["W"], d_h)
        return self.gradients(xs, hs, d_zs), d_zs @ params["U"], d_h

    def gradients(self, xs, hs, d_zs):
        return {
            "U": np.einsum("tbi,tbj->ij", d_zs, xs),
            "W": np.einsum("tbi,tbj->ij", d_zs, hs[:-1]),
            "b": d_zs.sum(axis=(0, 1)),
        }


class Elementwise(Plain):
    """h' = f(U x + W h + b), y = h', right: f is tanh unless a subclass has another."""

    def step(self, params, state, x):
        z = x @ params["U"].T + state @ params["W"].T + params["b"]
        h = self.value(z)
        return h, h, (x, state, z, h)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h_prev, z, h = cache
        d_z = (d_state + d_y) * self.slope(z, h)
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h_prev, "b": d_z.sum(axis=0)}
        return d_params, d_z @ params["W"], d_z @ params["U"]

    def value(self, z):
        return np.tanh(z)

    def slope(self, z, h):
        return 1 - h**2


class Relu(Elementwise):
    """f is max(z, 0), of slope ``at_zero`` at zero: anything from 0 to 1 is right."""

    at_zero = 0.0

    def value(self, z):
        return np.where(z > 0, z, 0 * z)

    def slope(self, z, h):
        return np.where(z > 0, 1, np.where(z == 0, self.at_zero, 0)).astype(z.dtype)


def relu(at_zero):
    return type("Relu", (Relu,), {"at_zero": at_zero})()


def in_memory_order(array):
    """What code sees that takes the pointer and believes in C order."""
    return np.ravel(array, order="K").reshape(array.shape)


class Normalised(Plain):
    """h' = tanh(g n + b), y = h', with n = U x + W h normalised over the units, right."""

    def init(self, rng, n_in, n_hidden):
        U = rng.standard_normal((n_in, n_hidden)) / np.sqrt(n_in)
        W = rng.standard_normal((n_hidden, n_hidden)) / np.sqrt(n_hidden)
        g = np.ones(n_hidden) + 0.1 * rng.standard_normal(n_hidden)
        return {"U": U, "W": W, "g": g, "b": 0.1 * rng.standard_normal(n_hidden)}

    def step(self, params, state, x):
        a = x @ params["U"] + state @ params["W"]
        c = a - a.mean(axis=1, keepdims=True)
        s = np.sqrt((c * c).mean(axis=1, keepdims=True) + 1e-3)
        h = np.tanh(c / s * params["g"] + params["b"])
        return h, h, (x, state, c / s, s, h)

    def step_vjp(self, params, cache, d_state, d_y):
        x, state, n, s, h = cache
        d_z = (d_state + d_y) * (1 - h * h)
        d_a = self.normalised_back(d_z * params["g"], n, s)
        d_params = {"U": x.T @ d_a, "W": state.T @ d_a, "g": (d_z * n).sum(0), "b": d_z.sum(0)}
        return d_params, d_a @ params["W"].T, d_a @ params["U"].T

    def normalised_back(self, d_n, n, s):
        return (d_n - d_n.mean(1, keepdims=True) - n * (d_n * n).mean(1, keepdims=True)) / s
