"""The gradient as a sum over all pairs of times, every product of Jacobians written out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bpttcheck.bptt.backpropagate import Gradients
from bpttcheck.bptt.jacobian import (
    Layout,
    derivatives,
    layout_of,
    require_cotangent,
    split_params,
)
from bpttcheck.bptt.unroll import CellTape
from bpttcheck.contract import Array, Cell, Params, State


def sum_over_paths(
    cell: Cell,
    params: Params,
    tape: CellTape,
    d_ys: Array | None,
    d_state_T: State | None = None,
) -> Gradients:
    """The gradient of :func:`bpttcheck.backpropagate`, in the form of the textbooks' double sum.

    Write ``z_t = (state_t, y_t)`` for what step ``t = 1 .. T`` outputs, ``l_t = dL/dz_t`` for what
    the loss reads there (``d_ys``, and ``d_state_T`` at ``t = T``), ``J_i = dz_i/dz_{i-1}`` for the
    Jacobian of one step, whose columns of ``y`` are zero, and ``d+`` for an immediate derivative,
    with everything else held constant::

        dz_t/dz_k = prod of J_i over i = k+1 .. t, the latest on the left             (1)
        dL/dparams  = sum_t sum_{k<=t} l_t (dz_t/dz_k) d+z_k/dparams                  (2)
        dL/dx_k     = sum_{t>=k}       l_t (dz_t/dz_k) d+z_k/dx_k                     (3)
        dL/dstate_k = sum_{t>=k}       l_t (dz_t/dz_k), the columns of the state      (4)

    The product of (1) is empty for ``k = t``. One that starts at ``i = k`` has a factor too many.

    Quadratic in ``T``: ``T (T+1) / 2`` products of matrices and ``B T (S + n_out)`` calls of
    ``step_vjp``, where :func:`bpttcheck.backpropagate` makes ``T``. An LSTM of 8 units with 4 rows
    took 0.06, 1.7 and 12 s for 10, 160 and 640 steps, against 0.3, 4 and 16 ms (NumPy 2.4, one
    thread, x86-64). It serves as a reference and for teaching.

    Args:
        cell: the cell that was unrolled.
        params: the parameters it was unrolled with.
        tape: the tape that :func:`bpttcheck.unroll` returned.
        d_ys: the cotangent ``(T, B, n_out)`` of the outputs; None: zeros.
        d_state_T: the cotangent of the final state, in its structure; None: zeros.

    Returns:
        The :class:`bpttcheck.bptt.backpropagate.Gradients`.

    Raises:
        ContractError: ``d_ys`` has another shape than ``ys``, or ``step_vjp`` returned a wrong one.

    Source:
        Werbos (1990), "Backpropagation through time"; Pascanu, Mikolov and Bengio (2013), "On the
        difficulty of training recurrent neural networks", equations (3) to (5).
    """
    layout, (T, B, _) = layout_of(tape), tape.xs_shape
    steps = list(derivatives(cell, params, tape))
    J = np.zeros((T, B, layout.Z, layout.Z), layout.dtype)
    for i, step in enumerate(steps):
        J[i, :, :, : layout.S] = step.state
    losses = _losses(layout, tape, d_ys, d_state_T)
    d_params = np.zeros(sum(value.size for value in params.values()), layout.dtype)
    d_xs = np.zeros(tape.xs_shape, layout.dtype)
    d_z = np.zeros((T + 1, B, layout.Z), layout.dtype)
    for t in range(T + 1):
        for k, product in products(J, t):
            path = np.einsum("bi,bij->bj", losses[t], product)
            d_z[k] += path  # (4)
            if k > 0:
                d_params += np.einsum("bi,bip->p", path, steps[k - 1].params)  # (2)
                d_xs[k - 1] += np.einsum("bi,bin->bn", path, steps[k - 1].x)  # (3)
    d_states = [layout.unflatten(row) for row in d_z]
    d_xs = d_xs.astype(tape.xs_dtype, copy=False)
    return Gradients(split_params(params, d_params), d_xs, d_states[0], d_states)


def products(J: Array, t: int) -> Iterator[tuple[int, Array]]:
    """Equation (1): ``(k, dz_t/dz_k)`` for ``k = t .. 0``.

    Args:
        J: the Jacobians of one step ``(T, B, Z, Z)``; ``J[i-1]`` is ``J_i``.
        t: the later of the two times.

    Yields:
        ``k`` and the product ``(B, Z, Z)`` of ``J_i`` over ``i = k+1 .. t``.
    """
    product = np.broadcast_to(np.eye(J.shape[-1], dtype=J.dtype), J.shape[1:])
    for k in range(t, -1, -1):
        yield k, product
        if k > 0:
            product = product @ J[k - 1]


def _losses(layout: Layout, tape: CellTape, d_ys: Array | None, d_state_T: State | None) -> Array:
    """``l_t`` for ``t = 0 .. T`` as rows ``(T+1, B, Z)``."""
    T, B, _ = tape.xs_shape
    out = np.zeros((T + 1, B, layout.Z), layout.dtype)
    if d_ys is not None:
        require_cotangent(d_ys, tape.ys_shape)
        out[1:, :, layout.S :] = d_ys.reshape(T, B, layout.O)
        for t, rows in enumerate(tape.real_rows, start=1):
            if rows is not None:  # the output of a masked row is constant
                out[t, np.setdiff1d(np.arange(B), rows), layout.S :] = 0
    if d_state_T is not None:
        out[T, :, : layout.S] += layout.join(d_state_T)
    return out
