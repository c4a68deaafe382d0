"""Long short-term memory over a whole sequence at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bpttcheck.bptt.fused import sequence
from bpttcheck.cells import LSTM
from bpttcheck.contract import Array, Params

# The cell stacks its gates as i, f, g, o. Stacked as g, i, f, o the three sigmoids are neighbours,
# and so are the three gates whose factor meets d_c.
_PACK, _UNPACK = [2, 0, 1, 3], [1, 2, 0, 3]


class FusedLSTMTape(NamedTuple):
    """The inputs, both states, the gates ``g, i, f, o``, ``tanh(c')``, the padding."""

    xs: Array
    hs: Array
    cs: Array
    gates: Array
    tanh_cs: Array
    padded: Array | None


@dataclass(frozen=True)
class FusedLSTM:
    """:class:`bpttcheck.cells.LSTM` over a whole sequence: only what must go step by step does.

    Equation numbers of the cell stand in brackets. The logistic function is a scaled ``tanh``, so
    that one ``tanh`` makes all four gates; the rows of the weights that belong to sigmoids are
    halved beforehand, which is exact::

        σ(a) = (1 + tanh(a / 2)) / 2                                              (1)

    Forward, with ``xs (T, B, N)``, all steps in one product::

        a       = xs @ W_ih.T + b               the part of [1] without h         (2)

    and then for ``t = 0 .. T-1``::

        a[t]    = a[t] + hs[t] @ W_hh.T         the rest of [1]                   (3)
        g, i, f, o = tanh(a[t]), the last three by (1)      [2] to [5]            (4)
        cs[t+1] = f * cs[t] + i * g             [6]                               (5)
        hs[t+1] = o * tanh(cs[t+1])             [7]                               (6)

    Backward. Each cotangent of a pre-activation is ``d_c`` or ``d_h`` times a factor that needs no
    cotangent; the factors are found for many steps at once::

        k_g = i * (1 - g²)                      [14], [18]                        (7)
        k_i = g * i * (1 - i)                   [13], [16]                        (8)
        k_f = cs[t] * f * (1 - f)               [12], [17]                        (9)
        k_o = tanh(c') * o * (1 - o)            [10], [19]                        (10)
        k_c = o * (1 - tanh(c')²)               [11]                              (11)

    Then for ``t = T-1 .. 0``, from ``d_h, d_c = d_state_T``::

        d_h  = d_h + d_ys[t]                    [9]                               (12)
        d_c  = d_c + d_h * k_c                  [11]                              (13)
        d_a[t] = [d_c * k_g, d_c * k_i, d_c * k_f, d_h * k_o]                     (14)
        d_h  = d_a[t] @ W_hh                    [23]                              (15)
        d_c  = d_c * f                          [15]                              (16)

    What does not feed back into the loop waits until after it. A sum over ``t`` of products over
    the batch is one product over all ``T B`` rows::

        d_W_ih = d_a.T @ xs                     [20]                              (17)
        d_W_hh = d_a.T @ hs[:-1]                [21]                              (18)
        d_b    = sum of d_a over t and rows     [22]                              (19)
        d_xs   = d_a @ W_ih                     [24]                              (20)

    A padded row is a row with ``g = i = o = 0`` and ``f = 1``: (5) then keeps ``c``, and (7) to
    (11) are zero. Only ``h`` and ``d_h`` have to be carried by themselves.

    The tape keeps ``7 T B H`` numbers. Parameters: those of the cell.

    Attributes:
        reference: the cell that this layer fuses.

    Source:
        Appleyard et al. (2016), "Optimizing performance of recurrent neural networks on GPUs", has
        the products over all steps.
    """

    reference: ClassVar[LSTM] = LSTM()
    supports_mask: ClassVar[bool] = True

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """The cell's fresh parameters."""
        return self.reference.init(rng, n_in, n_hidden)

    def initial_state(self, params: Params, batch_size: int) -> tuple[Array, Array]:
        """Zeros ``(B, H)`` for ``h`` and for ``c``."""
        return self.reference.initial_state(params, batch_size)

    def forward(
        self,
        params: Params,
        xs: Array,
        state0: tuple[Array, Array],
        mask: Array | None = None,
    ) -> tuple[Array, tuple[Array, Array], FusedLSTMTape]:
        """All steps forward, equations (1) to (6): ``(ys, state_T, tape)``.

        Raises:
            ContractError: ``xs`` or ``mask`` has the wrong shape or dtype.
        """
        add, multiply, tanh, dot = np.add, np.multiply, np.tanh, np.dot
        xs, padded = sequence.without_padding(xs, mask)
        T, (B, H) = len(xs), state0[0].shape
        dtype = np.result_type(xs, params["W_hh"], *state0)
        W_T = np.ascontiguousarray(_halved(params["W_hh"]).T)
        hs, cs = np.empty((T + 1, B, H), dtype), np.empty((T + 1, B, H), dtype)
        hs[0], cs[0] = state0
        gates, tanh_cs = np.empty((T, 4, B, H), dtype), np.empty((T, B, H), dtype)
        projected = np.empty((T, B, 4 * H), dtype)
        np.matmul(sequence.rows(xs), _halved(params["W_ih"]).T, out=sequence.rows(projected))
        projected += _halved(params["b"])  # (2)
        a, i_g = np.empty((B, 4 * H), dtype), np.empty((B, H), dtype)
        a_by_gate, half = sequence.gate_by_gate(a, 4), np.array(0.5, dtype)
        steps = zip(
            projected, gates, gates[:, 1:], *sequence.split(gates),
            hs[1:], cs[1:], tanh_cs, strict=True,
        )  # fmt: skip
        h, c = hs[0], cs[0]
        for t, step in enumerate(steps):
            own, all_gates, sigmoids, g, i, f, o, h_new, c_new, tanh_c = step
            dot(h, W_T, a)
            add(a, own, a)  # (3)
            tanh(a_by_gate, all_gates)  # (4)
            multiply(sigmoids, half, sigmoids)
            add(sigmoids, half, sigmoids)  # (1)
            if padded is not None:
                np.copyto(all_gates, 0.0, where=padded[t])
                np.copyto(f, 1.0, where=padded[t])
            multiply(f, c, c_new)
            multiply(i, g, i_g)
            add(c_new, i_g, c_new)  # (5)
            tanh(c_new, tanh_c)
            multiply(o, tanh_c, h_new)  # (6)
            if padded is not None:
                np.copyto(h_new, h, where=padded[t])
            h, c = h_new, c_new
        tape = FusedLSTMTape(xs, hs, cs, gates, tanh_cs, padded)
        return sequence.outputs(hs, padded), (hs[T].copy(), cs[T].copy()), tape

    def vjp(
        self,
        params: Params,
        tape: FusedLSTMTape,
        d_ys: Array,
        d_state_T: tuple[Array, Array],
    ) -> tuple[Params, Array, tuple[Array, Array]]:
        """All steps backward, equations (7) to (20): ``(d_params, d_xs, d_state0)``.

        Raises:
            ContractError: ``d_ys`` has another shape than ``ys``.
        """
        sequence.require_cotangents(d_ys, tape.tanh_cs.shape)
        d_a, d_state0 = self._pre_activations(params, tape, d_ys, d_state_T)
        d_rows, xs = sequence.rows(d_a), tape.xs
        d_params = {
            "W_ih": sequence.repacked(d_rows.T @ sequence.rows(xs), _UNPACK),  # (17)
            "W_hh": sequence.repacked(d_rows.T @ sequence.rows(tape.hs[:-1]), _UNPACK),  # (18)
            "b": sequence.repacked(sequence.sum_of_rows(d_rows), _UNPACK),  # (19)
        }
        d_xs = (d_rows @ sequence.repacked(params["W_ih"], _PACK)).reshape(xs.shape)  # (20)
        return d_params, d_xs, d_state0

    def tape_bytes(self, T: int, B: int, n_in: int, n_hidden: int, dtype: Any = "float64") -> int:
        """Bytes that the tape keeps beside ``xs``, which it only refers to; without a mask."""
        return (7 * T + 2) * B * n_hidden * np.dtype(dtype).itemsize

    def peak_bytes(self, T: int, B: int, n_in: int, n_hidden: int, dtype: Any = "float64") -> int:
        """Bytes at most in use, from forward to the end of backward: tape and results included."""
        ys, d_a, d_xs = T * B * n_hidden, 4 * T * B * n_hidden, T * B * n_in
        weights = 4 * n_hidden * (2 * n_hidden + 2 * n_in)
        itemsize = np.dtype(dtype).itemsize
        blocks = _blocks(T, B * n_hidden * itemsize)
        factors = sequence.longest(blocks) * 5 * B * n_hidden
        size = (ys + d_a + max(d_xs, factors) + weights) * itemsize
        return size + self.tape_bytes(T, B, n_in, n_hidden, dtype)

    def _pre_activations(
        self,
        params: Params,
        tape: FusedLSTMTape,
        d_ys: Array,
        d_state_T: tuple[Array, Array],
    ) -> tuple[Array, tuple[Array, Array]]:
        """Equations (7) to (16): ``(d_a, d_state0)``."""
        add, multiply, dot = np.add, np.multiply, np.dot
        T, B, H = d_ys.shape
        dtype, padded = tape.hs.dtype, tape.padded
        d_ys = sequence.zero_where(d_ys, padded)
        W = sequence.repacked(params["W_hh"], _PACK)
        blocks = _blocks(T, B * H * dtype.itemsize)
        d_a, d_h, d_c = np.empty((T, B, 4 * H), dtype), *(np.array(d, dtype) for d in d_state_T)
        factors = np.empty((sequence.longest(blocks), 5, B, H), dtype)
        product, carried = np.empty((2, B, H), dtype)
        pads = [None] * T if padded is None else padded
        for block in blocks:
            d, k = d_a[block], factors[: block.stop - block.start]
            _factors(tape, block, k)
            d_by_gate, fs = sequence.gate_by_gate(d, 4), tape.gates[block][:, 2]
            steps = sequence.backward(
                d_ys[block], d, d_by_gate[:, :3], d_by_gate[:, 3], k[:, :3], k[:, 3], k[:, 4], fs,
                pads[block],
            )  # fmt: skip
            for d_y, d_all, d_gif, d_o, k_gif, k_o, k_c, f, pad in steps:
                add(d_h, d_y, d_h)  # (12)
                multiply(d_h, k_c, product)
                add(d_c, product, d_c)  # (13)
                multiply(k_gif, d_c, d_gif)
                multiply(k_o, d_h, d_o)  # (14)
                if pad is not None:
                    np.copyto(carried, d_h)
                dot(d_all, W, d_h)  # (15)
                multiply(d_c, f, d_c)  # (16)
                if pad is not None:
                    np.copyto(d_h, carried, where=pad)
        return d_a, (d_h, d_c)


def _blocks(T: int, state_bytes: int) -> list[slice]:
    # What the factors of a step read and write, in states.
    return sequence.blocks(T, 16 * state_bytes)


def _factors(tape: FusedLSTMTape, block: slice, out: Array) -> None:
    """Equations (7) to (11) for some steps, in the order g, i, f, o, c."""
    gates, tanh_c = tape.gates[block], tape.tanh_cs[block]
    g, i, _, o = sequence.split(gates)
    k_g, k_i, k_f, k_o, k_c = sequence.split(out)
    np.subtract(1.0, gates, out=out[:, :4])
    np.multiply(out[:, :4], gates, out=out[:, :4])
    np.multiply(g, g, out=k_g)
    np.subtract(1.0, k_g, out=k_g)
    np.multiply(k_g, i, out=k_g)  # (7)
    np.multiply(k_i, g, out=k_i)  # (8)
    np.multiply(k_f, tape.cs[:-1][block], out=k_f)  # (9)
    np.multiply(k_o, tanh_c, out=k_o)  # (10)
    np.multiply(tanh_c, tanh_c, out=k_c)
    np.subtract(1.0, k_c, out=k_c)
    np.multiply(k_c, o, out=k_c)  # (11)


def _halved(weights: Array) -> Array:
    """In this layer's order, with the rows of the sigmoids halved: see (1)."""
    packed = sequence.repacked(weights, _PACK)
    packed[len(packed) // 4 :] *= 0.5
    return packed
