"""Backpropagation through time in less memory: some states are kept, the rest is computed again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bpttcheck import trees
from bpttcheck.bptt.backpropagate import Gradients, backpropagate
from bpttcheck.bptt.unroll import require_mask, require_sequence, unroll
from bpttcheck.contract import Array, Cell, Params, State
from bpttcheck.errors import ContractError


class CheckpointTape(NamedTuple):
    """The inputs, the state before each segment, and where each segment starts and ends."""

    xs: Array
    mask: Array | None
    states: tuple[State, ...]
    bounds: tuple[int, ...]
    ys_shape: tuple[int, ...]


@dataclass(frozen=True)
class Checkpointed:
    """A cell as a layer that keeps the state before each of a few segments, and nothing else.

    The ``T`` steps are cut into ``K`` segments, as equal as can be::

        bound[k] = k T // K,   k = 0 .. K                                         (1)

    Forward, every segment is unrolled, and its tape dropped::

        state[bound[k+1]], ys = unroll(state[bound[k]], xs) over segment k        (2)

    Backward, for ``k = K-1 .. 0``, each segment is unrolled once more from its kept state, and its
    tape lives until the segment before it is done. The chain rule over segments is that over
    steps::

        d_p, d_xs, d_state[bound[k]] = vjp of (2) at d_state[bound[k+1]]          (3)
        d_params = sum of d_p over k                                              (4)

    **Memory.** With ``S`` bytes for a state, ``C`` for what a step keeps, :func:`stored_bytes`, and
    ``A`` for what a step needs beside while a segment is worked on, its adjoint or its output::

        K S  +  ceil(T / K) (C + A)          rather than          T (C + A)       (5)

    With ``K = ceil(sqrt(T))``, the default, and a state that is no larger than ``C``, the first is
    at most ``2 ceil(sqrt(T)) (C + A)``. On top of both comes the work of the step at hand:
    parameter gradients of a step and of a segment, ``2 P``, and its intermediate arrays, for which
    :meth:`peak_bytes` allows ``2 (C + A)``. **Time**: one more forward pass, whatever ``K`` is.

    **Rounding.** Outputs, ``d_xs`` and ``d_state0`` come from the same operations in the same order
    as those of :class:`bpttcheck.bptt.layer.CellLayer`, so they have the same bits. ``d_params`` is
    added up within a segment first, (4), and so differs by rounding, unless there is one segment,
    or one for each step.

    Args:
        cell: any object with the methods of :class:`bpttcheck.Cell`.
        segments: ``K``, at least 1; more than ``T`` are ``T``; None: ``ceil(sqrt(T))``.

    Raises:
        ContractError: ``segments`` is not an integer, or less than 1.

    Source:
        Griewank (1992), "Achieving logarithmic growth of temporal and spatial complexity in reverse
        automatic differentiation"; Chen et al. (2016), "Training deep nets with sublinear memory
        cost", has the square root; Gruslys et al. (2016), "Memory-efficient backpropagation through
        time", the recurrent case.
    """

    cell: Cell
    segments: int | None = None
    supports_mask: ClassVar[bool] = True

    def __post_init__(self) -> None:
        given: Any = self.segments
        whole = isinstance(given, (int, np.integer)) and not isinstance(given, bool)
        if given is not None and (not whole or given < 1):
            raise ContractError(
                f"segments={given!r} (type={type(given).__name__}), expected an integer of 1 or"
                " more, or None for ceil(sqrt(T))",
                item="segments",
            )

    @property
    def reference(self) -> Cell:
        """The cell itself: checks compare with it, step by step."""
        return self.cell

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """The cell's fresh parameters."""
        return self.cell.init(rng, n_in, n_hidden)

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The cell's state before the first step."""
        return self.cell.initial_state(params, batch_size)

    def forward(
        self, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State, CheckpointTape]:
        """All steps forward, equations (1) and (2): ``(ys, state_T, tape)``."""
        # Views of a sequence of another length would hide a wrong mask from `unroll`.
        require_sequence(xs)
        if mask is not None:
            require_mask(mask, *xs.shape[:2])
        bounds = self.bounds(len(xs))
        states: list[State] = []
        ys: Array | None = None
        state = state0
        for start, end in itertools.pairwise(bounds):
            states.append(state)
            part = _part(mask, start, end)
            found, state = unroll(self.cell, params, xs[start:end], state, part)[:2]  # (2)
            ys = np.empty((len(xs), *found.shape[1:]), found.dtype) if ys is None else ys
            ys[start:end] = found
        if ys is None:
            ys = unroll(self.cell, params, xs, state0, mask)[0]
        return ys, state, CheckpointTape(xs, mask, tuple(states), bounds, ys.shape)

    def vjp(
        self, params: Params, tape: CheckpointTape, d_ys: Array, d_state_T: State
    ) -> tuple[Params, Array, State]:
        """All steps backward, equations (3) and (4): ``(d_params, d_xs, d_state0)``.

        Raises:
            ContractError: ``d_ys`` has another shape than ``ys``.
        """
        if np.shape(d_ys) != tape.ys_shape:
            raise ContractError(
                f"d_ys.shape={np.shape(d_ys)}, but expected that of ys, {tape.ys_shape}",
                item="d_ys",
            )
        d_params = {name: np.zeros_like(value) for name, value in params.items()}
        d_xs = np.zeros(tape.xs.shape, tape.xs.dtype)
        d_state = d_state_T
        for k in reversed(range(len(tape.states))):
            d_state = self._segment_vjp(params, tape, k, d_ys, d_state, d_params, d_xs)
        return d_params, d_xs, d_state

    def bounds(self, T: int) -> tuple[int, ...]:
        """Equation (1): where the segments of ``T`` steps start, and ``T`` itself."""
        wanted = math.isqrt(max(T - 1, 0)) + 1 if self.segments is None else self.segments
        count = min(wanted, T)
        return (*(k * T // count for k in range(count)), T)

    def peak_bytes(self, params: Params, T: int, B: int, n_in: int) -> int:
        """Bytes in use at most, beside arguments and results, without a mask: (5) and one step.

        Args:
            params: the parameters.
            T: steps.
            B: rows of the batch.
            n_in: the width of the input.

        Returns:
            The bytes of the arrays; what Python needs for the objects around them comes on top.
        """
        sizes = _sizes(self.cell, params, B, n_in)
        bounds = self.bounds(T)
        length = max((b - a for a, b in itertools.pairwise(bounds)), default=0)
        each = sizes.kept + max(sizes.state, sizes.output)
        weights = sum(value.nbytes for value in params.values())
        return (len(bounds) - 1) * sizes.state + (length + 2) * each + 2 * weights

    def _segment_vjp(
        self,
        params: Params,
        tape: CheckpointTape,
        k: int,
        d_ys: Array,
        d_state: State,
        d_params: Params,
        d_xs: Array,
    ) -> State:
        """Segment ``k`` again, and back; a function, so that its tape is gone before the next."""
        start, end = tape.bounds[k], tape.bounds[k + 1]
        found = self._gradients(params, tape, k, d_ys[start:end], d_state)  # (3)
        for name, value in found.d_params.items():
            d_params[name] += value  # (4)
        d_xs[start:end] = found.d_xs
        return found.d_state0

    def _gradients(
        self, params: Params, tape: CheckpointTape, k: int, d_ys: Array, d_state: State
    ) -> Gradients:
        start, end = tape.bounds[k], tape.bounds[k + 1]
        part = unroll(
            self.cell, params, tape.xs[start:end], tape.states[k], _part(tape.mask, start, end)
        )[2]
        return backpropagate(self.cell, params, part, d_ys, d_state)


def checkpointed(cell: Cell, segments: int | None = None) -> Checkpointed:
    """``cell`` as a layer that keeps few states and computes the others again: see the class.

    >>> import numpy as np
    >>> from bpttcheck.cells import LSTM
    >>> layer = checkpointed(LSTM())
    >>> layer.bounds(10)
    (0, 2, 5, 7, 10)
    >>> params = layer.init(np.random.default_rng(0), 8, 32)
    >>> layer.peak_bytes(params, T=400, B=8, n_in=8), 400 * stored_bytes(LSTM(), params, 8, 8)
    (571392, 5734400)

    Args:
        cell: any object with the methods of :class:`bpttcheck.Cell`.
        segments: how many segments, and so how many states are kept; None: ``ceil(sqrt(T))``.

    Returns:
        The layer.

    Raises:
        ContractError: ``segments`` is not an integer, or less than 1.
    """
    return Checkpointed(cell, segments)


def stored_bytes(cell: Cell, params: Params, B: int, n_in: int) -> int:
    """Bytes that :func:`bpttcheck.unroll` keeps for each step, without a mask.

    One step is run on zeros, and the memory counted that its new state and its cache hold and that
    neither the parameters, the old state nor the input held before. A view counts as the whole
    array it looks into, for it keeps that alive. The tape of ``T`` steps is ``T`` times as much;
    the output ``ys`` is not part of it.

    Args:
        cell: any object with the methods of :class:`bpttcheck.Cell`.
        params: its parameters.
        B: rows of the batch.
        n_in: the width of the input.

    Returns:
        The bytes of the arrays; what Python needs for the objects around them comes on top.
    """
    return _sizes(cell, params, B, n_in).kept


class _Sizes(NamedTuple):
    """Bytes of a state, of what a step keeps, and of its output."""

    state: int
    kept: int
    output: int


def _sizes(cell: Cell, params: Params, B: int, n_in: int) -> _Sizes:
    dtype = np.result_type(*params.values())
    state, x = cell.initial_state(params, B), np.zeros((B, n_in), dtype)
    with np.errstate(all="ignore"):
        new, y, cache = cell.step(params, state, x)
    known = {id(owner) for owner in _owners((params, state, x))}
    kept = {id(owner): owner.nbytes for owner in _owners((new, cache)) if id(owner) not in known}
    state_bytes = sum(np.asarray(leaf).nbytes for leaf in trees.leaves(new))
    return _Sizes(state_bytes, sum(kept.values()), np.asarray(y).nbytes)


def _owners(value: Any) -> Iterator[Array]:
    """The arrays that own the memory of every array inside ``value``."""
    if isinstance(value, np.ndarray):
        while isinstance(value.base, np.ndarray):
            value = value.base
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _owners(item)
    elif isinstance(value, (tuple, list, set, frozenset)):
        for item in value:
            yield from _owners(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _owners(getattr(value, field.name))
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        yield from _owners(vars(value))


def _part(mask: Array | None, start: int, end: int) -> Array | None:
    return None if mask is None else mask[start:end]
