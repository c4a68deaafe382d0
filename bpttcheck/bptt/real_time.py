"""Real-time recurrent learning: the gradient carried forward in time, without a tape."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bpttcheck.bptt.jacobian import (
    Layout,
    layout_of,
    require_cotangent,
    split_params,
    step_derivatives,
)
from bpttcheck.bptt.unroll import require_mask, require_sequence, unroll
from bpttcheck.contract import Array, Cell, Params, State


class ForwardGradients(NamedTuple):
    """``d_params`` like the parameters, ``d_xs (T, B, n_in)`` and ``d_state0`` like the state.

    There are no adjoints of the states in between: forward mode never has them.
    """

    d_params: Params
    d_xs: Array
    d_state0: State


def real_time(
    cell: Cell,
    params: Params,
    xs: Array,
    d_ys: Array | None,
    d_state_T: State | None = None,
    state0: State | None = None,
    mask: Array | None = None,
) -> ForwardGradients:
    """The gradient of :func:`bpttcheck.backpropagate`, by forward mode.

    Write ``v = (params, state_0, x_1 .. x_T)`` for all that is differentiated, ``d+`` for an
    immediate derivative and ``influence_t = dstate_t/dv``, an array of ``S`` rows for each row of
    the batch, carried from each step to the next::

        influence_0 = (0, identity, 0)                                              (1)
        influence_t = dstate_t/dstate_{t-1} influence_{t-1} + d+state_t/dv          (2)
        dy_t/dv     = dy_t/dstate_{t-1}     influence_{t-1} + d+y_t/dv              (3)
        dL/dv       = sum_t d_y_t dy_t/dv + d_state_T influence_T                   (4)

    Each step's terms of (4) are known as soon as the step is done, hence the name. Nothing of the
    past is kept but the influence, which is ``S (P + S + T n_in)`` numbers a row for ``P``
    parameters: of the order of ``n_hidden`` times the parameters, whatever ``T`` is, but for the
    part of the inputs, which is here for comparison. Time is ``B (S + n_out)`` calls of
    ``step_vjp`` a step (it sums ``d_params`` over the rows, so each row is fed alone) and
    ``B (S + n_out) S (P + S + T n_in)`` multiplications. An LSTM of 8 units (544 parameters) with 4
    rows took 0.07, 1.3 and 4.5 s for 10, 160 and 640 steps (NumPy 2.4, one thread, x86-64).

    Args:
        cell: any object with the methods of :class:`bpttcheck.Cell`.
        params: its parameters.
        xs: the inputs ``(T, B, n_in)``.
        d_ys: the cotangent ``(T, B, n_out)`` of the outputs; None: zeros.
        d_state_T: the cotangent of the final state, in its structure; None: zeros.
        state0: the state before the first step; None: the cell's own.
        mask: ``(T, B)`` bool, true where the step is real; None: every step is.

    Returns:
        The :class:`ForwardGradients`.

    Raises:
        ContractError: as :func:`bpttcheck.unroll`; ``d_ys`` has another shape than ``ys``; or
            ``step_vjp`` returned a wrong one.

    Source:
        Williams and Zipser (1989), "A learning algorithm for continually running fully recurrent
        neural networks".
    """
    require_sequence(xs)
    (T, B, n_in), P = xs.shape, sum(value.size for value in params.values())
    if mask is not None:
        require_mask(mask, T, B)
    # A sequence of no steps: it finds the shapes, and the initial state if none is given.
    ys, state, tape = unroll(cell, params, xs[:0], state0)
    layout = layout_of(tape)
    S = layout.S
    if d_ys is not None:
        require_cotangent(d_ys, (T, *ys.shape[1:]))
    influence = np.zeros((B, S, P + S + T * n_in), layout.dtype)
    influence[:, :, P : P + S] = np.eye(S)  # (1)
    total = np.zeros((B, influence.shape[2]), layout.dtype)
    for t in range(T):
        at = slice(t, t + 1)
        _, state, tape = unroll(cell, params, xs[at], state, None if mask is None else mask[at])
        rows = tape.real_rows[0]
        step = step_derivatives(cell, params, tape.caches[0], layout, n_in, rows)
        moved = step.state @ influence
        moved[:, :, :P] += step.params
        moved[:, :, P + S + t * n_in : P + S + (t + 1) * n_in] += step.x
        influence = moved[:, :S]  # (2)
        if d_ys is not None:
            real = slice(None) if rows is None else rows
            d_y = d_ys[t].reshape(B, layout.O)
            total[real] += np.einsum("bo,bov->bv", d_y[real], moved[real, S:])  # (3), (4)
    if d_state_T is not None:
        total += np.einsum("bs,bsv->bv", layout.join(d_state_T), influence)  # (4)
    return _split(total, layout, params, xs)


def _split(total: Array, layout: Layout, params: Params, xs: Array) -> ForwardGradients:
    (T, B, n_in), S = xs.shape, layout.S
    P = total.shape[1] - S - T * n_in
    d_xs = total[:, P + S :].reshape(B, T, n_in).swapaxes(0, 1)
    return ForwardGradients(
        split_params(params, total[:, :P].sum(axis=0)),
        np.ascontiguousarray(d_xs, dtype=xs.dtype),
        layout.unflatten(total[:, P : P + S]),
    )
