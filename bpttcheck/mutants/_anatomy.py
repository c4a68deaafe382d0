"""The parts of a right cell or layer, found by running it: the places for planted bugs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_X, Block, d_param, d_previous_state
from bpttcheck.contract import is_cell, is_float
from bpttcheck.errors import ContractError
from bpttcheck.mutants._call import Change, zeros
from bpttcheck.mutants._points import CallPoint, differ, draw_point
from bpttcheck.traits import trait

Size = tuple[int, int]
Shapes = Mapping[str, tuple[int, ...]]

GRID = tuple(product(range(1, 6), range(1, 7)))
"""The sizes ``(n_in, n_hidden)`` that are tried where any is allowed."""

_USUAL = (3, 4)
_POINTS = 3


@dataclass(frozen=True)
class SubjectInfo:
    """The parts of a cell or layer in which bugs can be planted.

    Args:
        kind: ``"cell"`` or ``"layer"``.
        target: the right cell or layer itself.
        grid: allowed ``(n_in, n_hidden)`` -> parameter -> shape.
        params: parameter -> shape at ``(n_in, n_hidden)``.
        state: the structure of the state.
        floats: for each leaf of the state, whether it is differentiated.
        state_shapes: the shapes of its leaves at the first size, ``B = 2``.
        n_in: the size used.
        n_hidden: the size used.
        n_out: width of the output.
        masks: whether sequences may have masks.
    """

    kind: str
    target: Any = field(repr=False)
    grid: Mapping[Size, Shapes] = field(repr=False)
    params: Shapes
    state: trees.Structure
    floats: tuple[bool, ...]
    state_shapes: tuple[tuple[int, ...], ...]
    n_in: int
    n_hidden: int
    n_out: int
    masks: bool
    _points: dict[Size, list[CallPoint]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def param_blocks(self) -> tuple[Block, ...]:
        """``d_params['W']`` for each parameter."""
        return tuple(d_param(key) for key in self.params)

    @property
    def state_blocks(self) -> tuple[Block, ...]:
        """``d_previous_state`` or ``d_previous_state[0]`` for each leaf that is differentiated."""
        return tuple(d_previous_state(path) for path in self.state_paths)

    @property
    def state_paths(self) -> tuple[str, ...]:
        """The paths of the leaves of the state that are differentiated."""
        named = zip(self.state.paths, self.floats, strict=True)
        return tuple(path for path, floats in named if floats)

    @property
    def blocks(self) -> tuple[str, ...]:
        """Every output of the backward pass, in the names of ``step_vjp``."""
        return (*self.param_blocks, *self.state_blocks, D_X)

    def where(self, test: Callable[[Size, Shapes], bool]) -> tuple[Size, ...] | None:
        """The sizes for which ``test(size, shapes)`` is true: None if none, ``()`` if all are."""
        found = tuple(size for size, shapes in self.grid.items() if test(size, shapes))
        if not found:
            return None
        return () if len(found) == len(self.grid) else found

    def where_filled(self, block: str) -> tuple[Size, ...] | None:
        """As :meth:`where`: the sizes where a block has entries; None if it is always zero."""
        if block not in self.nonzero:
            return None
        if block not in self.param_blocks:
            return ()
        key = list(self.params)[self.param_blocks.index(block)]
        return self.where(lambda _, shapes: 0 not in shapes[key])

    @cached_property
    def nonzero(self) -> tuple[str, ...]:
        """The blocks that are not zero at every point."""
        rights = [point.right.blocks() for point in self.points()]
        return tuple(block for block in self.blocks if any(r[block].any() for r in rights))

    def gates(self, key: str) -> tuple[int, int] | None:
        """``(axis, m)`` if that axis of the parameter is ``m`` times ``n_hidden``, ``m >= 2``."""
        if all(H == 1 for _, H in self.grid):
            return None
        for axis in (0, len(self.params[key]) - 1):
            found = {_multiple(shapes[key], axis, H) for (_, H), shapes in self.grid.items()}
            m = found.pop()
            if not found and m >= 2:
                return axis, m
        return None

    def points(self, size: Size | None = None) -> list[CallPoint]:
        """Calls of the right backward pass at random values of one size, three rows each."""
        size = size or (self.n_in, self.n_hidden)
        if size not in self._points:
            self._points[size] = [draw_point(self.target, size, seed) for seed in range(_POINTS)]
        return self._points[size]

    def reached(self, change: Change, size: Size | None = None) -> tuple[str, ...]:
        """The blocks that ``change`` makes wrong by more than rounding, at random points.

        A change that reaches nothing is equivalent to the right backward pass.
        """
        wrong: set[str] = set()
        for point in self.points(size):
            with np.errstate(all="ignore"):
                found = change(point.call).blocks()
            right = point.right.blocks()
            wrong |= {block for block in self.blocks if differ(found[block], right[block])}
        return tuple(block for block in self.blocks if block in wrong)

    @property
    def recurrent(self) -> bool:
        """True if the state's cotangent from one step affects any gradient of the step before."""
        for point in self.points():
            back = point.call.pull(point.right.d_state, zeros(point.call.d_y)).blocks()
            if any(differ(value, zeros(value)) for value in back.values()):
                return True
        return False


def anatomy(target: Any, sizes: tuple[Size, ...] | None = None) -> SubjectInfo:
    """The parts of ``target``, found by running it.

    Args:
        target: a right cell or layer.
        sizes: allowed ``(n_in, n_hidden)``; None: any that its ``init`` takes.

    Raises:
        ContractError: ``sizes`` is empty, or ``init`` or the forward pass fails.
    """
    if sizes is not None and not sizes:
        raise ContractError("sizes=(), but should hold at least one (n_in, n_hidden)", item="sizes")
    grid = _grid(target, sizes)
    n_in, n_hidden = size = _chosen(grid)
    try:
        with np.errstate(all="ignore"):
            points = [draw_point(target, size, seed) for seed in range(_POINTS)]
            state = target.initial_state(points[0].call.params, 2)
    except Exception as error:
        raise ContractError(
            f"at n_in={n_in}, n_hidden={n_hidden} the target raised {type(error).__name__}: "
            f"{error}; bugs are planted in a target that works: pass sizes= if it takes others only"
        ) from error
    leaves = trees.leaves(state)
    return SubjectInfo(
        "cell" if is_cell(target) else "layer", target, grid, grid[size],
        trees.structure(state), tuple(is_float(leaf) for leaf in leaves),
        tuple(np.shape(leaf) for leaf in leaves), n_in, n_hidden,
        int(np.shape(points[0].call.d_y)[-1]), trait(target, "supports_mask"),
        {size: points},
    )  # fmt: skip


def _grid(target: Any, sizes: tuple[Size, ...] | None) -> dict[Size, Shapes]:
    grid: dict[Size, Shapes] = {}
    refused = ""
    for size in sizes or GRID:
        try:
            params = target.init(np.random.default_rng(0), *size)
        except Exception as error:  # a size that this target does not accept
            refused = f"{type(error).__name__}: {error}"
            continue
        grid[size] = {key: np.shape(value) for key, value in params.items()}
    if not grid:
        raise ContractError(
            f"init takes none of the sizes {list(sizes or GRID)[:4]} ... ({refused}); pass sizes= "
            "that it takes",
            method="init",
        )
    return grid


def _chosen(grid: Mapping[Size, Shapes]) -> Size:
    """The preferred size: every parameter has entries, both sizes differ and exceed one."""

    def worth(size: Size) -> tuple[bool, ...]:
        filled = all(0 not in shape for shape in grid[size].values())
        return filled, size[0] != size[1], min(size) > 1, size == _USUAL

    return max(grid, key=worth)


def _multiple(shape: tuple[int, ...], axis: int, n_hidden: int) -> int:
    if not 0 <= axis < len(shape) or shape[axis] % n_hidden:
        return 0
    return shape[axis] // n_hidden
