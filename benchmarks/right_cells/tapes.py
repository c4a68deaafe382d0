"""Right layers that keep their records in other ways, or keep hardly any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.right_cells._parts import blank, draw


class Leaky:
    """The cell of the layers below: c = tanh(x U + h R + b), h' = 0.7 h + 0.3 c, y = h'."""

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "R": draw(rng, n_hidden, n_hidden),
                "b": np.zeros(n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        return blank(params["b"], batch_size, len(params["b"]))

    def step(self, params, h, x):
        c = np.tanh(x @ params["U"] + h @ params["R"] + params["b"])
        new = 0.7 * h + 0.3 * c
        return new, new, (x, h, c)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, c = cache
        d = d_state + d_y
        d_z = 0.3 * d * (1 - c * c)
        d_params = {"U": x.T @ d_z, "R": h.T @ d_z, "b": d_z.sum(0)}
        return d_params, 0.7 * d + d_z @ params["R"].T, d_z @ params["U"].T


CELL = Leaky()


class _OfLeaky:
    """What the layers of :class:`Leaky` share."""

    init, initial_state = Leaky.init, Leaky.initial_state
    reference = CELL

    @staticmethod
    def _zeros(params):
        return {key: np.zeros_like(value) for key, value in params.items()}


class SparseCheckpoints(_OfLeaky):
    """Keeps every fourth state and runs the steps between again on the way back; with masks."""

    every = 4

    def _next(self, params, h, x, real):
        new, _, cache = CELL.step(params, h, x)
        return np.where(real[:, None], new, h), cache

    def forward(self, params, xs, state0, mask=None):
        mask = np.ones(xs.shape[:2], bool) if mask is None else np.asarray(mask, bool)
        h, kept = state0, []
        ys = np.zeros((*xs.shape[:2], h.shape[1]), xs.dtype)
        for t in range(len(xs)):
            if t % self.every == 0:
                kept.append(h)
            h, _ = self._next(params, h, xs[t], mask[t])
            ys[t] = np.where(mask[t][:, None], h, 0)
        return ys, h.copy(), (xs, mask, kept)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, mask, kept = tape
        total, d_xs, d = self._zeros(params), np.zeros_like(xs), d_state_T
        for k in reversed(range(len(kept))):
            h, caches = kept[k], []
            steps = range(k * self.every, min((k + 1) * self.every, len(xs)))
            for t in steps:
                h, cache = self._next(params, h, xs[t], mask[t])
                caches.append(cache)
            for t in reversed(steps):
                real = mask[t][:, None]
                g, back, d_xs[t] = CELL.step_vjp(
                    params, caches[t - steps[0]], np.where(real, d, 0), np.where(real, d_ys[t], 0)
                )
                d = np.where(real, back, d)
                for key in total:
                    total[key] += g[key]
        return total, d_xs, d


class Reversible:
    """Keeps the last state alone and rebuilds the others: (h' - 0.3 c) / 0.7 needs c, hence pairs.

    a' = 0.9 a + tanh(b R + x U),  b' = 0.9 b + tanh(a' S + x V),  y = a' + b'.
    Backward b = (b' - tanh(a' S + x V)) / 0.9 comes first, then a. Digits are lost on the way: 300
    steps lose all sixteen (0.9^-300 is 5e13), and the gradient with them, so T is declared.
    """

    supports_mask = False
    lengths = (1, 2, 3, 5, 8, 12, 17, 33, 65, 129)
    r = 0.9

    def init(self, rng, n_in, n_hidden):
        return {"R": draw(rng, n_hidden, n_hidden), "S": draw(rng, n_hidden, n_hidden),
                "U": draw(rng, n_in, n_hidden), "V": draw(rng, n_in, n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        zeros = blank(params["R"], batch_size, len(params["R"]))
        return zeros, zeros.copy()

    def forward(self, params, xs, state0):
        a, b = state0
        ys = np.zeros((*xs.shape[:2], a.shape[1]), xs.dtype)
        for t, x in enumerate(xs):
            a = self.r * a + np.tanh(b @ params["R"] + x @ params["U"])
            b = self.r * b + np.tanh(a @ params["S"] + x @ params["V"])
            ys[t] = a + b
        return ys, (a.copy(), b.copy()), (xs, a, b)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, a, b = tape
        d_a, d_b = d_state_T
        g = {key: np.zeros_like(value) for key, value in params.items()}
        d_xs = np.zeros_like(xs)
        for t in reversed(range(len(xs))):
            x = xs[t]
            d_a, d_b = d_a + d_ys[t], d_b + d_ys[t]
            s = np.tanh(a @ params["S"] + x @ params["V"])
            b = (b - s) / self.r
            d_s = d_b * (1 - s * s)
            g["S"] += a.T @ d_s
            d_a = d_a + d_s @ params["S"].T
            c = np.tanh(b @ params["R"] + x @ params["U"])
            a = (a - c) / self.r
            d_c = d_a * (1 - c * c)
            g["R"] += b.T @ d_c
            g["U"] += x.T @ d_c
            g["V"] += x.T @ d_s
            d_xs[t] = d_c @ params["U"].T + d_s @ params["V"].T
            d_a, d_b = self.r * d_a, self.r * d_b + d_c @ params["R"].T
        return g, d_xs, (d_a, d_b)


@dataclass
class Records:
    """What :class:`RowsFirst` remembers, rows before steps."""

    x: Any
    h: Any
    c: Any
    real: Any


class RowsFirst(_OfLeaky):
    """Works with rows first, ``(B, T, .)``, and remembers in a dataclass; with masks."""

    def forward(self, params, xs, state0, mask=None):
        x = xs.transpose(1, 0, 2)
        B, T, _ = x.shape
        real = np.ones((B, T, 1), bool) if mask is None else np.asarray(mask, bool).T[..., None]
        h = np.zeros((B, T + 1, state0.shape[1]), xs.dtype)
        c = np.zeros((B, T, state0.shape[1]), xs.dtype)
        h[:, 0] = state0
        for t in range(T):
            c[:, t] = np.tanh(x[:, t] @ params["U"] + h[:, t] @ params["R"] + params["b"])
            h[:, t + 1] = np.where(real[:, t], 0.7 * h[:, t] + 0.3 * c[:, t], h[:, t])
        ys = np.where(real, h[:, 1:], 0).transpose(1, 0, 2)
        return ys, h[:, -1].copy(), Records(x, h, c, real)

    def vjp(self, params, tape, d_ys, d_state_T):
        d_z = np.zeros_like(tape.c)
        d = d_state_T
        for t in reversed(range(d_z.shape[1])):
            real = tape.real[:, t]
            full = d + d_ys[t]
            d_z[:, t] = np.where(real, 0.3 * full * (1 - tape.c[:, t] ** 2), 0)
            d = np.where(real, 0.7 * full + d_z[:, t] @ params["R"].T, d)
        d_params = {"U": np.tensordot(tape.x, d_z, ((0, 1), (0, 1))),
                    "R": np.tensordot(tape.h[:, :-1], d_z, ((0, 1), (0, 1))),
                    "b": d_z.sum((0, 1))}  # fmt: skip
        return d_params, (d_z @ params["U"].T).transpose(1, 0, 2), d


class ByGenerator(_OfLeaky):
    """The backward loop is a generator that is sent one cotangent of an output after the other."""

    supports_mask = False

    def forward(self, params, xs, state0):
        h, caches = state0, []
        ys = np.zeros((*xs.shape[:2], h.shape[1]), xs.dtype)
        for t, x in enumerate(xs):
            h, ys[t], cache = CELL.step(params, h, x)
            caches.append(cache)
        return ys, h.copy(), (xs, tuple(caches))

    def _backward(self, params, caches, d):
        given = yield None
        for cache in reversed(caches):
            g, d, d_x = CELL.step_vjp(params, cache, d, given)
            given = yield g, d_x, d

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, caches = tape
        loop = self._backward(params, caches, d_state_T)
        next(loop)
        total, d_xs, d = self._zeros(params), np.zeros_like(xs), d_state_T
        for t in reversed(range(len(xs))):
            g, d_xs[t], d = loop.send(d_ys[t])
            total = {key: total[key] + g[key] for key in total}
        return total, d_xs, d


class NeedsAStep(_OfLeaky):
    """Stacks its outputs, so that a sequence of no steps raises: a matter of conduct."""

    supports_mask = False

    def forward(self, params, xs, state0):
        h, ys, caches = state0, [], []
        for x in xs:
            h, y, cache = CELL.step(params, h, x)
            ys.append(y)
            caches.append(cache)
        return np.stack(ys), h, caches

    def vjp(self, params, tape, d_ys, d_state_T):
        total, d_xs, d = self._zeros(params), [], d_state_T
        for cache, d_y in zip(reversed(tape), d_ys[::-1], strict=True):
            g, d, d_x = CELL.step_vjp(params, cache, d, d_y)
            d_xs.insert(0, d_x)
            total = {key: total[key] + g[key] for key in total}
        return total, np.stack(d_xs), d


class RowByRow(_OfLeaky):
    """Runs each row over its own real steps alone and puts the results in place; with masks."""

    def forward(self, params, xs, state0, mask=None):
        T, B, _ = xs.shape
        mask = np.ones((T, B), bool) if mask is None else np.asarray(mask, bool)
        ys = np.zeros((T, B, state0.shape[1]), xs.dtype)
        final, tape = state0.copy(), []
        for b in range(B):
            steps, caches = np.flatnonzero(mask[:, b]), []
            h = state0[b : b + 1]
            for t in steps:
                h, y, cache = CELL.step(params, h, xs[t, b : b + 1])
                ys[t, b] = y[0]
                caches.append(cache)
            final[b] = h[0]
            tape.append((steps, caches))
        return ys, final, (xs, tape)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, rows = tape
        total, d_xs, d_state0 = self._zeros(params), np.zeros_like(xs), d_state_T.copy()
        for b, (steps, caches) in enumerate(rows):
            d = d_state_T[b : b + 1]
            for t, cache in zip(steps[::-1], caches[::-1], strict=True):
                g, d, d_x = CELL.step_vjp(params, cache, d, d_ys[t, b : b + 1])
                d_xs[t, b] = d_x[0]
                for key in total:
                    total[key] += g[key]
            d_state0[b] = d[0]
        return total, d_xs, d_state0


CELLS = (SparseCheckpoints, Reversible, RowsFirst, ByGenerator, NeedsAStep, RowByRow)
