"""A call of a backward pass and its result, in a form common to cells and layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_X, Block, d_param, d_previous_state, of_params, of_state
from bpttcheck.contract import Array


@dataclass(frozen=True)
class VjpResult:
    """What a backward pass returns.

    Args:
        d_params: gradients by parameter.
        d_state: cotangent of the previous (a cell) or the initial state (a layer).
        d_x: cotangent of the input, ``(B, n_in)`` or ``(T, B, n_in)``.
    """

    d_params: dict[str, Array]
    d_state: Any
    d_x: Array

    def blocks(self) -> dict[str, Array]:
        """Every array by its name in ``step_vjp``: ``"d_params['W']"``, ``"d_x"``."""
        state = of_state(d_previous_state(), self.d_state)
        return {**of_params(self.d_params), **state, D_X: self.d_x}


@dataclass(frozen=True)
class VjpCall:
    """One call of the right backward pass, which can be repeated with other cotangents.

    Args:
        params: the parameters.
        record: the cell's cache or the layer's tape.
        d_state: cotangent of the new or the final state.
        d_y: cotangent of the output, ``(B, n_out)`` or ``(T, B, n_out)``.
        pull: the right backward pass: ``pull(d_state, d_y)``, or ``pull(d_state, d_y, params)``
            with other parameters than the forward pass had.
    """

    params: dict[str, Array]
    record: Any
    d_state: Any
    d_y: Array
    pull: Callable[..., VjpResult] = field(repr=False)

    def right(self) -> VjpResult:
        """The result of the right backward pass."""
        return self.pull(self.d_state, self.d_y)

    @property
    def rows(self) -> int:
        """The number of rows of the batch."""
        return self.d_y.shape[-2]


Change = Callable[[VjpCall], VjpResult]
"""A wrong backward pass, made of calls of the right one."""

Edit = Callable[[Array], Array]


def change_block(pulled: VjpResult, block: str, how: Edit) -> VjpResult:
    """``pulled`` with one block replaced by ``how(block)``; names as in ``step_vjp``."""
    if block == D_X:
        return replace(pulled, d_x=edited(how, pulled.d_x))
    if Block(block).kind == "state":
        d_state = change_leaf(pulled.d_state, Block(block).path, how)
        return replace(pulled, d_state=d_state)
    d_params = {
        key: edited(how, value) if block == d_param(key) else value
        for key, value in pulled.d_params.items()
    }
    return replace(pulled, d_params=d_params)


def change_blocks(pulled: VjpResult, blocks: tuple[str, ...], how: Edit) -> VjpResult:
    """``pulled`` with each of the blocks replaced by ``how(block)``."""
    for block in blocks:
        pulled = change_block(pulled, block, how)
    return pulled


def change_leaf(state: Any, path: str, how: Edit) -> Any:
    """``state`` with the leaf at ``path`` replaced by ``how(leaf)``."""
    leaves, shape = trees.flatten(state)
    changed = [
        edited(how, leaf) if path == own else leaf
        for own, leaf in zip(shape.paths, leaves, strict=True)
    ]
    return shape.unflatten(changed)


def edited(how: Edit, value: Any) -> Array:
    """``how(value)`` as an array: NumPy turns a result without axes into a scalar."""
    return np.asarray(how(np.asarray(value)))


def zeros(array: Array) -> Array:
    """Zeros of the shape and dtype of ``array``."""
    return np.zeros_like(array)


def zero_state(state: Any) -> Any:
    """``state`` with zeros in every leaf."""
    return trees.map_leaves(np.zeros_like, state)


def times(factor: float) -> Edit:
    """Multiplies by a number; the dtype stays."""
    return lambda array: array * factor


def rows_before(d_state: Any, d_y: Array, count: int) -> tuple[Any, Array]:
    """The cotangents with zeros in every row of the batch from number ``count`` on."""

    def keep(leaf: Array, axis: int) -> Array:
        kept = np.zeros_like(leaf)
        at = (slice(None),) * axis + (slice(count),)
        kept[at] = leaf[at]
        return kept

    state = trees.map_leaves(lambda leaf: keep(leaf, 0) if np.ndim(leaf) else leaf, d_state)
    return state, keep(d_y, d_y.ndim - 2)


def only_row(d_state: Any, d_y: Array, row: int) -> tuple[Any, Array]:
    """The cotangents with zeros in every row of the batch but one."""

    def keep(leaf: Array, axis: int) -> Array:
        kept = np.zeros_like(leaf)
        at = (slice(None),) * axis + (row,)
        kept[at] = leaf[at]
        return kept

    state = trees.map_leaves(lambda leaf: keep(leaf, 0) if np.ndim(leaf) else leaf, d_state)
    return state, keep(d_y, d_y.ndim - 2)
