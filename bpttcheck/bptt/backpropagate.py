"""The backward pass: the chain rule from the last time step to the first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bpttcheck import trees
from bpttcheck.bptt.unroll import CellTape, put_rows, require_d_params, require_shape, take_rows
from bpttcheck.contract import Array, Cell, Params, State, is_float
from bpttcheck.errors import ContractError


class Gradients(NamedTuple):
    """The gradient of a loss with respect to everything that entered the sequence.

    ``d_params`` has the keys, shapes and dtypes of the parameters, ``d_xs (T, B, n_in)``, and
    ``d_states`` is a list of ``T + 1`` adjoints; ``d_states[t]`` is ``dL/dstate[t]`` along every
    path through the steps ``t .. T-1`` and the final state. The output of step ``t - 1`` is no such
    path, even for a cell whose output is its state: ``d_ys[t-1]`` enters at step ``t - 1``.
    ``d_state0`` is ``d_states[0]``.
    """

    d_params: Params
    d_xs: Array
    d_state0: State
    d_states: list[State]


def backpropagate(
    cell: Cell,
    params: Params,
    tape: CellTape,
    d_ys: Array | None,
    d_state_T: State | None = None,
) -> Gradients:
    """Run ``cell.step_vjp`` backward over a sequence that :func:`bpttcheck.unroll` recorded.

    Equations, for ``t = T-1 .. 0``, starting from ``d_state[T] = d_state_T``::

        d_p, d_state[t], d_xs[t] = step_vjp(params, cache[t], d_state[t+1], d_ys[t])
        d_params = sum of d_p over t
        d_state[t], d_xs[t] = d_state[t+1], 0                     rows with mask[t] false

    Nothing that is passed in is changed, and the tape may be used again. Integer and boolean leaves
    of a state are not differentiated: their cotangent is zeros of their shape, in the dtype of
    ``xs``.

    Args:
        cell: the cell that was unrolled.
        params: the parameters it was unrolled with.
        tape: the tape that :func:`bpttcheck.unroll` returned.
        d_ys: the cotangent ``(T, B, n_out)`` of the outputs; None: zeros.
        d_state_T: the cotangent of the final state, in its structure; None: zeros.

    Returns:
        The :class:`Gradients`.

    Raises:
        ContractError: ``d_ys`` has another shape than ``ys``, or what ``step_vjp`` returned has
            other names than the parameters, or another shape than what it is the gradient of.
    """
    d_ys, d_state = cotangents(tape, d_ys, d_state_T)
    d_params = {name: np.zeros_like(value) for name, value in params.items()}
    d_xs = np.zeros(tape.xs_shape, tape.xs_dtype)
    d_states = [d_state]
    for t in reversed(range(len(tape.caches))):
        rows, cache = tape.real_rows[t], tape.caches[t]
        if rows is None:
            d_step, d_state, d_x = cell.step_vjp(params, cache, d_state, d_ys[t])
        elif rows.size:
            d_new = take_rows(d_state, rows)
            d_step, d_rows, d_x_rows = cell.step_vjp(params, cache, d_new, d_ys[t, rows])
            d_state = put_rows(d_state, rows, d_rows, "step_vjp", "d_previous_state")
            d_x = put_rows(d_xs[t], rows, d_x_rows, "step_vjp", "d_x")
        else:
            d_states.append(d_state)
            continue
        require_shape(d_x, d_xs.shape[1:], "step_vjp", "d_x")
        d_xs[t] = d_x
        _accumulate(d_params, d_step)
        d_state = zero_carried(tape, d_state)
        d_states.append(d_state)
    d_states.reverse()
    return Gradients(d_params, d_xs, d_states[0], d_states)


def cotangents(tape: CellTape, d_ys: Array | None, d_state_T: State | None) -> tuple[Array, State]:
    """``d_ys`` and ``d_state_T``, zeros where they are None.

    Raises:
        ContractError: ``d_ys`` has another shape than ``ys``.
    """
    if d_ys is None:
        d_ys = np.zeros(tape.ys_shape, tape.ys_dtype)
    elif d_ys.shape != tape.ys_shape:
        raise ContractError(
            f"d_ys.shape={d_ys.shape}, but expected that of ys, {tape.ys_shape}", item="d_ys"
        )
    if d_state_T is None:
        d_state_T = trees.map_leaves(np.zeros_like, tape.states[-1])
    return d_ys, zero_carried(tape, d_state_T)


def zero_carried(tape: CellTape, d_state: State) -> State:
    """``d_state`` with zeros in the leaves that are carried and not differentiated."""
    if not tape.carries:
        return d_state

    def zero_if_carried(leaf: Array, d_leaf: Array) -> Array:
        return d_leaf if is_float(leaf) else np.zeros(np.shape(leaf), tape.xs_dtype)

    return trees.map_leaves(zero_if_carried, tape.states[-1], d_state)


def _accumulate(total: Params, d_step: Params) -> None:
    require_d_params(d_step, total)
    for name, value in d_step.items():
        total[name] += value
