"""The simple recurrent network over a whole sequence at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bpttcheck import activations
from bpttcheck.bptt.fused import sequence
from bpttcheck.cells import Elman
from bpttcheck.contract import Array, Params

# Arrays of the size of ``z`` that the derivative of an activation may need at once.
_SLOPES = 4


class FusedElmanTape(NamedTuple):
    """The inputs, the ``T + 1`` states, the pre-activations if they are needed, the padding."""

    xs: Array
    hs: Array
    zs: Array | None
    padded: Array | None


@dataclass(frozen=True)
class FusedElman:
    """:class:`bpttcheck.cells.Elman` over a whole sequence: only what must go step by step does.

    Equation numbers of the cell stand in brackets. Forward, with ``xs (T, B, N)``, all steps in one
    product::

        zs    = xs @ U.T + b                    the part of [1] without h         (1)

    and then for ``t = 0 .. T-1``::

        zs[t] = zs[t] + hs[t] @ W.T             the rest of [1]                   (2)
        hs[t+1] = f(zs[t])                      [2]                               (3)

    Backward. The slopes need no cotangent, so they are found for many steps at once; then for
    ``t = T-1 .. 0``, from ``d_h = d_state_T``::

        slopes  = f'(zs);   1 - hs[1:]² for tanh                                  (4)
        total   = d_ys[t] + d_h                 [4]                               (5)
        d_zs[t] = total * slopes[t]             [5]                               (6)
        d_h     = d_zs[t] @ W                   [9]                               (7)

    What does not feed back into the loop waits until after it. A sum over ``t`` of products over
    the batch is one product over all ``T B`` rows::

        d_U  = sum over t of d_zs[t].T @ xs[t] = d_zs.T @ xs           [6]        (8)
        d_W  = sum over t of d_zs[t].T @ hs[t] = d_zs.T @ hs[:-1]      [7]        (9)
        d_b  = sum of d_zs over t and the batch                        [8]        (10)
        d_xs = d_zs @ U                                                [10]       (11)

    In a padded row ``hs[t+1] = hs[t]`` stands for (2) and (3), the slope is zero, and ``total``
    goes on as ``d_h``.

    The tape keeps ``T B H`` numbers for ``tanh`` and ``2 T B H`` for any other activation, which
    also allocates one ``(B, H)`` a step. Parameters: those of the cell.

    Args:
        activation: the name of ``f`` in :mod:`bpttcheck.activations`, or an ``Activation``.

    Attributes:
        reference: the cell that this layer fuses.

    Raises:
        ContractError: no activation has this name.
    """

    activation: str | activations.Activation = "tanh"
    reference: Elman = field(init=False, repr=False, compare=False)
    supports_mask: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", Elman(self.activation))

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """The cell's fresh parameters."""
        return self.reference.init(rng, n_in, n_hidden)

    def initial_state(self, params: Params, batch_size: int) -> Array:
        """Zeros ``(B, H)``."""
        return self.reference.initial_state(params, batch_size)

    def forward(
        self, params: Params, xs: Array, state0: Array, mask: Array | None = None
    ) -> tuple[Array, Array, FusedElmanTape]:
        """All steps forward, equations (1) to (3): ``(ys, state_T, tape)``.

        Raises:
            ContractError: ``xs`` or ``mask`` has the wrong shape or dtype.
        """
        add, tanh, dot = np.add, np.tanh, np.dot
        f = activations.get(self.activation)
        xs, padded = sequence.without_padding(xs, mask)
        W_T = np.ascontiguousarray(params["W"].T)
        T, (B, H) = len(xs), state0.shape
        hs = np.empty((T + 1, B, H), np.result_type(xs, W_T, state0))
        hs[0] = state0
        # The states of tanh overwrite their pre-activations: its slope needs only the state.
        in_place = _is_tanh(f)
        zs = hs[1:] if in_place else np.empty((T, B, H), hs.dtype)
        np.matmul(sequence.rows(xs), params["U"].T, out=sequence.rows(zs))  # (1)
        zs += params["b"]
        h, product = hs[0], np.empty((B, H), hs.dtype)
        for t, z in enumerate(zs):
            dot(h, W_T, product)
            add(z, product, z)  # (2)
            h_new = z if in_place else hs[t + 1]
            if in_place:
                tanh(z, h_new)  # (3)
            else:
                h_new[...] = f.value(z)  # (3)
            if padded is not None:
                np.copyto(h_new, h, where=padded[t])
            h = h_new
        tape = FusedElmanTape(xs, hs, None if in_place else zs, padded)
        return sequence.outputs(hs, padded), hs[T].copy(), tape

    def vjp(
        self, params: Params, tape: FusedElmanTape, d_ys: Array, d_state_T: Array
    ) -> tuple[Params, Array, Array]:
        """All steps backward, equations (4) to (11): ``(d_params, d_xs, d_state0)``.

        Raises:
            ContractError: ``d_ys`` has another shape than ``ys``.
        """
        add, multiply, dot = np.add, np.multiply, np.dot
        xs, hs, _, padded = tape
        T, B, H = len(xs), *hs.shape[1:]
        sequence.require_cotangents(d_ys, (T, B, H))
        d_ys = sequence.zero_where(d_ys, padded)
        U, W = params["U"], np.ascontiguousarray(params["W"])
        d_zs, total = np.empty((T, B, H), hs.dtype), np.empty((B, H), hs.dtype)
        d_h = np.array(d_state_T, hs.dtype)
        for steps in _blocks(T, B * H * hs.itemsize):
            self._slopes(tape, steps, out=d_zs[steps])  # (4)
            pads = [None] * T if padded is None else padded
            for d_y, d_z, pad in sequence.backward(d_ys[steps], d_zs[steps], pads[steps]):
                add(d_y, d_h, total)  # (5)
                multiply(total, d_z, d_z)  # (6)
                dot(d_z, W, d_h)  # (7)
                if pad is not None:
                    np.copyto(d_h, total, where=pad)
        d_rows = sequence.rows(d_zs)
        d_params = {
            "U": d_rows.T @ sequence.rows(xs),  # (8)
            "W": d_rows.T @ sequence.rows(hs[:-1]),  # (9)
            "b": sequence.sum_of_rows(d_rows),  # (10)
        }
        d_xs = (d_rows @ U).reshape(xs.shape)  # (11)
        return d_params, d_xs, d_h

    def tape_bytes(self, T: int, B: int, n_in: int, n_hidden: int, dtype: Any = "float64") -> int:
        """Bytes that the tape keeps beside ``xs``, which it only refers to; without a mask."""
        kept = 1 if _is_tanh(activations.get(self.activation)) else 2
        return (kept * T + 1) * B * n_hidden * np.dtype(dtype).itemsize

    def peak_bytes(self, T: int, B: int, n_in: int, n_hidden: int, dtype: Any = "float64") -> int:
        """Bytes at most in use, from forward to the end of backward: tape and results included."""
        ys, d_zs, d_xs = T * B * n_hidden, T * B * n_hidden, T * B * n_in
        weights, itemsize = n_hidden * (2 * n_hidden + n_in), np.dtype(dtype).itemsize
        slopes = 0
        if not _is_tanh(activations.get(self.activation)):
            blocks = _blocks(T, B * n_hidden * itemsize)
            slopes = _SLOPES * sequence.longest(blocks) * B * n_hidden
        size = (ys + d_zs + max(d_xs, slopes) + weights) * itemsize
        return size + self.tape_bytes(T, B, n_in, n_hidden, dtype)

    def _slopes(self, tape: FusedElmanTape, steps: slice, out: Array) -> None:
        """Equation (4) for some steps."""
        if tape.zs is None:
            h = tape.hs[1:][steps]
            np.multiply(h, h, out=out)
            np.subtract(1.0, out, out=out)
        else:
            out[...] = activations.get(self.activation).derivative(tape.zs[steps])
        if tape.padded is not None:
            np.copyto(out, 0.0, where=tape.padded[steps])


def _blocks(T: int, state_bytes: int) -> list[slice]:
    return sequence.blocks(T, (2 + _SLOPES) * state_bytes)


def _is_tanh(f: activations.Activation) -> bool:
    return f is activations.ACTIVATIONS["tanh"]
