"""Cells and layers with a wrong backward pass, and everything else of the right one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bpttcheck.contract import Array, is_cell
from bpttcheck.mutants._call import Change, VjpCall, VjpResult

# Attributes by which a checker could bypass the wrong backward pass.
_HIDDEN = frozenset({"step", "step_vjp", "forward", "vjp", "adjoints", "gradients"})


class Mutated:
    """A cell or layer whose backward pass is ``change``; the rest is the right one's.

    Args:
        right: the right cell or layer.
        change: the wrong backward pass.
    """

    def __init__(self, right: Any, change: Change) -> None:
        self._right = right
        self._change = change

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_right" or name in _HIDDEN:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._right, name)

    def __repr__(self) -> str:
        return f"Mutated({self._right!r})"


class MutatedCell(Mutated):
    """A cell with a wrong ``step_vjp``."""

    def step(self, params: Any, state: Any, x: Array) -> Any:
        """The right step."""
        return self._right.step(params, state, x)

    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Array) -> Any:
        """The wrong backward step."""
        found = self._change(cell_call(self._right, params, cache, d_state, d_y))
        return found.d_params, found.d_state, found.d_x


class MutatedLayer(Mutated):
    """A layer with a wrong ``vjp``."""

    def forward(self, params: Any, xs: Array, state0: Any = None, mask: Any = None) -> Any:
        """The right forward pass."""
        # A layer without masks need not have the argument.
        given = () if mask is None else (mask,)
        return self._right.forward(params, xs, state0, *given)

    def vjp(self, params: Any, tape: Any, d_ys: Array, d_state_T: Any) -> Any:
        """The wrong backward pass."""
        found = self._change(layer_call(self._right, params, tape, d_state_T, d_ys))
        return found.d_params, found.d_x, found.d_state


def planted(change: Change) -> Callable[[Any], Any]:
    """``plant`` for a mutant that replaces the backward pass of a cell or a layer."""

    def plant(target: Any) -> Any:
        return MutatedCell(target, change) if is_cell(target) else MutatedLayer(target, change)

    return plant


def cell_call(cell: Any, params: Any, cache: Any, d_state: Any, d_y: Array) -> VjpCall:
    """A call of a cell's ``step_vjp`` in the common form."""

    def pull(d_state: Any, d_y: Array, with_params: Any = params) -> VjpResult:
        return VjpResult(*cell.step_vjp(with_params, cache, d_state, d_y))

    return VjpCall(params, cache, d_state, d_y, pull)


def layer_call(layer: Any, params: Any, tape: Any, d_state_T: Any, d_ys: Array) -> VjpCall:
    """A call of a layer's ``vjp`` in the common form."""

    def pull(d_state: Any, d_y: Array, with_params: Any = params) -> VjpResult:
        d_params, d_xs, d_state0 = layer.vjp(with_params, tape, d_y, d_state)
        return VjpResult(d_params, d_state0, d_xs)

    return VjpCall(params, tape, d_state_T, d_ys, pull)
