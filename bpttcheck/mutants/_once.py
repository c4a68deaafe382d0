"""Targets whose records can be used once only, or only the latest of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.contract import Array, is_cell
from bpttcheck.mutants._call import VjpResult, zero_state
from bpttcheck.mutants._planted import Mutated, cell_call, layer_call

Wrap = Callable[[Any, Array], Any]
Read = Callable[[Any, Callable[[Any], VjpResult]], VjpResult]


@dataclass
class Used:
    """A record, and whether the backward pass has read it."""

    record: Any
    already: bool = False


class Recording(Mutated):
    """A cell or layer that returns its own form of the right one's records.

    Args:
        right: the right cell or layer.
        wrap: makes the record that is returned: ``wrap(record, x)``.
        read: the backward pass: ``read(wrapped, pull)`` with ``pull(record)`` the right one.
    """

    def __init__(self, right: Any, wrap: Wrap, read: Read) -> None:
        self._right = right
        self._wrap = wrap
        self._read = read


class RecordingCell(Recording):
    """A cell with records of its own."""

    def step(self, params: Any, state: Any, x: Array) -> Any:
        """The right step."""
        state, y, record = self._right.step(params, state, x)
        return state, y, self._wrap(record, x)

    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Array) -> Any:
        """The right backward step, if the record allows it."""
        found = self._read(
            cache, lambda record: cell_call(self._right, params, record, d_state, d_y).right()
        )
        return found.d_params, found.d_state, found.d_x


class RecordingLayer(Recording):
    """A layer with records of its own."""

    def forward(self, params: Any, xs: Array, state0: Any = None, mask: Any = None) -> Any:
        """The right forward pass."""
        given = () if mask is None else (mask,)
        ys, state, tape = self._right.forward(params, xs, state0, *given)
        return ys, state, self._wrap(tape, xs)

    def vjp(self, params: Any, tape: Any, d_ys: Array, d_state_T: Any) -> Any:
        """The right backward pass, if the record allows it."""
        found = self._read(
            tape, lambda record: layer_call(self._right, params, record, d_state_T, d_ys).right()
        )
        return found.d_params, found.d_x, found.d_state


def once(*, raises: bool) -> Callable[[Any], Any]:
    """``plant``: the first use of a record is right; the second raises or gives zeros."""

    def read(used: Used, pull: Callable[[Any], VjpResult]) -> VjpResult:
        right = pull(used.record)
        if not used.already:
            used.already = True
            return right
        if raises:
            raise RuntimeError("this record was used before: its buffers are freed")
        d_params = {key: np.zeros_like(value) for key, value in right.d_params.items()}
        return VjpResult(d_params, zero_state(right.d_state), np.zeros_like(right.d_x))

    return lambda target: recording(target, lambda record, _: Used(record), read)


def latest_only(target: Any) -> Any:
    """``plant``: the backward pass reads what the latest forward call left on the instance."""
    latest: list[Any] = []

    def wrap(record: Any, x: Array) -> Any:
        # Tracers of a traced step must not outlive the trace.
        if type(x) is np.ndarray:
            latest[:] = [record]
        return record

    def read(record: Any, pull: Callable[[Any], VjpResult]) -> VjpResult:
        return pull(latest[0] if latest else record)

    return recording(target, wrap, read)


def recording(target: Any, wrap: Wrap, read: Read) -> Any:
    """``target`` with its own form of records: ``wrap(record, x)``, ``read(wrapped, pull)``."""
    kind = RecordingCell if is_cell(target) else RecordingLayer
    return kind(target, wrap, read)
