"""Cells and layers with planted errors, in plain NumPy: a user's file, as the scripts import it.

Tests copy it, and set BROKEN to False in the copy to repair everything at once.
"""

from typing import NamedTuple

import numpy as np

BROKEN = True


class State(NamedTuple):
    h: np.ndarray
    c: np.ndarray


class Cell:
    """h' = tanh(x U + h W + b) + c / 10, c' = c / 2 + h', y = h'; W's gradient may be doubled."""

    def __init__(self, kind):
        self.kind = kind

    def pack(self, h, c, n):
        kinds = {
            "tuple": (h, c),
            "namedtuple": State(h, c),
            "dict": {"deep": (c,), "h": h},
            "counted": (h, c, n),
        }
        return kinds[self.kind]

    def unpack(self, state):
        if self.kind == "dict":
            return state["h"], state["deep"][0], None
        return (*state, None)[:3]

    def init(self, rng, n_in, n_hidden):
        draw = rng.standard_normal
        return {"U": draw((n_in, n_hidden)), "W": draw((n_hidden, n_hidden)), "b": draw(n_hidden)}

    def initial_state(self, params, batch_size):
        zero = np.zeros((batch_size, len(params["b"])), params["b"].dtype)
        return self.pack(zero, zero.copy(), np.zeros(batch_size, int))

    def step(self, params, state, x):
        h, c, n = self.unpack(state)
        a = np.tanh(x @ params["U"] + h @ params["W"] + params["b"])
        h_new = a + c / 10
        new = self.pack(h_new, c / 2 + h_new, None if n is None else n + 1)
        return new, h_new, (x, h, a, n)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, a, n = cache
        d_h, d_c, d_n = self.unpack(d_state)
        d_new = d_h + d_y + d_c
        if d_n is not None:  # zero by contract, whatever is returned for it below
            d_new = d_new + d_n[:, None].astype(x.dtype)
        d_z = d_new * (1 - a**2)
        d_W = h.T @ d_z * (2 if BROKEN else 1)
        d_params = {"U": x.T @ d_z, "W": d_W, "b": d_z.sum(0)}
        d_n = None if n is None else np.ones(n.shape, x.dtype)
        d_state = self.pack(d_z @ params["W"].T, d_c / 2 + d_new / 10, d_n)
        return d_params, d_state, d_z @ params["U"].T


class Plain:
    """h' = tanh(x U + h W + b), y = h'."""

    def init(self, rng, n_in, n_hidden):
        draw = rng.standard_normal
        return {"U": draw((n_in, n_hidden)), "W": draw((n_hidden, n_hidden)), "b": draw(n_hidden)}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b"])), params["b"].dtype)

    def step(self, params, state, x):
        h = np.tanh(x @ params["U"] + state @ params["W"] + params["b"])
        return h, h, (x, state, h)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h_prev, h = cache
        d_z = (d_state + d_y) * (1 - h**2)
        d_params = {"U": x.T @ d_z, "W": h_prev.T @ d_z, "b": d_z.sum(0)}
        return d_params, d_z @ params["W"].T, d_z @ params["U"].T


class Lossy(Plain):
    """d_x is halved."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, d_x / 2 if BROKEN else d_x


class Clipped(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, np.clip(d_h, -0.01, 0.01) if BROKEN else d_h, d_x


class Averaged(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "b": d_params["b"] / (len(d_x) if BROKEN else 1)}, d_h, d_x


class Mixed(Plain):
    """Every row sees the mean of the batch: the outputs themselves depend on the other rows."""

    def step(self, params, state, x):
        return super().step(params, state, x - x.mean(0) if BROKEN else x)


class Accumulating(Plain):
    def __init__(self):
        self.calls = 0

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        self.calls += 1
        return d_params, d_h * (self.calls if BROKEN else 1), d_x


class Raising(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        if BROKEN and len(d_y) == 1:
            raise RuntimeError("one row is too few")
        return super().step_vjp(params, cache, d_state, d_y)


class Misshapen(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "W": d_params["W"][:1] if BROKEN else d_params["W"]}, d_h, d_x


class Untraceable(Plain):
    """JAX declines it, so finite differences find the sign."""

    def step(self, params, state, x):
        z = x @ params["U"] + state @ params["W"] + params["b"]
        h = np.array([[float(np.tanh(value)) for value in row] for row in z], z.dtype)
        return h, h.copy(), (x, state, h)

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, -d_x if BROKEN else d_x


class Trainable(Plain):
    """The initial state is a parameter, whose gradient is doubled."""

    def init(self, rng, n_in, n_hidden):
        return {**super().init(rng, n_in, n_hidden), "h0": rng.standard_normal(n_hidden)}

    def initial_state(self, params, batch_size):
        return np.repeat(params["h0"][None], batch_size, axis=0)

    def initial_state_vjp(self, params, d_state0):
        zeros = {key: np.zeros_like(value) for key, value in params.items()}
        return {**zeros, "h0": d_state0.sum(0) * (2 if BROKEN else 1)}

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "h0": np.zeros_like(params["h0"])}, d_h, d_x


class Net:
    """The plain cell over a whole sequence, with one error of a loop over time."""

    def __init__(self, error):
        self.error = error
        self.cell = Plain()
        self.init, self.initial_state = self.cell.init, self.cell.initial_state

    def has(self, error):
        return BROKEN and self.error == error

    def forward(self, params, xs, state0, mask=None):
        state, caches = state0, []
        ys = np.zeros((*xs.shape[:2], len(params["b"])), xs.dtype)
        if mask is None or self.has("mask is ignored"):
            mask = np.ones(xs.shape[:2], bool)
        for t, real in enumerate(mask[:, :, None]):
            x = xs[t]
            if self.has("looks ahead") and t + 1 < len(xs):
                x = (x + xs[t + 1]) / 2
            new, y, cache = self.cell.step(params, state, x)
            state, ys[t] = np.where(real, new, state), np.where(real, y, 0)
            caches.append((cache, real))
        return ys, state, (caches, state0, xs)

    def vjp(self, params, tape, d_ys, d_state_T):
        caches, _, xs = tape
        d_params = {key: np.zeros_like(value) for key, value in params.items()}
        d_xs, d_state = np.zeros_like(xs), d_state_T
        if self.has("something from nothing") and not len(xs):
            d_params["b"] = d_params["b"] + 1
        for t in reversed(range(len(xs))):
            cache, real = caches[t]
            d_new, d_y = np.where(real, d_state, 0), np.where(real, d_ys[t], 0)
            share, d_h, d_xs[t] = self.cell.step_vjp(params, cache, d_new, d_y)
            d_state = d_h + np.where(real, 0, d_state)
            if self.has("truncated") and t < len(xs) - 2:
                d_state = 0 * d_state
            for key in params:
                d_params[key] += share[key]
        return d_params, d_xs, d_state


tuple_state = Cell("tuple")
namedtuple_state = Cell("namedtuple")
dict_state = Cell("dict")
counted_state = Cell("counted")
ignores_mask = Net("mask is ignored")
looks_ahead = Net("looks ahead")
from_nothing = Net("something from nothing")
truncated = Net("truncated")


class Rooms:
    class Inner:
        lossy = Lossy()


def make():
    return Lossy()
