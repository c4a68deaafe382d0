"""Wrong by what memory holds: layouts, shared buffers, rings, memos, counters, masks, padding."""

from __future__ import annotations

import numpy as np

from benchmarks.wrong_cells.base import (
    FUSED,
    GATE,
    WrongCell,
    WrongLayer,
    at,
    at_once,
    gap,
    problem,
)


def as_stored(a):
    """What code sees that reads the memory of an array from its start, row by row."""
    return np.asarray(a).ravel(order="K").reshape(np.shape(a))


class StoredCotangent(WrongLayer):
    kind, where = "layout", "d_ys not in C order (rows first, turned): read as it lies in memory"
    probe = at(d_y=lambda d: np.asfortranarray(d))

    def vjp(self, params, tape, d_ys, d_state_T):
        return self.right.vjp(params, tape, as_stored(d_ys), d_state_T)


class StoredInput(WrongLayer):
    kind, where = "layout", "xs not in C order: U is summed over xs as it lies in memory"
    probe = at(x=lambda xs: np.asfortranarray(xs))

    def change(self, params, tape, d_ys, d_state_T, d_params, d_xs, d_h):
        xs, hs, real = tape
        d_params["U"] = self.right.vjp(params, (as_stored(xs), hs, real), d_ys, d_state_T)[0]["U"]
        return d_params, d_xs, d_h


class StoredWeights(WrongCell):
    kind, where = "layout", "R in Fortran order is taken for the transpose that it might be"
    probe = at(params=lambda p: {**p, "R": np.asfortranarray(p["R"])})

    def step_vjp(self, params, cache, d_state, d_y):
        R = params["R"]
        back = R if R.flags.f_contiguous and not R.flags.c_contiguous else R.T
        d_params, d_h, d_x = self.right.step_vjp(params, cache, d_state, d_y)
        _, _, g, c = cache
        d_c = (d_state + d_y) * (1 - g) * (1 - c * c)
        return d_params, d_h + d_c @ (back - R.T), d_x


class ReadOnly(WrongLayer):
    kind, where = "layout", "a read-only d_state is taken for a constant zero"

    def vjp(self, params, tape, d_ys, d_state_T):
        given = d_state_T if d_state_T.flags.writeable else np.zeros_like(d_state_T)
        return self.right.vjp(params, tape, d_ys, given)

    def exposure(self):
        params, xs, h, d_ys, d_T = problem(FUSED)
        d_T.flags.writeable = False
        given = params, xs, h, d_ys, d_T
        return gap(at_once(self, *given), at_once(FUSED, *given))


class RingOfSix(WrongCell):
    kind, where = "buffers", "d_x comes from a ring of 6 buffers: seven results spoil the first"

    def __init__(self):
        self._ring, self._turn = {}, 0

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        self._turn += 1
        key = self._turn % 6, d_x.shape, d_x.dtype
        buffer = self._ring.setdefault(key, np.empty_like(d_x))
        buffer[...] = d_x
        return d_params, d_h, buffer

    def exposure(self):
        params, xs, h, d_ys, d_T = problem(GATE, T=9)
        kept, right = [], []
        for x, d_y in zip(xs, d_ys, strict=True):
            h, _, cache = self.step(params, h, x)
            kept.append(self.step_vjp(params, cache, d_T, d_y)[2])
            right.append(GATE.step_vjp(params, cache, d_T, d_y)[2])
        return gap([np.stack(kept)], [np.stack(right)])


class RingOfRecords(WrongCell):
    kind, where = "buffers", "records lie in a ring of 40: T > 40 reads those of later steps"
    probe = at(T=45)

    def __init__(self):
        self._ring, self._turn = {}, 0

    def step(self, params, state, x):
        new, y, cache = GATE.step(params, state, x)
        self._turn += 1
        key = self._turn % 40, x.shape, new.shape, x.dtype
        slot = self._ring.setdefault(key, [np.empty_like(part) for part in cache])
        for kept, part in zip(slot, cache, strict=True):
            kept[...] = part
        return new, y, tuple(slot)


class KeptTranspose(WrongCell):
    kind, where = "memo", "S^T is kept as long as S is the same object: stale once S is updated"

    def __init__(self):
        self._of, self._kept = None, None

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        if self._of is not params["S"]:
            self._of, self._kept = params["S"], params["S"].T.copy()
        _, h, g, c = cache
        d_g = (d_state + d_y) * (h - c) * g * (1 - g)
        return d_params, d_h + d_g @ (self._kept - params["S"].T), d_x

    def exposure(self):
        params, xs, h, d_ys, d_T = problem(GATE)
        _, _, cache = self.step(params, h, xs[0])
        self.step_vjp(params, cache, d_T, d_ys[0])
        params["S"] -= 0.4
        _, _, cache = self.step(params, h, xs[0])
        found = self.step_vjp(params, cache, d_T, d_ys[0])
        right = GATE.step_vjp(params, cache, d_T, d_ys[0])
        return gap([found[1]], [right[1]])


class SharedResult(WrongCell):
    kind, where = (
        "buffers",
        "d_state is d_y's own memory where shapes agree: adding to one adds to both",
    )

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        if d_y.flags.writeable and d_y.shape == d_h.shape:
            d_y[...] = d_h
            d_h = d_y
        return d_params, d_h, d_x

    def exposure(self):
        params, xs, h, d_ys, d_T = problem(GATE)
        _, _, cache = self.step(params, h, xs[0])
        before = d_ys[0].copy()
        self.step_vjp(params, cache, d_T, d_ys[0])
        return gap([d_ys[0]], [before])


class TiresAfterThousand(WrongCell):
    kind, where = "counters", "after 1,500 calls of step_vjp the gradient of G is dropped"

    def __init__(self):
        self._calls = 0

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        self._calls += 1
        if self._calls > 1500:
            d_params = {**d_params, "G": np.zeros_like(d_params["G"])}
        return d_params, d_h, d_x

    probe = at(T=1600, B=1)


class Counted:
    """:class:`Gate` with a step counter in the state; it does not touch the numbers."""

    init = staticmethod(GATE.init)

    def initial_state(self, params, batch_size):
        return GATE.initial_state(params, batch_size), np.zeros(batch_size, int)

    def step(self, params, state, x):
        new, y, cache = GATE.step(params, state[0], x)
        return (new, state[1] + 1), y, (cache, state[1])

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = GATE.step_vjp(params, cache[0], d_state[0], d_y)
        return d_params, (d_h, np.zeros(len(d_x), d_x.dtype)), d_x


class LateCounter(WrongCell):
    kind, where = "counters", "a counter in the state beyond 1,200: U's gradient is halved"
    right = Counted()

    def change(self, params, cache, d_state, d_y, d_params, d_h, d_x):
        if (cache[1] > 1200).any():
            d_params = {**d_params, "U": 0.5 * d_params["U"]}
        return d_params, d_h, d_x

    def exposure(self):
        params, xs, h, d_ys, d_T = problem(GATE)
        state, late = (h, np.full(3, 1300)), (d_T, np.zeros(3))
        _, _, cache = self.step(params, state, xs[0])
        found = self.step_vjp(params, cache, late, d_ys[0])[0]["U"]
        return gap([found], [self.right.step_vjp(params, cache, late, d_ys[0])[0]["U"]])


class Unwritten(WrongLayer):
    kind, where = "uninitialised", "d_xs is np.empty and is not written at masked steps"

    empty = staticmethod(np.empty_like)

    def change(self, params, tape, d_ys, d_state_T, d_params, d_xs, d_h):
        out = self.empty(d_xs)
        np.copyto(out, d_xs, where=tape[2])
        return d_params, out, d_h

    def exposure(self):
        # Stale memory may hold anything; here it holds 7.
        params, xs, h, d_ys, d_T = problem(FUSED)
        mask = np.arange(5)[:, None] < np.array([3, 4, 5])
        given = params, xs, h, d_ys, d_T, mask
        stale = Unwritten()
        stale.empty = lambda like: np.full_like(like, 7.0)
        return gap(at_once(stale, *given), at_once(FUSED, *given))


class IntegerMask(WrongLayer):
    kind, where = "masks", "a mask of integers: ~mask is -1 or -2, so that the carry is multiplied"

    def forward(self, params, xs, state0, mask=None):
        ys, state, tape = FUSED.forward(params, xs, state0, mask)
        return ys, state, (tape, mask)

    def vjp(self, params, tape, d_ys, d_state_T):
        kept, mask = tape
        d_params, d_xs, d_h = FUSED.vjp(params, kept, d_ys, d_state_T)
        if mask is not None and len(mask) and np.asarray(mask).dtype != bool:
            d_h = d_h * (~np.asarray(mask[0]))[:, None]
        return d_params, d_xs, d_h

    def exposure(self):
        params, xs, h, d_ys, d_T = problem(FUSED)
        mask = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1]])
        given = params, xs, h, d_ys, d_T, mask
        return gap(at_once(self, *given), at_once(FUSED, *given))


class PaddingTimesZero(WrongLayer):
    kind, where = (
        "masks",
        "NaN in the padding of d_ys: masked by a product, so that NaN comes through",
    )

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, real = tape
        d_z, d = np.zeros_like(hs[1:]), d_state_T
        for t in reversed(range(len(xs))):
            d_z[t] = real[t] * (d + d_ys[t]) * (1 - hs[t + 1] ** 2)
            d = np.where(real[t], d_z[t] @ params["R"].T, d)
        return FUSED.gathered(params, tape, d_z, d)

    def exposure(self):
        params, xs, h, d_ys, d_T = problem(FUSED)
        mask = np.arange(5)[:, None] < np.array([3, 4, 5])
        d_ys[~mask] = np.nan
        given = params, xs, h, d_ys, d_T, mask
        return gap(at_once(self, *given), at_once(FUSED, *given))


CELLS = (
    StoredCotangent, StoredInput, StoredWeights, ReadOnly, RingOfSix, RingOfRecords, KeptTranspose,
    SharedResult, TiresAfterThousand, LateCounter, Unwritten, IntegerMask, PaddingTimesZero,
)  # fmt: skip
