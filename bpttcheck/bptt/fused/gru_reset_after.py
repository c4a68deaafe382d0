"""The gated recurrent unit with the reset after the product, over a whole sequence at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bpttcheck.bptt.fused import sequence
from bpttcheck.cells import GRUResetAfter
from bpttcheck.contract import Array, Params

# Stacked as n, r, z, q, both [d_a_n, d_a_r, d_a_z] and [d_a_r, d_a_z, d_q] are neighbours.
_PACK, _UNPACK = [2, 0, 1], [1, 2, 0]


class FusedGRUResetAfterTape(NamedTuple):
    """The inputs, the states, the gates ``r, z, n``, what ``r`` scales, the padding."""

    xs: Array
    hs: Array
    gates: Array
    qs: Array
    padded: Array | None


@dataclass(frozen=True)
class FusedGRUResetAfter:
    """:class:`bpttcheck.cells.GRUResetAfter` over a whole sequence.

    Equation numbers of the cell stand in brackets. The logistic function is a scaled ``tanh``; the
    rows of the weights that belong to it are halved beforehand, which is exact::

        σ(a) = (1 + tanh(a / 2)) / 2                                              (1)

    Forward, with ``xs (T, B, N)``, many steps in one product::

        a    = xs @ W_ih.T + b                  [1]                               (2)

    and then for ``t = 0 .. T-1``, with ``h = hs[t]``::

        s    = h @ W_hh.T                       [2]                               (3)
        r, z = σ(a_r + s_r), σ(a_z + s_z)       [3], [4]                          (4)
        q    = s_n + b_hn                       [5]                               (5)
        n    = tanh(a_n + r * q)                [6]                               (6)
        hs[t+1] = n + z * (h - n)               [7]                               (7)

    Backward. Every cotangent is ``d_h'`` times a factor that needs no cotangent; the factors are
    found for many steps at once::

        k_n  = (1 - z) * (1 - n²)               [10], [12]                        (8)
        k_q  = k_n * r                          [14]                              (9)
        k_r  = k_n * q * r * (1 - r)            [13], [16]                        (10)
        k_z  = (h - n) * z * (1 - z)            [11], [15]                        (11)

    Then for ``t = T-1 .. 0``, from ``d_h = d_state_T``::

        d_h' = d_h + d_ys[t]                    [9]                               (12)
        [d_a_n, d_a_r, d_a_z, d_q] = d_h' * [k_n, k_r, k_z, k_q]                  (13)
        d_s  = [d_a_r, d_a_z, d_q]
        d_h  = d_s @ W_hh                       [22b]                             (14a)
             + d_h' * z                         [22a]                             (14b)

    What does not feed back into the loop waits until after it. A sum over ``t`` of products over
    the batch is one product over all rows of many steps::

        d_W_ih = d_a.T @ xs                     [18]                              (15)
        d_W_hh = d_s.T @ hs[:-1]                [21]                              (16)
        d_b, d_b_hn = sums of d_a, d_q          [19], [17]                        (17)
        d_xs   = d_a @ W_ih                     [20]                              (18)

    Many steps are a block of them, whose ``a``, or ``d_a`` and factors, are used up while they are
    in a core's cache, and then overwritten by the next: fresh memory costs more than to add up the
    products of a few blocks.

    A padded row is a row with ``z = 1``, ``r = q = n = 0``: (8) to (11) are then zero, and (14b)
    carries ``d_h``.

    The tape keeps ``5 T B H`` numbers. Parameters: those of the cell.

    Attributes:
        reference: the cell that this layer fuses.
    """

    reference: ClassVar[GRUResetAfter] = GRUResetAfter()
    supports_mask: ClassVar[bool] = True

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """The cell's fresh parameters."""
        return self.reference.init(rng, n_in, n_hidden)

    def initial_state(self, params: Params, batch_size: int) -> Array:
        """Zeros ``(B, H)``."""
        return self.reference.initial_state(params, batch_size)

    def forward(
        self, params: Params, xs: Array, state0: Array, mask: Array | None = None
    ) -> tuple[Array, Array, FusedGRUResetAfterTape]:
        """All steps forward, equations (1) to (7): ``(ys, state_T, tape)``.

        Raises:
            ContractError: ``xs`` or ``mask`` has the wrong shape or dtype.
        """
        add, subtract, multiply, tanh, dot = np.add, np.subtract, np.multiply, np.tanh, np.dot
        xs, padded = sequence.without_padding(xs, mask)
        T, (B, H) = len(xs), state0.shape
        dtype = np.result_type(xs, params["W_hh"], state0)
        half, W_ih, b = np.array(0.5, dtype), params["W_ih"].copy(), params["b"].copy()
        b_hn, W_T = params["b_hn"], params["W_hh"].T.copy()
        for sigmoids in (W_ih[: 2 * H], b[: 2 * H], W_T[:, : 2 * H]):
            sigmoids *= half
        hs, qs = np.empty((T + 1, B, H), dtype), np.empty((T, B, H), dtype)
        hs[0], gates = state0, np.empty((T, 3, B, H), dtype)
        blocks = _blocks(T, B, H, dtype)
        projected = np.empty((sequence.longest(blocks), B, 3 * H), dtype)
        s, change = np.empty((B, 3 * H), dtype), np.empty((B, H), dtype)
        s_by_gate = sequence.gate_by_gate(s, 3)
        s_rz, s_n = s_by_gate[:2], s_by_gate[2]
        h, pads = hs[0], [None] * T if padded is None else padded
        for block in reversed(blocks):
            a = projected[: block.stop - block.start]
            np.matmul(sequence.rows(xs[block]), W_ih.T, out=sequence.rows(a))
            np.add(a, b, out=a)  # (2)
            rzn = gates[block]
            steps = zip(
                a, sequence.gate_by_gate(a, 3)[:, 2], rzn, rzn[:, :2], *sequence.split(rzn),
                qs[block], hs[1:][block], pads[block], strict=True,
            )  # fmt: skip
            for own, a_n, all_gates, rz, r, z, n, q, h_new, pad in steps:
                dot(h, W_T, s)  # (3)
                add(s_n, b_hn, q)  # (5)
                add(s, own, s)
                tanh(s_rz, rz)
                multiply(rz, half, rz)
                add(rz, half, rz)  # (4)
                multiply(r, q, change)
                add(a_n, change, n)
                tanh(n, n)  # (6)
                if pad is not None:
                    np.copyto(all_gates, 0.0, where=pad)
                    np.copyto(z, 1.0, where=pad)
                    np.copyto(q, 0.0, where=pad)
                subtract(h, n, change)
                multiply(z, change, change)
                add(n, change, h_new)  # (7)
                h = h_new
        tape = FusedGRUResetAfterTape(xs, hs, gates, qs, padded)
        return sequence.outputs(hs, padded), hs[T].copy(), tape

    def vjp(
        self, params: Params, tape: FusedGRUResetAfterTape, d_ys: Array, d_state_T: Array
    ) -> tuple[Params, Array, Array]:
        """All steps backward, equations (8) to (18): ``(d_params, d_xs, d_state0)``.

        Raises:
            ContractError: ``d_ys`` has another shape than ``ys``.
        """
        sequence.require_cotangents(d_ys, tape.qs.shape)
        xs, dtype, (T, B, H) = tape.xs, tape.hs.dtype, d_ys.shape
        d_ys = sequence.zero_where(d_ys, tape.padded)
        W_ih, W_hh = sequence.repacked(params["W_ih"], _PACK), np.ascontiguousarray(params["W_hh"])
        d_W_ih, d_W_hh = np.zeros(W_ih.shape, dtype), np.zeros(W_hh.shape, dtype)
        sums, d_xs = np.zeros(4 * H, dtype), np.empty(xs.shape, dtype)
        blocks = _blocks(T, B, H, dtype)
        workspace = np.empty((2, sequence.longest(blocks), B, 4 * H), dtype)
        d_h = np.array(d_state_T, dtype)
        for block in blocks:
            d_all, factors = workspace[:, : block.stop - block.start]
            self._pre_activations(tape, block, W_hh, d_ys, d_h, factors, d_all)
            d_rows = sequence.rows(d_all)
            d_a, d_s = d_rows[:, : 3 * H], d_rows[:, H:]
            sequence.add_product(d_W_ih, d_a, sequence.rows(xs[block]))  # (15)
            sequence.add_product(d_W_hh, d_s, sequence.rows(tape.hs[:-1][block]))  # (16)
            np.add(sums, sequence.sum_of_rows(d_rows), out=sums)  # (17)
            np.matmul(d_a, W_ih, out=sequence.rows(d_xs[block]))  # (18)
        d_params = {
            "W_ih": sequence.repacked(d_W_ih, _UNPACK),
            "W_hh": d_W_hh,
            "b": sequence.repacked(sums[: 3 * H], _UNPACK),
            "b_hn": sums[3 * H :].copy(),
        }
        return d_params, d_xs, d_h

    def tape_bytes(self, T: int, B: int, n_in: int, n_hidden: int, dtype: Any = "float64") -> int:
        """Bytes that the tape keeps beside ``xs``, which it only refers to; without a mask."""
        return (5 * T + 1) * B * n_hidden * np.dtype(dtype).itemsize

    def peak_bytes(self, T: int, B: int, n_in: int, n_hidden: int, dtype: Any = "float64") -> int:
        """Bytes at most in use, from forward to the end of backward: tape and results included."""
        itemsize, steps = np.dtype(dtype).itemsize, T * B * n_hidden
        weights = 3 * n_hidden * (3 * n_hidden + 5 * n_in)
        workspace = sequence.longest(_blocks(T, B, n_hidden, dtype)) * 8 * B * n_hidden
        size = (steps + T * B * n_in + weights + workspace) * itemsize
        return size + self.tape_bytes(T, B, n_in, n_hidden, dtype)

    def _pre_activations(
        self,
        tape: FusedGRUResetAfterTape,
        block: slice,
        W_hh: Array,
        d_ys: Array,
        d_h: Array,
        factors: Array,
        out: Array,
    ) -> None:
        """Equations (8) to (14) of a block; ``d_h`` of the steps after it becomes its own."""
        add, multiply, dot = np.add, np.multiply, np.dot
        _, B, H = d_ys.shape
        ks = factors.reshape(len(factors), 4, B, H)
        _factors(tape, block, ks)
        direct = np.empty_like(d_h)
        d_by_gate, zs = sequence.gate_by_gate(out, 4), tape.gates[block][:, 1]
        steps = sequence.backward(d_ys[block], d_by_gate, out[..., H:], ks, zs)
        for d_y, d_gates, d_s, k, z in steps:
            add(d_h, d_y, d_h)  # (12)
            multiply(k, d_h, d_gates)  # (13)
            multiply(d_h, z, direct)  # (14b)
            dot(d_s, W_hh, d_h)  # (14a)
            add(d_h, direct, d_h)


def _blocks(T: int, B: int, H: int, dtype: Any) -> list[slice]:
    # What the factors of a step read and write is thirteen states.
    return sequence.blocks(T, 13 * B * H * np.dtype(dtype).itemsize, sequence.steps_for_products(B))


def _factors(tape: FusedGRUResetAfterTape, block: slice, out: Array) -> None:
    """Equations (8) to (11) for some steps, in the order n, r, z, q."""
    r, z, n = sequence.split(tape.gates[block])
    k_n, k_r, k_z, k_q = sequence.split(out)
    np.subtract(1.0, z, out=k_z)
    np.multiply(n, n, out=k_n)
    np.subtract(1.0, k_n, out=k_n)
    np.multiply(k_n, k_z, out=k_n)  # (8)
    np.multiply(k_z, z, out=k_z)
    np.subtract(tape.hs[:-1][block], n, out=k_q)
    np.multiply(k_z, k_q, out=k_z)  # (11)
    np.multiply(k_n, r, out=k_q)  # (9)
    np.subtract(1.0, r, out=k_r)
    np.multiply(k_r, k_q, out=k_r)
    np.multiply(k_r, tape.qs[block], out=k_r)  # (10)
