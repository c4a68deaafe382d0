"""What the wrong backward passes are made of: a right cell, a right layer, and how far one is off.

``exposure`` runs the wrong one and the right one where the wrong one is wrong and returns the
relative error of the worst block: the proof that it is a bug. It knows nothing of the checker; the
right ones are proved right by differences in ``tests/benchmarks/test_wrong_cells.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.right_cells._parts import blank, draw, flat, sigmoid


def at(**where: Any) -> Mapping[str, Any]:
    """Where a wrong one is wrong: keywords of :func:`problem`."""
    return MappingProxyType(where)


class Gate:
    """g = sigmoid(x G + h S + a), c = tanh(x U + h R + b), h' = g h + (1 - g) c, y = h'."""

    def init(self, rng, n_in, n_hidden):
        params = {name: draw(rng, n_in, n_hidden) for name in "GU"}
        params |= {name: draw(rng, n_hidden, n_hidden) for name in "SR"}
        return params | {name: 0.1 * rng.standard_normal(n_hidden) for name in "ab"}

    def initial_state(self, params, batch_size):
        return blank(params["b"], batch_size, len(params["b"]))

    def step(self, params, h, x):
        g = sigmoid(x @ params["G"] + h @ params["S"] + params["a"])
        c = np.tanh(x @ params["U"] + h @ params["R"] + params["b"])
        new = g * h + (1 - g) * c
        return new, new, (x, h, g, c)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, g, c = cache
        d = d_state + d_y
        d_g = d * (h - c) * g * (1 - g)
        d_c = d * (1 - g) * (1 - c * c)
        d_params = {"G": x.T @ d_g, "U": x.T @ d_c, "S": h.T @ d_g, "R": h.T @ d_c,
                    "a": d_g.sum(0), "b": d_c.sum(0)}  # fmt: skip
        d_h = d * g + d_g @ params["S"].T + d_c @ params["R"].T
        return d_params, d_h, d_g @ params["G"].T + d_c @ params["U"].T


class Simple:
    """The cell of the layer: h' = tanh(x U + h R + b), y = h'."""

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "R": draw(rng, n_hidden, n_hidden),
                "b": 0.1 * rng.standard_normal(n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        return blank(params["b"], batch_size, len(params["b"]))

    def step(self, params, h, x):
        new = np.tanh(x @ params["U"] + h @ params["R"] + params["b"])
        return new, new, (x, h, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, new = cache
        d_z = (d_state + d_y) * (1 - new * new)
        d_params = {"U": x.T @ d_z, "R": h.T @ d_z, "b": d_z.sum(0)}
        return d_params, d_z @ params["R"].T, d_z @ params["U"].T


class Fused:
    """:class:`Simple` over a sequence, with masks; the tape is ``(xs, hs, real)``."""

    init, initial_state = Simple.init, Simple.initial_state
    reference = Simple()

    def forward(self, params, xs, state0, mask=None):
        T, B, _ = xs.shape
        real = np.ones((T, B, 1), bool) if mask is None else np.asarray(mask, bool)[..., None]
        hs = np.empty((T + 1, *state0.shape), xs.dtype)
        hs[0] = state0
        for t in range(T):
            new = np.tanh(xs[t] @ params["U"] + hs[t] @ params["R"] + params["b"])
            hs[t + 1] = np.where(real[t], new, hs[t])
        return np.where(real, hs[1:], 0), hs[-1].copy(), (xs, hs, real)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, real = tape
        d_z, d = np.zeros_like(hs[1:]), d_state_T
        for t in reversed(range(len(xs))):
            d_z[t] = np.where(real[t], (d + d_ys[t]) * (1 - hs[t + 1] ** 2), 0)
            d = np.where(real[t], d_z[t] @ params["R"].T, d)
        return self.gathered(params, tape, d_z, d)

    @staticmethod
    def gathered(params, tape, d_z, d):
        """The three gradients from the cotangents of the pre-activations."""
        xs, hs, _ = tape
        d_params = {"U": flat(xs).T @ flat(d_z), "R": flat(hs[:-1]).T @ flat(d_z),
                    "b": d_z.sum((0, 1))}  # fmt: skip
        return d_params, d_z @ params["U"].T, d


GATE, FUSED = Gate(), Fused()


class WrongCell:
    """:class:`Gate` but for ``change``.

    ``probe`` says where it is wrong: sizes, and what becomes of inputs and cotangents.
    """

    kind, where = "", ""
    probe: Mapping[str, Any] = MappingProxyType({})
    right: Any = GATE

    def init(self, rng, n_in, n_hidden):
        return self.right.init(rng, n_in, n_hidden)

    def initial_state(self, params, batch_size):
        return self.right.initial_state(params, batch_size)

    def step(self, params, state, x):
        return self.right.step(params, state, x)

    def step_vjp(self, params, cache, d_state, d_y):
        right = self.right.step_vjp(params, cache, d_state, d_y)
        return self.change(params, cache, d_state, d_y, *right)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        return d_params, d_h, d_x

    def exposure(self) -> float:
        """The relative error of the worst block where this one is wrong."""
        params, xs, h, d_ys, d_T = problem(self.right, **self.probe)
        return gap(by_steps(self, params, xs, h, d_ys, d_T),
                   by_steps(self.right, params, xs, h, d_ys, d_T))  # fmt: skip


class WrongLayer:
    """:class:`Fused` but for ``change``; most of them replace ``vjp`` altogether."""

    kind, where = "", ""
    probe: Mapping[str, Any] = MappingProxyType({})
    right: Any = FUSED
    reference = Fused.reference

    def init(self, rng, n_in, n_hidden):
        return self.right.init(rng, n_in, n_hidden)

    def initial_state(self, params, batch_size):
        return self.right.initial_state(params, batch_size)

    def forward(self, params, xs, state0, mask=None):
        return self.right.forward(params, xs, state0, mask)

    def vjp(self, params, tape, d_ys, d_state_T):
        right = self.right.vjp(params, tape, d_ys, d_state_T)
        return self.change(params, tape, d_ys, d_state_T, *right)

    def change(self, params, tape, d_ys, d_state_T, d_params, d_xs, d_h):
        return d_params, d_xs, d_h

    def exposure(self) -> float:
        """The relative error of the worst block where this one is wrong."""
        params, xs, h, d_ys, d_T = problem(self.right, **self.probe)
        return gap(at_once(self, params, xs, h, d_ys, d_T),
                   at_once(self.right, params, xs, h, d_ys, d_T))  # fmt: skip


def problem(
    right: Any, T: int = 5, B: int = 3, n_in: int = 3, n_hidden: int = 4, x: Any = None,
    d_y: Any = None, d_T: Any = None, params: Any = None, seed: int = 0,
) -> tuple[Any, ...]:  # fmt: skip
    """Random values; ``x``, ``d_y``, ``d_T`` and ``params`` are what is done to them."""
    rng = np.random.default_rng(seed)
    drawn = right.init(rng, n_in, n_hidden)
    xs = rng.standard_normal((T, B, n_in))
    h = 0.5 * rng.standard_normal((B, n_hidden))
    d_ys = rng.standard_normal((T, B, n_hidden))
    d_last = rng.standard_normal((B, n_hidden))
    changes = (drawn, params), (xs, x), (h, None), (d_ys, d_y), (d_last, d_T)
    return tuple(value if how is None else how(value) for value, how in changes)


def by_steps(cell: Any, params: Any, xs: Any, h: Any, d_ys: Any, d: Any) -> list[Any]:
    """Every gradient of a cell over a sequence."""
    caches = []
    for x in xs:
        h, _, cache = cell.step(params, h, x)
        caches.append(cache)
    total = {key: np.zeros_like(value) for key, value in params.items()}
    d_xs: list[Any] = []
    for t in reversed(range(len(xs))):
        d_params, d, d_x = cell.step_vjp(params, caches[t], d, d_ys[t])
        total = {key: total[key] + d_params[key] for key in total}
        d_xs.append(d_x)
    return [*total.values(), np.stack(d_xs), d]


def at_once(layer: Any, params: Any, xs: Any, h: Any, d_ys: Any, d: Any, *mask: Any) -> list[Any]:
    """Every gradient of a layer over a sequence."""
    _, _, tape = layer.forward(params, xs, h, *mask)
    d_params, d_xs, d_h = layer.vjp(params, tape, d_ys, d)
    return [*(d_params[key] for key in params), d_xs, d_h]


def gap(found: list[Any], right: list[Any]) -> float:
    """The largest difference of any block, relative to the largest entry of the right one."""
    worst = 0.0
    for one, other in zip(found, right, strict=True):
        if not np.size(other):
            continue
        size = max(float(np.abs(other).max()), 1e-300)
        off = float(np.abs(np.asarray(one) - np.asarray(other)).max()) / size
        worst = max(worst, off if np.isfinite(off) else float("inf"))
    return worst
