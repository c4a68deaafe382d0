"""Right layers that treat the sequence as a whole: scans, transforms, products, sums."""

from __future__ import annotations

import numpy as np

from benchmarks.right_cells._parts import blank, draw, flat, sigmoid


class GatedSum:
    """The cell of the scan: g = sigmoid(x G + b), u = x U, h' = g h + u, y = h'."""

    def init(self, rng, n_in, n_hidden):
        return {"G": draw(rng, n_in, n_hidden), "b": np.ones(n_hidden),
                "U": draw(rng, n_in, n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        return blank(params["b"], batch_size, len(params["b"]))

    def step(self, params, h, x):
        g = sigmoid(x @ params["G"] + params["b"])
        new = g * h + x @ params["U"]
        return new, new, (x, h, g)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, g = cache
        d = d_state + d_y
        d_z = d * h * g * (1 - g)
        d_params = {"G": x.T @ d_z, "b": d_z.sum(0), "U": x.T @ d}
        return d_params, d * g, d_z @ params["G"].T + d @ params["U"].T


def _scan(a, b):
    """All ``h_t = a_t h_(t-1) + b_t`` from ``h_(-1) = 0`` in log2(T) rounds."""
    reach = 1
    while reach < len(a):
        b = np.concatenate([b[:reach], b[reach:] + a[reach:] * b[:-reach]])
        a = np.concatenate([a[:reach], a[reach:] * a[:-reach]])
        reach *= 2
    return b


class DoublingScan:
    """:class:`GatedSum` by a scan that doubles its reach, forward and backward, with masks.

    A masked step has g = 1 and u = 0. Backward, D_t = (d_y)_t + g_(t+1) D_(t+1) is a scan, too.
    """

    init, initial_state = GatedSum.init, GatedSum.initial_state
    reference = GatedSum()

    def forward(self, params, xs, state0, mask=None):
        real = np.ones((*xs.shape[:2], 1), xs.dtype) if mask is None else mask[..., None]
        real = real.astype(xs.dtype)
        g = sigmoid(xs @ params["G"] + params["b"])
        a = real * g + (1 - real)
        u = real * (xs @ params["U"])
        hs = _scan(np.concatenate([a[:1] * 0, a]), np.concatenate([state0[None], u]))
        return real * hs[1:], hs[-1].copy(), (xs, real, g, a, hs)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, real, g, a, hs = tape
        sent = np.concatenate([np.zeros_like(d_state_T)[None], real * d_ys])
        sent[-1] += d_state_T
        factors = np.concatenate([a, np.zeros_like(d_state_T)[None]])
        D = _scan(factors[::-1], sent[::-1])[::-1]
        d_u = real * D[1:]
        d_z = d_u * hs[:-1] * g * (1 - g)
        d_params = {"G": flat(xs).T @ flat(d_z), "b": d_z.sum((0, 1)), "U": flat(xs).T @ flat(d_u)}
        return d_params, d_z @ params["G"].T + d_u @ params["U"].T, D[0]


class LeakySum:
    """The cell of the filter: h' = r h + x U with r = sigmoid(p), y = h'."""

    def init(self, rng, n_in, n_hidden):
        return {"p": rng.standard_normal(n_hidden), "U": draw(rng, n_in, n_hidden)}

    def initial_state(self, params, batch_size):
        return blank(params["p"], batch_size, len(params["p"]))

    def step(self, params, h, x):
        r = sigmoid(params["p"])
        new = r * h + x @ params["U"]
        return new, new, (x, h, r)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, r = cache
        d = d_state + d_y
        return {"p": (d * h).sum(0) * r * (1 - r), "U": x.T @ d}, d * r, d @ params["U"].T


class FourierFilter:
    """:class:`LeakySum` as a convolution with r^0, r^1, ... by FFT; rounding reaches every step.

    y_t = sum_(s <= t) r^(t-s) u_s + r^(t+1) h_0.  Backward: d_u is the correlation with the
    same kernel; d_kernel_k = sum_t D_t u_(t-k), with h_0 as an input before the first.
    """

    init, initial_state = LeakySum.init, LeakySum.initial_state
    reference = LeakySum()
    supports_mask = False

    def forward(self, params, xs, state0):
        T = len(xs)
        r = sigmoid(params["p"])
        powers = np.arange(T + 1, dtype=xs.dtype)[:, None]
        kernel = r**powers
        u = np.concatenate([state0[None], xs @ params["U"]])
        size = 2 * (T + 1)
        spectrum = np.fft.rfft(kernel, size, axis=0)[:, None]
        hs = np.fft.irfft(np.fft.rfft(u, size, axis=0) * spectrum, size, axis=0)[: T + 1]
        hs = hs.astype(xs.dtype)
        return hs[1:], hs[-1].copy(), (xs, u, r, powers, spectrum)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, u, r, powers, spectrum = tape
        T, size = len(xs), 2 * (len(xs) + 1)
        D = np.concatenate([np.zeros_like(d_state_T)[None], d_ys])
        D[-1] += d_state_T
        F = np.fft.rfft(D, size, axis=0)
        d_u = np.fft.irfft(F * spectrum.conj(), size, axis=0)[: T + 1].astype(xs.dtype)
        along = (F * np.fft.rfft(u, size, axis=0).conj()).sum(1)
        d_kernel = np.fft.irfft(along, size, axis=0)[: T + 1].astype(xs.dtype)
        d_r = (d_kernel[1:] * powers[1:] * r ** powers[:-1]).sum(0)
        d_params = {"p": d_r * r * (1 - r), "U": flat(xs).T @ flat(d_u[1:])}
        return d_params, d_u[1:] @ params["U"].T, d_u[0]


class FadingMemory:
    """The cell of the square form: S' = c S + k^T v, y = q S', with c = 0.8."""

    c = 0.8

    def init(self, rng, n_in, n_hidden):
        return {name: draw(rng, n_in, n_hidden) for name in "KVQ"}

    def initial_state(self, params, batch_size):
        d = params["K"].shape[1]
        return blank(params["K"], batch_size, d, d)

    def step(self, params, S, x):
        k, v, q = (x @ params[name] for name in "KVQ")
        new = self.c * S + k[:, :, None] * v[:, None]
        return new, np.einsum("bi,bij->bj", q, new), (x, k, v, q, new)

    def step_vjp(self, params, cache, d_S, d_y):
        x, k, v, q, new = cache
        d = d_S + q[:, :, None] * d_y[:, None]
        parts = {"K": np.einsum("bij,bj->bi", d, v), "V": np.einsum("bij,bi->bj", d, k),
                 "Q": np.einsum("bj,bij->bi", d_y, new)}  # fmt: skip
        d_x = sum(d_z @ params[name].T for name, d_z in parts.items())
        return {name: x.T @ d_z for name, d_z in parts.items()}, self.c * d, d_x


class SquareForm:
    """:class:`FadingMemory` as attention: Y = ((Q K^T) * M) V + c^(t+1) q S_0.

    M_ts = c^(t-s) where t >= s.
    S_T = c^T S_0 + sum_s c^(T-1-s) k_s^T v_s.
    """

    init, initial_state = FadingMemory.init, FadingMemory.initial_state
    reference = FadingMemory()
    supports_mask = False

    def _weights(self, T, dtype):
        t = np.arange(T)
        gap = t[:, None] - t
        M = np.where(gap >= 0, 0.8 ** np.maximum(gap, 0), 0).astype(dtype)
        return M, (0.8 ** (t + 1)).astype(dtype), (0.8 ** (T - 1 - t)).astype(dtype)

    def forward(self, params, xs, state0):
        k, v, q = (xs @ params[name] for name in "KVQ")
        M, ahead, left = self._weights(len(xs), xs.dtype)
        A = np.einsum("tbi,sbi->bts", q, k) * M
        ys = np.einsum("bts,sbj->tbj", A, v) + np.einsum("t,tbi,bij->tbj", ahead, q, state0)
        S = xs.dtype.type(0.8 ** len(xs)) * state0 + np.einsum("s,sbi,sbj->bij", left, k, v)
        return ys, S, (xs, k, v, q, A, state0)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, k, v, q, A, S0 = tape
        M, ahead, left = self._weights(len(xs), xs.dtype)
        d_A = np.einsum("tbj,sbj->bts", d_ys, v) * M
        d_q = np.einsum("bts,sbi->tbi", d_A, k) + np.einsum("t,tbj,bij->tbi", ahead, d_ys, S0)
        d_k = np.einsum("bts,tbi->sbi", d_A, q) + np.einsum("s,bij,sbj->sbi", left, d_state_T, v)
        d_v = np.einsum("bts,tbj->sbj", A, d_ys) + np.einsum("s,bij,sbi->sbj", left, d_state_T, k)
        d_S0 = xs.dtype.type(0.8 ** len(xs)) * d_state_T
        d_S0 = d_S0 + np.einsum("t,tbi,tbj->bij", ahead, q, d_ys)
        parts = {"K": d_k, "V": d_v, "Q": d_q}
        d_xs = sum(d_z @ params[name].T for name, d_z in parts.items())
        return {name: flat(xs).T @ flat(d_z) for name, d_z in parts.items()}, d_xs, d_S0


class RunningMean:
    """No reference: y_t is the mean of all x U so far, by cumsum; the state: a sum and a count."""

    supports_mask = False

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden)}

    def initial_state(self, params, batch_size):
        return {"sum": blank(params["U"], batch_size, params["U"].shape[1]),
                "count": np.zeros(batch_size, int)}  # fmt: skip

    def forward(self, params, xs, state0):
        sums = np.cumsum(np.concatenate([state0["sum"][None], xs @ params["U"]]), 0)
        counts = state0["count"] + np.arange(1, len(xs) + 1)[:, None]
        ys = sums[1:] / counts[..., None].astype(xs.dtype)
        final = {"sum": sums[-1].copy(), "count": state0["count"] + len(xs)}
        return ys, final, (xs, counts)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, counts = tape
        d_sums = d_ys / counts[..., None].astype(xs.dtype)
        d_u = np.cumsum(d_sums[::-1], 0)[::-1] + d_state_T["sum"]
        d_before = {
            "sum": d_sums.sum(0) + d_state_T["sum"],
            "count": np.zeros(xs.shape[1], xs.dtype),
        }
        return {"U": flat(xs).T @ flat(d_u)}, d_u @ params["U"].T, d_before


CELLS = (DoublingScan, FourierFilter, SquareForm, RunningMean)
