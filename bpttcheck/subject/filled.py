"""A subject that leaves gradients out on purpose, with zeros in their place.

Code may return None for what it does not differentiate. Zeros let the loop over time continue; the
blocks themselves are not judged, and the report names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import Block, d_param, of_state


@dataclass(frozen=True)
class _Filled:
    """Delegates to ``target``, whose backward pass may return None for some gradients."""

    target: Any

    def __getattr__(self, name: str) -> Any:
        if name == "target" or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        return getattr(self.target, name)


@dataclass(frozen=True)
class FilledCell(_Filled):
    """A cell whose ``step_vjp`` may return None for some gradients."""

    def step(self, params: Any, state: Any, x: Any) -> Any:
        """One step; the cache also holds the shapes that the gradients must have."""
        new, y, cache = self.target.step(params, state, x)
        return new, y, (state, x, cache)

    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> Any:
        """The target's gradients, zeros where it returns None."""
        state, x, own = cache
        d_params, d_previous, d_x = self.target.step_vjp(params, own, d_state, d_y)
        return _params(d_params, params), _state(d_previous, state), _array(d_x, x)


@dataclass(frozen=True)
class FilledLayer(_Filled):
    """A layer whose ``vjp`` may return None for some gradients."""

    def forward(self, params: Any, xs: Any, state0: Any, *mask: Any) -> Any:
        """The whole sequence; the tape also holds the shapes that the gradients must have."""
        ys, state, tape = self.target.forward(params, xs, state0, *mask)
        return ys, state, (state0, xs, tape)

    def vjp(self, params: Any, tape: Any, d_ys: Any, d_state_T: Any) -> Any:
        """The target's gradients, zeros where it returns None."""
        state0, xs, own = tape
        d_params, d_xs, d_state0 = self.target.vjp(params, own, d_ys, d_state_T)
        return _params(d_params, params), _array(d_xs, xs), _state(d_state0, state0)


def filled(target: Any, kind: str) -> Any:
    """``target``, a ``"cell"`` or a ``"layer"``, with zeros where it returns None."""
    return FilledCell(target) if kind == "cell" else FilledLayer(target)


def unfilled(target: Any) -> Any:
    """The hand-written object itself."""
    return target.target if isinstance(target, _Filled) else target


def absent(
    d_params: Any, d_x: Any, d_state: Any, state: Any, names: tuple[Block, Block]
) -> list[str]:
    """The blocks for which a backward pass returned None.

    Args:
        d_params: gradients by parameter.
        d_x: gradient of the input.
        d_state: gradient of the state.
        state: the state itself.
        names: the names of the gradients of state and input.
    """
    state_name, x_name = names
    found: list[str] = [d_param(key) for key, g in d_params.items() if g is None]
    leaves = of_state(state_name, state)
    if d_state is None:
        found += leaves
    else:
        gone = _none_leaves(d_state, state)
        found += [block for block, none in zip(leaves, gone, strict=True) if none]
    return found + ([x_name] if d_x is None else [])


def _none_leaves(tree: Any, like: Any) -> list[bool]:
    try:
        ordered = trees.map_leaves(lambda _, leaf: leaf is None, like, tree)
    except Exception:  # another structure: the check `contract` reports it
        return [False] * trees.structure(like).size
    return list(trees.leaves(ordered))


def _params(gradients: Any, params: Any) -> Any:
    if not isinstance(gradients, dict):
        return gradients
    return {k: np.zeros_like(params[k]) if g is None else g for k, g in gradients.items()}


def _state(gradient: Any, state: Any) -> Any:
    if gradient is None:
        return trees.map_leaves(np.zeros_like, state)
    return trees.map_leaves(lambda s, g: np.zeros_like(s) if g is None else g, state, gradient)


def _array(gradient: Any, like: Any) -> Any:
    return np.zeros_like(like) if gradient is None else gradient
