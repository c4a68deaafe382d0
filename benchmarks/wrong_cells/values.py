"""Wrong for rare values: zero rows, tokens, large inputs, twins, one-sided cotangents."""

from __future__ import annotations

import numpy as np

from benchmarks.wrong_cells.base import WrongCell, at


def _slopes(cache, d_state, d_y):
    _, h, g, c = cache
    d = d_state + d_y
    return d * (h - c) * g * (1 - g), d * (1 - g) * (1 - c * c)


def _first_row_zero(xs):
    xs[:, 0] = 0
    return xs


def _tokens(xs):
    return np.eye(xs.shape[2])[np.arange(xs[..., 0].size).reshape(xs.shape[:2]) % xs.shape[2]]


def _twins(xs):
    xs[:, 1] = xs[:, 0]
    return xs


def _far_bias(params):
    return {**params, "a": params["a"] - 3, "b": params["b"] * 0 + [21, 0, 0, 0],
            "U": params["U"] * [30, 1, 1, 1]}  # fmt: skip


class ZeroRow(WrongCell):
    kind, where = "values", "a row of x that is all zero counts as padding: nothing for a and b"
    probe = at(x=_first_row_zero)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        real = cache[0].any(1)
        d_g, d_c = _slopes(cache, d_state, d_y)
        return {**d_params, "a": d_g[real].sum(0), "b": d_c[real].sum(0)}, d_h, d_x


class Tokens(WrongCell):
    kind, where = "values", "one-hot x: the look-up path adds to U by row, the last token wins"
    probe = at(x=_tokens, B=5)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        x = cache[0]
        if x.size and ((x == 0) | (x == 1)).all() and (x.sum(1) == 1).all():
            d_U = np.zeros_like(params["U"])
            d_U[x.argmax(1)] += _slopes(cache, d_state, d_y)[1]
            d_params = {**d_params, "U": d_U}
        return d_params, d_h, d_x


class BeyondFive(WrongCell):
    kind, where = "values", "|x| > 5: the input is clamped in the backward pass alone"
    probe = at(x=lambda xs: 4 * xs)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        d_g, _ = _slopes(cache, d_state, d_y)
        return {**d_params, "G": np.clip(cache[0], -5, 5).T @ d_g}, d_h, d_x


class BeyondTen(WrongCell):
    kind, where = "values", "|x| > 10: such an input gets no gradient"
    probe = at(x=lambda xs: 8 * xs)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        return d_params, d_h, d_x * (np.abs(cache[0]) <= 10)


class Twins(WrongCell):
    kind, where = "values", "equal rows of x are stored once: their gradients are not added up"
    probe = at(x=_twins)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        x = cache[0]
        first = np.unique(x, axis=0, return_index=True)[1] if len(x) else slice(None)
        return {**d_params, "U": x[first].T @ _slopes(cache, d_state, d_y)[1][first]}, d_h, d_x


class AllPositive(WrongCell):
    kind, where = "cotangents", "d_y without a negative entry: a is halved"
    probe = at(d_y=np.abs)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        if (d_y >= 0).all() and d_y.any():
            d_params = {**d_params, "a": 0.5 * d_params["a"]}
        return d_params, d_h, d_x


class FirstOutputOnly(WrongCell):
    kind, where = (
        "cotangents",
        "a cotangent of a single unit: R gets the column of that unit's input",
    )
    probe = at(T=1, d_y=lambda d: d * (np.arange(d.shape[-1]) == 1), d_T=np.zeros_like)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        live = (d_state + d_y).any(0)
        if live.sum() == 1 and len(live) > 1:
            d_h = d_h * live
        return d_params, d_h, d_x


class NoLossHere(WrongCell):
    kind, where = "cotangents", "d_y all zero: 'no loss at this step', so that S gets nothing"
    probe = at(d_y=lambda d: d * (np.arange(len(d)) == len(d) - 1)[:, None, None])

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        if not d_y.any():
            d_params = {**d_params, "S": np.zeros_like(d_params["S"])}
        return d_params, d_h, d_x


class LastStepCarry(WrongCell):
    kind, where = (
        "cotangents",
        "d_state all zero is taken for the last step: d_h has no direct term",
    )
    probe = at(d_T=np.zeros_like)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        if not d_state.any():
            d_h = d_h - d_y * cache[2]
        return d_params, d_h, d_x


class BothSaturated(WrongCell):
    kind, where = "values", "gate above 0.98 and candidate beyond 0.98 at once: the unit is skipped"
    probe = at(n_hidden=30, B=20, x=lambda xs: 4 * xs)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        _, _, g, c = cache
        both = (g > 0.98) & (np.abs(c) > 0.98)
        return d_params, d_h - both * (d_state + d_y) * g, d_x


class ClippedAtBillion(WrongCell):
    kind, where = "magnitude", "entries of d_params beyond 1e9 are clipped"
    probe = at(d_y=lambda d: 1e12 * d)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        return {key: np.clip(v, -1e9, 1e9) for key, v in d_params.items()}, d_h, d_x


class FlushedBelow(WrongCell):
    kind, where = "magnitude", "entries of d_x below 1e-30 are set to zero"
    probe = at(d_y=lambda d: 1e-33 * d, d_T=lambda d: 1e-33 * d)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        return d_params, d_h, np.where(np.abs(d_x) < 1e-30, 0, d_x)


class NoOverflow(WrongCell):
    kind, where = "magnitude", "a bias beyond 20 is taken for saturation: b gets nothing"
    probe = at(params=_far_bias, B=12, x=lambda xs: 3 * xs)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        return {**d_params, "b": d_params["b"] * (params["b"] <= 20)}, d_h, d_x


class SeventhDigit(WrongCell):
    kind, where = "magnitude", "1 - g is taken as 0.9999999 - g in float64, too"

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        _, h, g, c = cache
        d_c = (d_state + d_y) * (0.9999999 - g) * (1 - c * c)
        return {**d_params, "R": h.T @ d_c}, d_h, d_x


CELLS = (
    ZeroRow, Tokens, BeyondFive, BeyondTen, Twins, AllPositive, FirstOutputOnly, NoLossHere,
    LastStepCarry, BothSaturated, ClippedAtBillion, FlushedBelow, NoOverflow, SeventhDigit,
)  # fmt: skip
