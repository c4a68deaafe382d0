"""Truncated backpropagation through time, and the surrogate of which it is the exact gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from bpttcheck import trees
from bpttcheck.bptt.backpropagate import backpropagate
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.bptt.unroll import CellTape, unroll
from bpttcheck.contract import Array, Cell, Engine, Params, State
from bpttcheck.errors import ContractError


@dataclass(frozen=True)
class Truncated:
    """A cell whose backward pass runs every ``k1`` steps and goes back ``k2`` steps: BPTT(k2; k1).

    The outputs are cut into windows. Window ``j = 0, 1, ...`` is responsible for the outputs of its
    last ``k1`` steps and goes back ``k2`` steps from its end::

        end[j]   = min((j + 1) k1, T)          outputs j k1 .. end[j] - 1          (1)
        start[j] = max((j + 1) k1 - k2, 0)     steps start[j] .. end[j] - 1        (2)

    The gradient is the sum over the windows of what :func:`bpttcheck.backpropagate` gives for the
    window's own outputs and steps; the final state belongs to the last window. Nothing goes back
    past ``start[j]``, so this is *not* the gradient of the forward pass. It is exactly the gradient
    of a surrogate: the same forward pass, in which each window starts from a frozen state::

        state = freeze(state[start[j]])        state0 itself where start[j] = 0    (3)

    :meth:`sequence` is that surrogate, and the checks compare with it: JAX through
    ``stop_gradient``, finite differences with the states of the unperturbed run. Reports also say
    how far the truncated gradient is from the full one. With ``k2 >= T`` they are the same.

    Args:
        cell: any object with the methods of :class:`bpttcheck.Cell`.
        k1: steps from one backward pass to the next, 1 or more.
        k2: steps that each of them goes back, at least ``k1``.

    Raises:
        ContractError: ``k1`` or ``k2`` is out of range.

    Source:
        Williams and Peng (1990), "An efficient gradient-based algorithm for on-line training of
        recurrent network trajectories": BPTT(h; h') with h = k2, h' = k1.
    """

    cell: Cell
    k1: int
    k2: int
    exact_length: ClassVar[bool] = True
    splits_in_time: ClassVar[bool] = False
    supports_mask: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.k1 < 1:
            raise ContractError(f"k1={self.k1}, expected 1 or more steps", item="k1")
        if self.k2 < self.k1:
            raise ContractError(
                f"k2={self.k2} with k1={self.k1}, expected k2 >= k1: the first of the {self.k1} "
                "outputs between two backward passes would have no gradient at all",
                item="k2",
            )

    @property
    def surrogate(self) -> str:
        """What reports say of a gradient that is cut on purpose."""
        return f"states are frozen where windows of k2={self.k2} steps start, every k1={self.k1}"

    @property
    def full(self) -> CellLayer:
        """The same forward pass with the full gradient."""
        return CellLayer(self.cell)

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """The cell's fresh parameters."""
        return self.cell.init(rng, n_in, n_hidden)

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The cell's state before the first step."""
        return self.cell.initial_state(params, batch_size)

    def forward(
        self, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State, CellTape]:
        """All steps forward: truncation does not change the forward pass."""
        return unroll(self.cell, params, xs, state0, mask)

    def vjp(
        self, params: Params, tape: CellTape, d_ys: Array, d_state_T: State
    ) -> tuple[Params, Array, State]:
        """The truncated gradient: the sum over the windows."""
        d_params = {name: np.zeros_like(value) for name, value in params.items()}
        d_xs = np.zeros(tape.xs_shape, tape.xs_dtype)
        d_state0 = trees.map_leaves(lambda leaf: np.zeros_like(leaf), d_state_T)
        windows = _windows(tape.xs_shape[0], self.k1, self.k2)
        if not windows:
            return d_params, d_xs, d_state_T
        for j, (start, end) in enumerate(windows):
            own = np.zeros((end - start, *d_ys.shape[1:]), d_ys.dtype)
            own[j * self.k1 - start :] = d_ys[j * self.k1 : end]  # (1)
            last = d_state_T if j == len(windows) - 1 else None
            found = backpropagate(self.cell, params, _part(tape, start, end), own, last)
            for name, value in found.d_params.items():
                d_params[name] += value
            d_xs[start:end] += found.d_xs
            if start == 0:  # (3)
                d_state0 = trees.map_leaves(np.add, d_state0, found.d_state0)
        return d_params, d_xs, d_state0

    def sequence(
        self, engine: Engine, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State]:
        """The surrogate: every window from its frozen state, all windows side by side as rows."""
        T, B = xs.shape[:2]
        windows = _windows(T, self.k1, self.k2)
        if not windows:
            return engine.scan(self.cell, params, xs, state0, mask)
        start = np.array([s for s, _ in windows])
        end = np.array([e for _, e in windows])
        at = start + np.arange(self.k2)[:, None]  # (k2, J): the step that row i of window j takes
        real = np.broadcast_to((at < end)[:, :, None], (*at.shape, B))
        at = np.minimum(at, T - 1)
        mask = np.ones((T, B), bool) if mask is None else mask
        reached = engine.states(self.cell, params, xs, state0, mask)

        def first(leaf: Array, initial: Array) -> Array:
            known = np.concatenate([initial[None], engine.freeze(leaf)[1:]])  # (3)
            return known[start].reshape(len(start) * B, *initial.shape[1:])

        rows = len(start) * B
        ys, states = engine.scan(
            self.cell,
            params,
            xs[at].reshape(self.k2, rows, xs.shape[2]),
            trees.map_leaves(first, reached, state0),
            (mask[at] & real).reshape(self.k2, rows),
        )
        ys = ys.reshape(self.k2, len(start), B, ys.shape[-1])
        t = np.arange(T)
        window = t // self.k1
        return ys[t - start[window], window], trees.map_leaves(lambda leaf: leaf[-B:], states)


def _windows(T: int, k1: int, k2: int) -> list[tuple[int, int]]:
    """``(start, end)`` of every window, equations (1) and (2)."""
    count = -(-T // k1)
    return [(max((j + 1) * k1 - k2, 0), min((j + 1) * k1, T)) for j in range(count)]


def _part(tape: CellTape, start: int, end: int) -> CellTape:
    """The tape of the steps ``start .. end - 1``."""
    return replace(
        tape,
        states=tape.states[start : end + 1],
        caches=tape.caches[start:end],
        real_rows=tape.real_rows[start:end],
        xs_shape=(end - start, *tape.xs_shape[1:]),
        ys_shape=(end - start, *tape.ys_shape[1:]),
    )
