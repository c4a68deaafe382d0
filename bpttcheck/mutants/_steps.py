"""A right cell as a right layer: the smallest loop over time that keeps the contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Array, is_cell, is_float


@dataclass(frozen=True)
class UnrolledTape:
    """What the backward loop needs.

    Args:
        caches: what each step returned; None where no row was real.
        rows: for each step the indices of its real rows, or None where all of them are.
        state: the final state.
        xs: the inputs.
    """

    caches: list[Any]
    rows: list[Array | None]
    state: Any
    xs: Array


class CellSteps:
    """A right cell as a layer.

    Args:
        cell: a right cell; it is the ``reference`` of the layer too.
    """

    supports_mask = True

    def __init__(self, cell: Any) -> None:
        self.reference = cell

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("reference", "step", "step_vjp"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.reference, name)

    def __repr__(self) -> str:
        return f"CellSteps({self.reference!r})"

    def forward(self, params: Any, xs: Array, state0: Any = None, mask: Any = None) -> Any:
        """All steps forward: ``(ys, state_T, tape)``."""
        cell, B = self.reference, xs.shape[1]
        state = cell.initial_state(params, B) if state0 is None else state0
        tape = UnrolledTape([], [], state, xs)
        ys: list[Array] = []
        for t, x in enumerate(xs):
            rows = None if mask is None or mask[t].all() else np.flatnonzero(mask[t])
            if rows is None:
                state, y, cache = cell.step(params, state, x)
            elif rows.size:
                new, y_rows, cache = cell.step(params, _take(state, rows), x[rows])
                state = trees.map_leaves(lambda old, n, r=rows: _put(old, n, r), state, new)
                y = _put(np.zeros((B, *y_rows.shape[1:]), y_rows.dtype), y_rows, rows)
            else:
                y, cache = self._no_output(params, state, x), None
            ys.append(y)
            tape.caches.append(cache)
            tape.rows.append(rows)
        if ys:
            out = np.stack(ys)
        else:
            out = self._no_output(params, state, np.zeros(xs.shape[1:], xs.dtype))[None][:0]
        return out, state, UnrolledTape(tape.caches, tape.rows, state, xs)

    def vjp(self, params: Any, tape: UnrolledTape, d_ys: Array, d_state_T: Any) -> Any:
        """All steps backward: ``(d_params, d_xs, d_state0)``."""
        cell = self.reference
        d_params = {key: np.zeros_like(value) for key, value in params.items()}
        d_xs = np.zeros_like(tape.xs)
        d_state = self._carried(tape, d_state_T)
        for t in reversed(range(len(tape.caches))):
            rows, cache = tape.rows[t], tape.caches[t]
            if rows is None:
                d_step, d_state, d_xs[t] = cell.step_vjp(params, cache, d_state, d_ys[t])
            elif rows.size:
                d_new = _take(d_state, rows)
                d_step, d_old, d_xs[t, rows] = cell.step_vjp(params, cache, d_new, d_ys[t, rows])
                d_state = trees.map_leaves(lambda old, n, r=rows: _put(old, n, r), d_state, d_old)
            else:
                continue
            d_params = {key: value + d_step[key] for key, value in d_params.items()}
            d_state = self._carried(tape, d_state)
        return d_params, d_xs, d_state

    def _no_output(self, params: Any, state: Any, x: Array) -> Array:
        """Zeros of the shape of ``y``, which only a step can tell."""
        with np.errstate(all="ignore"):
            return np.zeros_like(self.reference.step(params, state, np.zeros_like(x))[1])

    def _carried(self, tape: UnrolledTape, d_state: Any) -> Any:
        """Zeros for the leaves that are carried and not differentiated."""

        def one(leaf: Any, d_leaf: Any) -> Any:
            return d_leaf if is_float(leaf) else np.zeros(np.shape(leaf), tape.xs.dtype)

        return trees.map_leaves(one, tape.state, d_state)


def as_layer(target: Any) -> Any:
    """``target`` itself if it is a layer, else the layer that steps it."""
    return CellSteps(target) if is_cell(target) else target


def _take(state: Any, rows: Array) -> Any:
    return trees.map_leaves(lambda leaf: leaf[rows], state)


def _put(old: Array, new: Array, rows: Array) -> Array:
    out = old.astype(np.result_type(old, new), copy=True)
    out[rows] = new
    return out
