"""Wrong from some size on, or at multiples of one: rows, units, inputs, steps, their product."""

from __future__ import annotations

import numpy as np

from benchmarks.right_cells._parts import flat
from benchmarks.wrong_cells.base import WrongCell, WrongLayer, at


class FifthRow(WrongCell):
    kind, where = "rows", "B >= 5: rows from the fifth on give nothing to R"
    probe = at(B=6)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        x, h, g, c = cache
        if len(x) >= 5:
            d_c = (d_state + d_y) * (1 - g) * (1 - c * c)
            d_params["R"] = h[:4].T @ d_c[:4]
        return d_params, d_h, d_x


class NinthRowAgain(WrongCell):
    kind, where = "rows", "B >= 9: the ninth row is added to the bias twice"
    probe = at(B=10)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        _, _, g, c = cache
        if len(c) > 8:
            d_params["b"] = d_params["b"] + ((d_state + d_y) * (1 - g) * (1 - c * c))[8]
        return d_params, d_h, d_x


class SeventeenRows(WrongCell):
    kind, where = "rows", "B > 16: blocks of 16 rows, the rest of the last block gets no d_x"
    probe = at(B=18)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        if len(d_x) > 16:
            d_x = d_x.copy()
            d_x[len(d_x) // 16 * 16 :] = 0
        return d_params, d_h, d_x


class ThirtyThreeRows(WrongCell):
    kind, where = "rows", "B > 32: the second warp writes over the sum of the first"
    probe = at(B=40)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        _, h, g, c = cache
        if len(h) > 32:
            d_g = (d_state + d_y) * (h - c) * g * (1 - g)
            d_params["S"] = h[32:].T @ d_g[32:]
        return d_params, d_h, d_x


class EightUnits(WrongCell):
    kind, where = (
        "units",
        "H > 8 and no multiple of 8: the last, shorter tile of d_state is missing",
    )
    probe = at(n_hidden=11)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        H = d_h.shape[1]
        if H > 8 and H % 8:
            d_h = d_h.copy()
            d_h[:, H - H % 8 :] = 0
        return d_params, d_h, d_x


class ThirtyThreeUnits(WrongCell):
    kind, where = "units", "H >= 33: the bias of unit 32 is that of unit 0"
    probe = at(n_hidden=35)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        if len(d_params["b"]) >= 33:
            d_params["b"][32] = d_params["b"][0]
        return d_params, d_h, d_x


class SixtyFiveUnits(WrongCell):
    kind, where = "units", "H > 64: the product with R^T sums the first 64 units"
    probe = at(n_hidden=66)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        _, _, g, c = cache
        if d_h.shape[1] > 64:
            d_c = (d_state + d_y) * (1 - g) * (1 - c * c)
            d_h = d_h - d_c[:, 64:] @ params["R"].T[64:]
        return d_params, d_h, d_x


class WideUnits(WrongCell):
    kind, where = "units", "H >= 128: the fast path leaves out the slope of the gate"
    probe = at(n_hidden=130)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        x, h, _, c = cache
        if h.shape[1] >= 2**7:
            d_params["G"] = x.T @ ((d_state + d_y) * (h - c) * 0.25)
        return d_params, d_h, d_x


class NineInputs(WrongCell):
    kind, where = "inputs", "n_in > 8: inputs from the ninth on give nothing to U"
    probe = at(n_in=10)

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        if d_x.shape[1] > 8:
            d_params["U"][8:] = 0
        return d_params, d_h, d_x


class EverySixteen(WrongLayer):
    kind, where = "steps", "T a multiple of 16: the first step gives nothing to b"
    probe = at(T=32)

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_h = self.right.vjp(params, tape, d_ys, d_state_T)
        T = len(d_xs)
        if T and T % 16 == 0:
            _, later, _ = self.right.vjp(params, tape, d_ys, d_state_T)
            d_z0 = np.linalg.lstsq(params["U"], later[0].T, rcond=None)[0].T
            d_params["b"] = d_params["b"] - d_z0.sum(0)
        return d_params, d_xs, d_h


class EveryThirtyTwo(WrongLayer):
    kind, where = "steps", "T a multiple of 32: d_xs of the last step is left at zero"
    probe = at(T=64)

    def change(self, params, tape, d_ys, d_state_T, d_params, d_xs, d_h):
        if len(d_xs) and not len(d_xs) & 31:
            d_xs[-1] = 0
        return d_params, d_xs, d_h


class _Cut(WrongLayer):
    """The carry is lost where a chunk of ``chunk`` steps ends."""

    chunk = 64

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, real = tape
        d_z, d = np.zeros_like(hs[1:]), d_state_T
        for t in reversed(range(len(xs))):
            d_z[t] = np.where(real[t], (d + d_ys[t]) * (1 - hs[t + 1] ** 2), 0)
            d = np.where(real[t], d_z[t] @ params["R"].T, d)
            if t and t % self.chunk == 0:
                d = np.zeros_like(d)
        return self.right.gathered(params, tape, d_z, d)


class ChunksOf64(_Cut):
    kind, where = "steps", "T > 64: the carry is lost between chunks of 64 steps"
    probe = at(T=70)


class ChunksOf256(_Cut):
    kind, where = "steps", "T > 256: the carry is lost between chunks of 256 steps"
    probe, chunk = at(T=260), 256


class ChunksOf512(_Cut):
    kind, where = "steps", "T > 512: the carry is lost between chunks of 512 steps"
    probe, chunk = at(T=516), 512


class FirstThousandRows(WrongLayer):
    kind, where = "rows and steps", "T B > 1024: b is summed over the first 1024 rows of (T B, H)"
    probe = at(T=60, B=20)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, real = tape
        d_z, d = np.zeros_like(hs[1:]), d_state_T
        for t in reversed(range(len(xs))):
            d_z[t] = np.where(real[t], (d + d_ys[t]) * (1 - hs[t + 1] ** 2), 0)
            d = np.where(real[t], d_z[t] @ params["R"].T, d)
        d_params, d_xs, d_h = self.right.gathered(params, tape, d_z, d)
        return {**d_params, "b": flat(d_z)[:1024].sum(0)}, d_xs, d_h


CELLS = (
    FifthRow, NinthRowAgain, SeventeenRows, ThirtyThreeRows, EightUnits, ThirtyThreeUnits,
    SixtyFiveUnits, WideUnits, NineInputs, EverySixteen, EveryThirtyTwo, ChunksOf64, ChunksOf256,
    ChunksOf512, FirstThousandRows,
)  # fmt: skip
