"""Right cells without a backward pass, each with operations that the others do not have."""

from typing import Any, NamedTuple

import numpy as np
from scipy import special


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def draw(rng, *shape):
    return rng.standard_normal(shape) / np.sqrt(shape[-1])


class Plain:
    def init(self, rng, n_in, H):
        return {"U": draw(rng, H, n_in), "W": draw(rng, H, H), "b": draw(rng, H)}

    def initial_state(self, params, B):
        W = params["W"]
        return np.zeros((B, len(W)), W.dtype)


class Joint(Plain):
    """One matrix for [x, h]; the cache holds them together only."""

    def init(self, rng, n_in, H):
        return {"W": draw(rng, H, n_in + H), "V": draw(rng, H, n_in + H), "b": draw(rng, H)}

    def step(self, params, h, x):
        xh = np.concatenate([x, h], axis=1)
        z = sigmoid(xh @ params["V"].T)
        n = np.tanh(xh @ params["W"].T + params["b"])
        h = (1 - z) * h + z * n
        return h, h, (xh, z, n)


class GatesBySlices(Plain):
    """Slices with sizes of its own, a dict for a state, and only the inputs in the cache."""

    def init(self, rng, n_in, H):
        return {"U": draw(rng, 4 * H, n_in), "W": draw(rng, 4 * H, H), "b": draw(rng, 4 * H)}

    def initial_state(self, p, B):
        zeros = np.zeros((B, p["W"].shape[1]), p["W"].dtype)
        return {"h": zeros, "c": zeros.copy()}

    def step(self, p, s, x):
        H = p["W"].shape[1]
        a = x @ p["U"].T + s["h"] @ p["W"].T + p["b"]
        i, f = special.expit(a[:, :H]), special.expit(a[:, H : 2 * H])
        o, g = special.expit(a[:, 2 * H : 3 * H]), np.tanh(a[:, 3 * H :])
        c = f * s["c"] + i * g
        h = o * np.tanh(c)
        return {"h": h, "c": c}, h, (s, x)


class Counted(NamedTuple):
    h: Any
    n: Any


class LayerNorm(Plain):
    """Means and roots, a NamedTuple with a counter, a dict for a cache."""

    def init(self, rng, n_in, H):
        return super().init(rng, n_in, H) | {"g": 1 + 0.1 * draw(rng, H)}

    def initial_state(self, p, B):
        return Counted(super().initial_state(p, B), np.zeros(B, int))

    def step(self, p, s, x):
        z = x @ p["U"].T + s.h @ p["W"].T
        m = z.mean(axis=1, keepdims=True)
        v = ((z - m) ** 2).mean(axis=1, keepdims=True)
        h = np.tanh(p["g"] * (z - m) / np.sqrt(v + 1e-3) + p["b"])
        return Counted(h, s.n + 1), h, {"x": x, "h": s.h}


class SoftmaxWrittenOut(Plain):
    """A number that follows from a size, a maximum, a sum over units."""

    def step(self, p, h, x):
        z = (x @ p["U"].T + h @ p["W"].T + p["b"]) / float(np.sqrt(h.shape[1]))
        e = np.exp(z - z.max(axis=1, keepdims=True))
        a = e / e.sum(axis=1, keepdims=True)
        return a, 2 * a, (x, h)


class Delta(Plain):
    """A matrix for a state, with einsum."""

    def init(self, rng, n_in, H):
        made = {key: draw(rng, H, n_in) for key in "KVQ"}
        return made | {"w": draw(rng, 1, n_in)}

    def initial_state(self, p, B):
        H = len(p["K"])
        return np.zeros((B, H, H), p["K"].dtype)

    def step(self, p, S, x):
        k = np.tanh(x @ p["K"].T) + 0.1
        k = k / np.sqrt(1 + (k**2).sum(axis=1, keepdims=True))
        v, q, beta = x @ p["V"].T, x @ p["Q"].T, sigmoid(x @ p["w"].T)
        old = np.einsum("bij,bj->bi", S, k)
        new = S + (beta * (v - old))[:, :, None] * k[:, None, :]
        return new, np.einsum("bij,bj->bi", new, q), (x, S)


class InPlace(Plain):
    """Sums and slices written in place."""

    def step(self, p, h, x):
        a = x @ p["U"].T
        a += h @ p["W"].T
        a += p["b"]
        out = np.empty_like(a)
        out[:, 0] = a[:, 0]
        out[:, 1:] = np.tanh(a[:, 1:])
        return out, out, (x, h, out)


class Heads(Plain):
    """Reshaped, products of stacks of matrices; even widths only."""

    sizes = ((3, 4), (5, 6), (2, 8), (3, 2))

    def step(self, p, h, x):
        B, H = h.shape
        z = np.tanh(x @ p["U"].T + h @ p["W"].T + p["b"])
        m = z.reshape(B, 2, H // 2)
        s = m @ np.swapaxes(m, 1, 2)
        y = np.swapaxes(special.softmax(s, axis=-1) @ m, 1, 2).reshape(B, H)
        return y, y, (x, h)


class Mixed(Plain):
    """Branches, clipping, stacks and statistics."""

    def step(self, params, h, x):
        z = x.dot(params["U"].T) + np.dot(h, params["W"].T)
        z = np.clip(z, -2, 2) + params["b"][None]
        q = np.where(z > 0, np.log1p(np.abs(z)), np.minimum(z, 0.5 * z))
        s = np.stack([q, h], axis=0).sum(axis=0)
        c = np.hstack([s, x])
        y = np.mean(c, axis=1)[:, None] * s + z.var(axis=1, keepdims=True)
        y = y + special.logsumexp(z, axis=1)[:, None]
        return np.tanh(s), y, (x, h)


class Picked(Plain):
    """Entries picked by number, one of them twice; a norm."""

    def step(self, params, h, x):
        z = np.tanh(x @ params["U"].T + h @ params["W"].T + params["b"])
        y = z[:, [0, -1, 0]] * h[:, :1]
        return z / (1 + np.linalg.norm(z, axis=1, keepdims=True)), y, (x, h)


class InputKept(Plain):
    """The input is a part of the state, and the output a part of it."""

    def initial_state(self, params, B):
        U = params["U"]
        return super().initial_state(params, B), np.zeros((B, U.shape[1]), U.dtype)

    def step(self, params, state, x):
        h, last = state
        n = np.tanh((x - last) @ params["U"].T + h @ params["W"].T + params["b"])
        return (n, x.copy()), h * 1, (x, last, h, n)


class Vectors(Plain):
    """Products of vectors and matrices, one of them symmetric and solved with."""

    def init(self, rng, n_in, H):
        return super().init(rng, n_in, H) | {"u": draw(rng, H), "v": draw(rng, H)}

    def step(self, p, h, x):
        u, v, W = p["u"], p["v"], p["W"]
        a = x @ p["U"].T + h @ W + u @ W + W @ v
        a = a + np.dot(u, v) + u @ (W @ v) + h @ np.outer(u, v) + (h @ u)[:, None]
        near = np.eye(len(u), dtype=u.dtype) + 0.1 * np.einsum("ij,kj", W, W)
        a = a + np.einsum("bi,i->b", h, v)[:, None] * np.linalg.solve(near, h.T).T
        new = np.tanh(a @ np.linalg.inv(near) + p["b"])
        return new, new, (x, h)


class Axes(Plain):
    """Axes moved, added and dropped, pieces split and put together, sums along the way."""

    sizes = ((3, 4), (5, 6), (2, 8))

    def step(self, p, h, x):
        z = x @ p["U"].T + h @ p["W"].T + p["b"]
        first, second = np.split(z, 2, axis=1)
        third, fourth = np.array_split(h, [1], axis=1)
        m = np.stack([first, second], axis=2)  # (B, H / 2, 2)
        m = np.moveaxis(m, 2, 0) + np.transpose(m, (2, 0, 1)).cumsum(axis=2)
        both = np.concatenate([m[0], np.squeeze(m[1:], axis=0)], axis=1)
        rows = np.vstack([both, third @ np.ones_like(both[:1])])
        rest = np.broadcast_to(fourth.std(axis=1, keepdims=True), both.shape)
        top = both.max(axis=1)[:, None] - both.min(axis=1, keepdims=True)
        y = special.log_softmax(rows[: len(both)], axis=1) + rest * np.expand_dims(top[:, 0], 1)
        new = np.array([np.tanh(y), both * 0.1])
        return new[0] + np.swapaxes(new[1], 0, 1).T, y, (x, h)


class Constants(Plain):
    """Arrays of the cell, keywords for keys, and a cache of which a part is not read."""

    def __init__(self):
        self.scale, self.wide = np.full((1, 1), 0.5), [np.arange(9.0)]

    def initial_state(self, params, B):
        return {"in": super().initial_state(params, B)}

    def step(self, params, s, x):
        a = x @ params["U"].T + s["in"] @ params["W"].T + params["b"]
        h = np.tanh(a) * self.scale
        return {"in": h}, h, {"x": x, "last": s["in"], "unread": 2 * a}


CELLS = {
    cell.__name__: cell
    for cell in (
        Joint, GatesBySlices, LayerNorm, SoftmaxWrittenOut, Delta, InPlace, Heads, Mixed, Picked,
        InputKept, Vectors, Axes, Constants,
    )
}  # fmt: skip


# Steps of which no backward pass is written.


class ByLoops(Plain):
    def step(self, params, h, x):
        a = x @ params["U"].T + params["b"]
        for k in range(h.shape[1]):
            a = a + h[:, k : k + 1] * params["W"][:, k]
        h = np.tanh(a)
        return h, h, (x, h)


class UnknownOperation(Plain):
    def step(self, params, h, x):
        h = np.tanh(x @ params["U"].T + h @ params["W"].T)
        h = h + np.sort(h, axis=1)
        return h, h, (x, h)


class NothingKept(Plain):
    def step(self, params, h, x):
        h = np.tanh(x @ params["U"].T + h @ params["W"].T + params["b"])
        return h, h, None


class Overwritten(Plain):
    def step(self, params, h, x):
        a = x @ params["U"].T + h @ params["W"].T
        first = a[:, :1]
        a *= 2
        h = np.tanh(a) + first
        return h, h, (x, h)


class BranchOnValues(Plain):
    def step(self, params, h, x):
        z = x @ params["U"].T + h @ params["W"].T
        h = np.tanh(z) if z.sum() > 0 else z
        return h, h, (x, h)


class TwoThings(Plain):
    def step(self, params, h, x):
        h = np.tanh(x @ params["U"].T + h @ params["W"].T)
        return h, h


class UnnamedNumbers(Constants):
    def step(self, params, s, x):
        new, y, cache = super().step(params, s, x)
        return new, y * np.outer(params["b"], 2 * self.wide[0])[:, 0], cache


class AnotherStructure(Constants):
    def step(self, params, s, x):
        new, y, cache = super().step(params, s, x)
        return new | {"more": y}, y, cache


class OnlyAProductKept(Plain):
    def step(self, params, h, x):
        a = x @ params["U"].T
        h = np.tanh(a + h @ params["W"].T)
        return h, h, (a, h)


class ByParity(Plain):
    sizes = ((2, 3), (3, 2), (4, 4))

    def step(self, params, h, x):
        a = x @ params["U"].T + h @ params["W"].T
        new = np.tanh(a) * (a, h)[h.shape[1] % 2]
        return new, new, (x, h)


class Callable(Plain):
    class Step:
        def __call__(self, params, h, x):
            return h, h, None

    step = Step()


class Raises(Plain):
    def step(self, params, h, x):
        raise ValueError("not yet")
