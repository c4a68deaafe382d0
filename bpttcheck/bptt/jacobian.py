"""One-step derivatives of a cell as matrices, read off its hand-derived ``step_vjp``.

A unit cotangent pulls one row of a Jacobian out of ``step_vjp``, so these matrices are the cell's
own derivation written out, right or wrong: nothing is differentiated again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.bptt.unroll import CellTape, require_d_params, require_shape, unroll
from bpttcheck.contract import Array, Cache, Cell, Params, State, is_float
from bpttcheck.errors import ContractError


@dataclass(frozen=True, eq=False)
class Layout:
    """How a state and an output lie in one flat row of ``Z = S + O`` numbers, the state first.

    ``S`` counts the entries of the floating leaves of the state, ``O`` those of the output. Integer
    and boolean leaves are carried: they have no place in the row.

    Args:
        state: a state ``(B, ...)`` of the cell; only its structure, shapes and kinds are read.
        y_shape: the shape ``(B, n_out)`` of an output.
        dtype: the dtype of the rows.
    """

    state: State
    y_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def S(self) -> int:
        """The number of differentiated entries of a state."""
        return sum(prod(np.shape(leaf)[1:]) for leaf in self._floating())

    @property
    def O(self) -> int:  # noqa: E743 - the size of an output, beside S
        """The number of entries of an output."""
        return prod(self.y_shape[1:])

    @property
    def Z(self) -> int:
        """The number of entries of both."""
        return self.S + self.O

    def join(self, state: State) -> Array:
        """The floating leaves of a state as rows ``(R, S)``, in the order of :mod:`trees`."""
        pairs = zip(trees.leaves(self.state), trees.leaves(state), strict=True)
        kept = [np.asarray(leaf) for like, leaf in pairs if is_float(like)]
        flat = [leaf.reshape(len(leaf), -1).astype(self.dtype, copy=False) for leaf in kept]
        return np.concatenate(flat, axis=1)

    def split(self, rows: Array) -> tuple[State, Array]:
        """Rows ``(R, Z)`` as a state and an output; carried leaves are zeros."""
        y = rows[:, self.S :].reshape((len(rows), *self.y_shape[1:]))
        return self.unflatten(rows), y

    def unflatten(self, rows: Array) -> State:
        """The first ``S`` columns of rows as a state; carried leaves are zeros."""
        R, start = len(rows), 0

        def take(leaf: Array) -> Array:
            nonlocal start
            shape = (R, *np.shape(leaf)[1:]) if np.ndim(leaf) else ()
            if not is_float(leaf):
                return np.zeros(shape, self.dtype)
            stop = start + prod(shape[1:])
            part, start = rows[:, start:stop].reshape(shape), stop
            return part

        return trees.map_leaves(take, self.state)

    def _floating(self) -> Iterator[Array]:
        for leaf in trees.leaves(self.state):
            if is_float(leaf):
                if np.ndim(leaf) == 0:
                    raise ContractError(
                        "a floating leaf of the state has shape (), expected a batch axis:"
                        " (B, ...); a Jacobian belongs to one row of the batch",
                        item="state",
                    )
                yield leaf


@dataclass(frozen=True, eq=False)
class StepDerivatives:
    """The immediate derivatives of ``z = (state', y)`` at one step, for each row of the batch.

    In a masked row the state goes through: its part of ``state`` is the identity, all else is 0.

    Args:
        state: ``(B, Z, S)``, with respect to the previous state.
        x: ``(B, Z, n_in)``, with respect to the input.
        params: ``(B, Z, P)``, with respect to all parameters in one row, in the order of their
            names; ``P = 0`` where they were not asked for.
    """

    state: Array
    x: Array
    params: Array


def layout_of(tape: CellTape) -> Layout:
    """The :class:`Layout` of the states and outputs that a tape recorded.

    Raises:
        ContractError: the state has no floating entry, or one without a batch axis.
    """
    layout = Layout(tape.states[0], tape.ys_shape[1:], np.result_type(tape.xs_dtype, np.float32))
    if not layout.S:
        raise ContractError(
            "the state has no floating entry, expected at least one: without it there is no"
            " gradient through time",
            item="state",
        )
    return layout


def step_derivatives(
    cell: Cell,
    params: Params,
    cache: Cache,
    layout: Layout,
    n_in: int,
    real_rows: Array | None = None,
    with_params: bool = True,
) -> StepDerivatives:
    """Every immediate derivative of one step, by ``step_vjp`` with unit cotangents.

    Row ``i`` of each matrix is what ``step_vjp`` returns for the cotangent ``e_i`` of ``(state',
    y)``. ``d_params`` is a sum over the batch, so one row of it at a time gets a cotangent that is
    not zero: ``B Z`` calls. Without parameters all rows go at once, since they are independent:
    ``Z`` calls.

    Args:
        cell: the cell.
        params: its parameters.
        cache: what ``step`` returned for the rows that are real; not read if there are none.
        layout: how states and outputs lie in rows.
        n_in: the width of ``x``.
        real_rows: the indices of the real rows; None: all.
        with_params: False to leave the parameters out.

    Returns:
        The :class:`StepDerivatives`.

    Raises:
        ContractError: ``step_vjp`` returned an array of a wrong shape.
    """
    B, S, Z = layout.y_shape[0], layout.S, layout.Z
    real = np.arange(B) if real_rows is None else real_rows
    P = sum(value.size for value in params.values()) if with_params else 0
    out = StepDerivatives(*(np.zeros((B, Z, n), layout.dtype) for n in (S, n_in, P)))
    masked = np.setdiff1d(np.arange(B), real)
    out.state[masked, :S] = np.eye(S)
    if not real.size:
        return out
    # Places among the real rows that share a call: each alone, or all of them.
    groups = [[place] for place in range(len(real))] if with_params else [range(len(real))]
    for group in groups:
        at, places = real[group], list(group)
        for unit in range(Z):
            cotangent = np.zeros((len(real), Z), layout.dtype)
            cotangent[places, unit] = 1
            d_params, d_state, d_x = cell.step_vjp(params, cache, *layout.split(cotangent))
            require_shape(d_x, (len(real), n_in), "step_vjp", "d_x")
            out.state[at, unit] = _rows(layout, d_state, len(real))[places]
            out.x[at, unit] = d_x[places]
            if with_params:
                out.params[at, unit] = join_params(params, d_params)
    return out


def join_params(params: Params, d_params: Params) -> Array:
    """The gradient of the parameters as one row ``(P,)``, in the order of ``params``.

    Raises:
        ContractError: ``d_params`` has other names or shapes than ``params``.
    """
    require_d_params(d_params, params)
    return np.concatenate([np.ravel(d_params[name]) for name in params] or [np.zeros(0)])


def require_cotangent(d_ys: Array, ys_shape: tuple[int, ...]) -> None:
    """Reject a cotangent of the outputs that has another shape than they have."""
    if np.shape(d_ys) != ys_shape:
        raise ContractError(
            f"d_ys.shape={np.shape(d_ys)}, but expected that of ys, {ys_shape}", item="d_ys"
        )


def split_params(params: Params, row: Array) -> Params:
    """A row ``(P,)`` as arrays of the names, shapes and dtypes of ``params``."""
    ends = np.cumsum([value.size for value in params.values()])
    parts = np.split(row, ends[:-1])
    return {
        name: part.reshape(value.shape).astype(value.dtype)
        for (name, value), part in zip(params.items(), parts, strict=True)
    }


def jacobians(
    cell: Cell, params: Params, xs: Array, state0: State | None = None, mask: Array | None = None
) -> Array:
    """The one-step Jacobians of the state along a sequence.

    >>> import numpy as np
    >>> from bpttcheck.cells import Elman
    >>> cell = Elman("identity")
    >>> params = cell.init(np.random.default_rng(0), n_in=2, n_hidden=3)
    >>> J = jacobians(cell, params, np.ones((5, 4, 2)))
    >>> J.shape, bool((J == params["W"]).all())
    ((5, 4, 3, 3), True)

    Args:
        cell: any object with the methods of :class:`bpttcheck.Cell`.
        params: its parameters.
        xs: the inputs ``(T, B, n_in)``.
        state0: the state before the first step; None: the cell's own.
        mask: ``(T, B)`` bool, true where the step is real; None: every step is.

    Returns:
        ``J (T, B, S, S)`` with ``J[t, b, i, j] = dstate[t+1][b, i] / dstate[t][b, j]``, where ``S``
        counts the floating entries of a state. At a masked step it is the identity.

    Raises:
        ContractError: as :func:`bpttcheck.unroll`, or the state has no floating entry.
    """
    _, _, tape = unroll(cell, params, xs, state0, mask)
    layout = layout_of(tape)
    out = np.zeros((len(xs), xs.shape[1], layout.S, layout.S), layout.dtype)
    for t, step in enumerate(derivatives(cell, params, tape, with_params=False)):
        out[t] = step.state[:, : layout.S]
    return out


def derivatives(
    cell: Cell, params: Params, tape: CellTape, with_params: bool = True
) -> Iterator[StepDerivatives]:
    """The :class:`StepDerivatives` of every step that a tape recorded, first to last."""
    layout, n_in = layout_of(tape), tape.xs_shape[2]
    for cache, rows in zip(tape.caches, tape.real_rows, strict=True):
        yield step_derivatives(cell, params, cache, layout, n_in, rows, with_params)


def _rows(layout: Layout, d_state: State, R: int) -> Array:
    rows = layout.join(d_state)
    require_shape(rows, (R, layout.S), "step_vjp", "d_previous_state")
    return rows
