"""The engine of a layer's ``sequence`` in plain NumPy: a loop that keeps the tapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.bptt.unroll import CellTape, unroll
from bpttcheck.contract import Array, Params, State
from bpttcheck.traits import trait


class Frozen:
    """Constants of a program that is run again and again near one point.

    The first run records the frozen values; every later run gets those of the first, in the order
    of the calls. Differences of such runs treat frozen values as constants.
    """

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._replay: Iterator[Any] | None = None

    def again(self) -> None:
        """Start a run."""
        self._replay = iter(self._kept) if self._kept else None

    def __call__(self, tree: Any) -> Any:
        """``tree`` of the first run."""
        if self._replay is not None:
            return next(self._replay)
        # A copy of the plain values: what is frozen takes no part in what is recorded of a run.
        self._kept.append(trees.map_leaves(lambda leaf: np.array(leaf, subok=False), tree))
        return self._kept[-1]


class NativeEngine:
    """Runs a layer's ``sequence`` step by step.

    Args:
        freeze: what a frozen tree becomes; None: itself.

    Attributes:
        tapes: the tape of every scan, in the order of the calls, for
            :func:`bpttcheck.backpropagate`; that of a reverse scan is of the flipped sequence.
    """

    def __init__(self, freeze: Callable[[Any], Any] | None = None) -> None:
        self.tapes: list[CellTape] = []
        self._freeze = freeze

    def scan(
        self,
        cell: Any,
        params: Params,
        xs: Array,
        state0: State,
        mask: Array | None = None,
        reverse: bool = False,
    ) -> tuple[Array, State]:
        """See :meth:`bpttcheck.contract.Engine.scan`."""
        flip = slice(None, None, -1 if reverse else 1)
        real = None if mask is None else mask[flip]
        ys, state, tape = unroll(self._declared(cell), params, xs[flip], state0, real)
        self.tapes.append(tape)
        return ys[flip], state

    def states(
        self, cell: Any, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> State:
        """See :meth:`bpttcheck.contract.Engine.states`."""
        tape = unroll(self._declared(cell), params, xs, state0, mask)[2]
        return trees.map_leaves(lambda *leaves: np.stack(leaves), *tape.states)

    def freeze(self, tree: Any) -> Any:
        """See :meth:`bpttcheck.contract.Engine.freeze`."""
        return tree if self._freeze is None else self._freeze(tree)

    def _declared(self, cell: Any) -> Any:
        """The cell, or where values are frozen the surrogate that it declares."""
        if self._freeze is None or trait(cell, "surrogate_step") is None:
            return cell
        return SurrogateCell(cell, self._freeze)


class SurrogateCell:
    """The forward pass of a cell's ``surrogate_step``, with a ``freeze`` of the caller's choice.

    Args:
        cell: a cell with ``surrogate_step(freeze, params, state, x) -> (state, y)``.
        freeze: makes a tree a constant.
    """

    def __init__(self, cell: Any, freeze: Callable[[Any], Any]) -> None:
        self._cell, self._freeze = cell, freeze
        self.initial_state = cell.initial_state

    def step(self, params: Params, state: State, x: Array) -> tuple[State, Array, None]:
        """One step, without a cache: there is nothing to go back with."""
        new, y = self._cell.surrogate_step(self._freeze, params, state, x)
        return new, y, None
