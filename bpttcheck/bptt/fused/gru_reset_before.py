"""The gated recurrent unit with the reset before the product, over a whole sequence at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bpttcheck.bptt.fused import sequence
from bpttcheck.cells import GRUResetBefore
from bpttcheck.contract import Array, Params


class FusedGRUResetBeforeTape(NamedTuple):
    """The inputs, the states, the gates ``r, z, n`` of every step, the padding."""

    xs: Array
    hs: Array
    gates: Array
    padded: Array | None


@dataclass(frozen=True)
class FusedGRUResetBefore:
    """:class:`bpttcheck.cells.GRUResetBefore` over a whole sequence.

    Equation numbers of the cell stand in brackets. The logistic function is a scaled ``tanh``; the
    rows of the weights that belong to it are halved beforehand, which is exact::

        σ(a) = (1 + tanh(a / 2)) / 2                                              (1)

    Forward, with ``xs (T, B, N)``, all steps in one product::

        a    = xs @ W_ih.T + b                  [1]                               (2)

    and then for ``t = 0 .. T-1``, with ``h = hs[t]``::

        r, z = σ([a_r, a_z] + h @ W_g.T)        [2] to [4]                        (3)
        n    = tanh(a_n + (r * h) @ W_n.T)      [5]                               (4)
        hs[t+1] = n + z * (h - n)               [6]                               (5)

    Backward. Each cotangent of a pre-activation is ``d_h'`` or ``d_rh`` times a factor that needs
    no cotangent; the factors are found for many steps at once::

        k_n  = (1 - z) * (1 - n²)               [9], [11]                         (6)
        k_z  = (h - n) * z * (1 - z)            [10], [15]                        (7)
        k_r  = h * r * (1 - r)                  [13], [14]                        (8)

    Then for ``t = T-1 .. 0``, from ``d_h = d_state_T``::

        d_h' = d_h + d_ys[t]                    [8]                               (9)
        [d_a_z, d_a_n] = d_h' * [k_z, k_n]                                        (10)
        d_rh = d_a_n @ W_n                      [12]                              (11)
        d_a_r = d_rh * k_r                                                        (12)
        d_h  = [d_a_r, d_a_z] @ W_g             [16c]                             (13a)
             + d_h' * z                         [16a]                             (13b)
             + d_rh * r                         [16b]                             (13c)

    What does not feed back into the loop waits until after it. A sum over ``t`` of products over
    the batch is one product over all ``T B`` rows::

        d_W_g  = [d_a_r, d_a_z].T @ hs[:-1]     [17]                              (14)
        d_W_n  = d_a_n.T @ (r * hs[:-1])        [18]                              (15)
        d_W_ih = d_a.T @ xs                     [19]                              (16)
        d_b    = sum of d_a over t and rows     [20]                              (17)
        d_xs   = d_a @ W_ih                     [21]                              (18)

    A padded row is a row with ``z = 1``, ``r = n = 0``: (6) to (8) are then zero, and (13b) carries
    ``d_h``.

    The tape keeps ``4 T B H`` numbers. Parameters: those of the cell.

    Attributes:
        reference: the cell that this layer fuses.
    """

    reference: ClassVar[GRUResetBefore] = GRUResetBefore()
    supports_mask: ClassVar[bool] = True

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """The cell's fresh parameters."""
        return self.reference.init(rng, n_in, n_hidden)

    def initial_state(self, params: Params, batch_size: int) -> Array:
        """Zeros ``(B, H)``."""
        return self.reference.initial_state(params, batch_size)

    def forward(
        self, params: Params, xs: Array, state0: Array, mask: Array | None = None
    ) -> tuple[Array, Array, FusedGRUResetBeforeTape]:
        """All steps forward, equations (1) to (5): ``(ys, state_T, tape)``.

        Raises:
            ContractError: ``xs`` or ``mask`` has the wrong shape or dtype.
        """
        add, subtract, multiply, tanh, dot = np.add, np.subtract, np.multiply, np.tanh, np.dot
        xs, padded = sequence.without_padding(xs, mask)
        T, (B, H) = len(xs), state0.shape
        dtype = np.result_type(xs, params["W_hh"], state0)
        half, W_ih, b = np.array(0.5, dtype), params["W_ih"].copy(), params["b"].copy()
        W_g, W_n = params["W_hh"][: 2 * H].T.copy(), params["W_hh"][2 * H :].T.copy()
        for sigmoids in (W_ih[: 2 * H], b[: 2 * H], W_g):
            sigmoids *= half
        hs, gates = np.empty((T + 1, B, H), dtype), np.empty((T, 3, B, H), dtype)
        hs[0] = state0
        projected = np.empty((T, B, 3 * H), dtype)
        np.matmul(sequence.rows(xs), W_ih.T, out=sequence.rows(projected))
        projected += b  # (2)
        uv, (own, change) = np.empty((B, 2 * H), dtype), np.empty((2, B, H), dtype)
        u, v = sequence.gate_by_gate(uv, 2)
        a = sequence.gate_by_gate(projected, 3)
        steps = zip(
            *sequence.split(a),
            gates,
            gates[:, :2],
            *sequence.split(gates),
            hs[:-1],
            hs[1:],
            strict=True,
        )
        for t, (a_r, a_z, a_n, all_gates, rz, r, z, n, h, h_new) in enumerate(steps):
            dot(h, W_g, uv)
            add(a_r, u, r)
            add(a_z, v, z)
            tanh(rz, rz)
            multiply(rz, half, rz)
            add(rz, half, rz)  # (3)
            multiply(r, h, change)
            dot(change, W_n, own)
            add(a_n, own, n)
            tanh(n, n)  # (4)
            if padded is not None:
                np.copyto(all_gates, 0.0, where=padded[t])
                np.copyto(z, 1.0, where=padded[t])
            subtract(h, n, change)
            multiply(z, change, change)
            add(n, change, h_new)  # (5)
        tape = FusedGRUResetBeforeTape(xs, hs, gates, padded)
        return sequence.outputs(hs, padded), hs[T].copy(), tape

    def vjp(
        self, params: Params, tape: FusedGRUResetBeforeTape, d_ys: Array, d_state_T: Array
    ) -> tuple[Params, Array, Array]:
        """All steps backward, equations (6) to (18): ``(d_params, d_xs, d_state0)``.

        Raises:
            ContractError: ``d_ys`` has another shape than ``ys``.
        """
        T, B, H = len(tape.xs), *tape.hs.shape[1:]
        sequence.require_cotangents(d_ys, (T, B, H))
        d_a, d_state0 = self._pre_activations(params, tape, d_ys, d_state_T)
        d_rows, xs, hs = sequence.rows(d_a), tape.xs, tape.hs[:-1]
        d_W_hh = np.empty(params["W_hh"].shape, d_a.dtype)
        np.matmul(d_rows[:, : 2 * H].T, sequence.rows(hs), out=d_W_hh[: 2 * H])  # (14)
        r_h = sequence.rows(tape.gates[:, 0] * hs)
        np.matmul(d_rows[:, 2 * H :].T, r_h, out=d_W_hh[2 * H :])  # (15)
        d_params = {
            "W_ih": d_rows.T @ sequence.rows(xs),  # (16)
            "W_hh": d_W_hh,
            "b": sequence.sum_of_rows(d_rows),  # (17)
        }
        d_xs = (d_rows @ params["W_ih"]).reshape(xs.shape)  # (18)
        return d_params, d_xs, d_state0

    def tape_bytes(self, T: int, B: int, n_in: int, n_hidden: int, dtype: Any = "float64") -> int:
        """Bytes that the tape keeps beside ``xs``, which it only refers to; without a mask."""
        return (4 * T + 1) * B * n_hidden * np.dtype(dtype).itemsize

    def peak_bytes(self, T: int, B: int, n_in: int, n_hidden: int, dtype: Any = "float64") -> int:
        """Bytes at most in use, from forward to the end of backward: tape and results included."""
        ys, d_a, r_h, d_xs = (T * B * k for k in (n_hidden, 3 * n_hidden, n_hidden, n_in))
        weights = 3 * n_hidden * (2 * n_hidden + n_in)
        itemsize = np.dtype(dtype).itemsize
        blocks = _blocks(T, B * n_hidden * itemsize)
        factors = sequence.longest(blocks) * 3 * B * n_hidden
        size = (ys + d_a + max(r_h, d_xs, factors) + weights) * itemsize
        return size + self.tape_bytes(T, B, n_in, n_hidden, dtype)

    def _pre_activations(
        self, params: Params, tape: FusedGRUResetBeforeTape, d_ys: Array, d_state_T: Array
    ) -> tuple[Array, Array]:
        """Equations (6) to (13): ``(d_a, d_state0)``."""
        add, multiply, dot = np.add, np.multiply, np.dot
        T, B, H = d_ys.shape
        dtype = tape.hs.dtype
        d_ys = sequence.zero_where(d_ys, tape.padded)
        W_g, W_n = (np.ascontiguousarray(W) for W in np.split(params["W_hh"], [2 * H]))
        d_a = np.empty((T, B, 3 * H), dtype)
        d_h, direct, d_rh = np.array(d_state_T, dtype), *np.empty((2, B, H), dtype)
        blocks = _blocks(T, B * H * dtype.itemsize)
        factors = np.empty((sequence.longest(blocks), 3, B, H), dtype)
        for block in blocks:
            d, ks = d_a[block], factors[: block.stop - block.start]
            _factors(tape, block, ks)
            rs, zs, _ = sequence.split(tape.gates[block])
            d_by_gate = sequence.gate_by_gate(d, 3)
            steps = sequence.backward(
                d_ys[block], ks[:, 0], ks[:, 1:], d_by_gate[:, 0], d_by_gate[:, 1:],
                d[..., 2 * H :], d[..., : 2 * H], rs, zs,
            )  # fmt: skip
            for d_y, k_r, k_zn, d_r, d_zn, d_n, d_uv, r, z in steps:
                add(d_h, d_y, d_h)  # (9)
                multiply(k_zn, d_h, d_zn)  # (10)
                dot(d_n, W_n, d_rh)  # (11)
                multiply(d_rh, k_r, d_r)  # (12)
                multiply(d_h, z, direct)  # (13b)
                dot(d_uv, W_g, d_h)  # (13a)
                add(d_h, direct, d_h)
                multiply(d_rh, r, d_rh)  # (13c)
                add(d_h, d_rh, d_h)
        return d_a, d_h


def _blocks(T: int, state_bytes: int) -> list[slice]:
    # What the factors of a step read and write, in states.
    return sequence.blocks(T, 11 * state_bytes)


def _factors(tape: FusedGRUResetBeforeTape, block: slice, out: Array) -> None:
    """Equations (6) to (8) for some steps, in the order r, z, n."""
    h = tape.hs[:-1][block]
    r, z, n = sequence.split(tape.gates[block])
    k_r, k_z, k_n = sequence.split(out)
    np.subtract(1.0, z, out=k_z)
    np.multiply(n, n, out=k_n)
    np.subtract(1.0, k_n, out=k_n)
    np.multiply(k_n, k_z, out=k_n)  # (6)
    np.multiply(k_z, z, out=k_z)
    np.subtract(h, n, out=k_r)
    np.multiply(k_z, k_r, out=k_z)  # (7)
    np.subtract(1.0, r, out=k_r)
    np.multiply(k_r, r, out=k_r)
    np.multiply(k_r, h, out=k_r)  # (8)
