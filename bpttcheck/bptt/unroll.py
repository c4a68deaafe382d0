"""The forward pass: one cell applied at every time step of a batch of sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import d_param
from bpttcheck.contract import Array, Cache, Cell, Params, State, is_float
from bpttcheck.errors import ContractError


@dataclass(frozen=True, eq=False)
class CellTape:
    """The record of the forward pass for the backward pass; it can be read any number of times.

    Args:
        states: the ``T + 1`` states, the initial one first.
        caches: what each step returned for its ``step_vjp``; None where no row was real.
        real_rows: for each step the indices of its real rows, or None where all of them are.
        xs_shape: ``(T, B, n_in)``.
        xs_dtype: the dtype of ``xs``.
        ys_shape: ``(T, B, n_out)``.
        ys_dtype: the dtype of ``ys``.
        carries: True if the state has leaves that are carried and not differentiated.
    """

    states: tuple[State, ...]
    caches: tuple[Cache, ...]
    real_rows: tuple[Array | None, ...]
    xs_shape: tuple[int, ...]
    xs_dtype: np.dtype[Any]
    ys_shape: tuple[int, ...]
    ys_dtype: np.dtype[Any]
    carries: bool


def unroll(
    cell: Cell,
    params: Params,
    xs: Array,
    state0: State | None = None,
    mask: Array | None = None,
) -> tuple[Array, State, CellTape]:
    """Run ``cell`` over a sequence.

    Equations, for ``t = 0 .. T-1``::

        state[t+1], ys[t] = step(params, state[t], xs[t])        rows with mask[t] true
        state[t+1], ys[t] = state[t], 0                          rows with mask[t] false

    >>> import numpy as np
    >>> from bpttcheck.cells import Elman
    >>> params = Elman().init(np.random.default_rng(0), n_in=2, n_hidden=3)
    >>> ys, state_T, tape = unroll(Elman(), params, np.ones((5, 4, 2)))
    >>> ys.shape, state_T.shape
    ((5, 4, 3), (4, 3))

    A masked row never enters the cell: whatever stands in the padding, NaN included, has no effect.

    Args:
        cell: any object with the methods of :class:`bpttcheck.Cell`.
        params: its parameters.
        xs: the inputs ``(T, B, n_in)``, floating. If no step is real (``T`` may be 0), one step
            over zeros finds the shape of the output, and its result is dropped.
        state0: the state before the first step; None: ``cell.initial_state(params, B)``.
        mask: ``(T, B)`` bool, true where the step is real; None: every step is.

    Returns:
        ``(ys, state_T, tape)`` with ``ys (T, B, n_out)`` and the tape for
        :func:`bpttcheck.backpropagate`.

    Raises:
        ContractError: ``xs`` or ``mask`` has the wrong shape or dtype, an output changes its
            shape, or a masked state has no batch axis.
    """
    require_sequence(xs)
    T, B = xs.shape[:2]
    real_rows = _real_rows(mask, T, B)
    state = cell.initial_state(params, B) if state0 is None else state0
    states: list[State] = [state]
    caches: list[Cache] = []
    ys: Array | None = None
    for x, rows in zip(xs, real_rows, strict=True):
        if rows is None:
            state, y, cache = cell.step(params, state, x)
        else:
            state, y, cache = _masked_step(cell, params, state, x, rows)
        if y is not None:
            ys = _zero_outputs(y, T, B) if ys is None else ys
            require_shape(y, ys.shape[1:], "step", "y")
            ys[len(caches)] = y
        states.append(state)
        caches.append(cache)
    if ys is None:
        ys = _outputs_of_no_step(cell, params, states[0], xs)
    carries = not all(map(is_float, trees.leaves(state)))
    tape = CellTape(
        states=tuple(states),
        caches=tuple(caches),
        real_rows=real_rows,
        xs_shape=xs.shape,
        xs_dtype=xs.dtype,
        ys_shape=ys.shape,
        ys_dtype=ys.dtype,
        carries=carries,
    )
    return ys, state, tape


def take_rows(state: State, rows: Array) -> State:
    """The given rows of every leaf of ``state``, copied.

    Raises:
        ContractError: a leaf has no batch axis.
    """

    def take(leaf: Array) -> Array:
        if np.ndim(leaf) == 0:
            raise ContractError(
                "a leaf of the state has shape (), but a mask needs a batch axis: (B, ...)",
                item="state",
            )
        return leaf[rows]

    return trees.map_leaves(take, state)


def put_rows(state: State, rows: Array, new: State, method: str, item: str) -> State:
    """A copy of ``state`` with ``new``, the ``item`` of ``method``, in the given rows."""

    def put(old_leaf: Array, new_leaf: Array) -> Array:
        require_shape(new_leaf, (len(rows), *old_leaf.shape[1:]), method, item)
        # In the common dtype, so that a cell that turns float64 is not hidden.
        out = old_leaf.astype(np.result_type(old_leaf, new_leaf), copy=True)
        out[rows] = new_leaf
        return out

    return trees.map_leaves(put, state, new)


def require_shape(value: Array, expected: tuple[int, ...], method: str, item: str) -> None:
    """Reject an array that NumPy would silently broadcast to ``expected``."""
    if np.shape(value) != expected:
        raise ContractError(
            f"{item}.shape={np.shape(value)}, but should be {expected} [{method} returned {item}]",
            method=method,
            item=item,
        )


def require_d_params(d_params: Params, params: Params) -> None:
    """Reject gradients of a step with other names or shapes than the parameters."""
    if d_params.keys() != params.keys():
        raise ContractError(
            f"step_vjp returned d_params with the names {sorted(d_params)}, expected those of the"
            f" parameters, {sorted(params)}",
            method="step_vjp",
            item="d_params",
        )
    for name, value in d_params.items():
        if np.shape(value) != np.shape(params[name]):
            require_shape(value, np.shape(params[name]), "step_vjp", d_param(name))


def require_sequence(xs: Array) -> None:
    """Reject inputs that are not a sequence.

    Raises:
        ContractError: ``xs`` is not a floating array ``(T, B, n_in)``.
    """
    shape, dtype = np.shape(xs), getattr(xs, "dtype", type(xs).__name__)
    if isinstance(dtype, str) or len(shape) != 3 or not np.issubdtype(dtype, np.floating):
        raise ContractError(
            f"xs.shape={shape}, xs.dtype={dtype}, but expected a floating array (T, B, n_in)",
            item="xs",
        )


def require_mask(mask: Array, T: int, B: int) -> None:
    """Reject a mask that does not fit its sequence.

    Raises:
        ContractError: ``mask`` is not a bool array ``(T, B)``.
    """
    shape, dtype = np.shape(mask), getattr(mask, "dtype", type(mask).__name__)
    if shape != (T, B) or dtype != np.bool_:
        raise ContractError(
            f"mask.shape={shape}, mask.dtype={dtype}, but expected a bool array (T, B) = {(T, B)},"
            " true where the step is real",
            item="mask",
        )


def _real_rows(mask: Array | None, T: int, B: int) -> tuple[Array | None, ...]:
    if mask is None:
        return (None,) * T
    require_mask(mask, T, B)
    return tuple(None if row.all() else np.flatnonzero(row) for row in mask)


def _masked_step(
    cell: Cell, params: Params, state: State, x: Array, rows: Array
) -> tuple[State, Array | None, Cache]:
    if not rows.size:
        return state, None, None
    new_rows, y_rows, cache = cell.step(params, take_rows(state, rows), x[rows])
    new_state = put_rows(state, rows, new_rows, "step", "new_state")
    y = np.zeros((len(x), *y_rows.shape[1:]), y_rows.dtype)
    return new_state, put_rows(y, rows, y_rows, "step", "y"), cache


def _zero_outputs(y: Array, T: int, B: int) -> Array:
    # Zeros rather than np.empty: the steps that the mask leaves out are never written.
    return np.zeros((T, B, *y.shape[1:]), y.dtype)


def _outputs_of_no_step(cell: Cell, params: Params, state0: State, xs: Array) -> Array:
    T, B, n_in = xs.shape
    with np.errstate(all="ignore"):
        _, y, _ = cell.step(params, state0, np.zeros((B, n_in), xs.dtype))
    return _zero_outputs(y, T, B)
