"""How a strided view reads from and writes to the memory that it looks into.

NumPy describes every view by an offset and strides. Here the same numbers become slices, transposes
and reshapes of an immutable JAX array, and their inverses.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Index = tuple[slice | int, ...]


@dataclass(frozen=True)
class Route:
    """The way from the value of a whole piece of memory to the value of a view, and back.

    Args:
        memory: axes of the whole in the order in which memory runs through them, slowest first.
        grid: the dense shape under which memory is seen, so that every axis of the view lies
            along one axis of the grid.
        index: what the view takes from the grid.
        order: the axes left by ``index``, in the order of the view's own.
        core: the view's shape with 1 where the view repeats itself (stride 0).
        shape: the view's shape.
        places: positions in memory, for a view that no grid describes; else None.
    """

    memory: tuple[int, ...]
    grid: tuple[int, ...]
    index: Index
    order: tuple[int, ...]
    core: tuple[int, ...]
    shape: tuple[int, ...]
    places: NDArray[Any] | None

    @property
    def repeats(self) -> bool:
        """True if some place of memory is seen twice: such a view cannot be written."""
        if self.places is None:
            return self.core != self.shape
        return len(np.unique(self.places)) < self.places.size

    def get(self, whole: Any) -> Any:
        """The view's value, given that of the whole memory."""
        laid = jnp.transpose(whole, self.memory)
        if self.places is not None:
            return laid.reshape(-1)[self.places]
        picked = jnp.transpose(_take(laid.reshape(self.grid), self.index), self.order)
        return jnp.broadcast_to(picked.reshape(self.core), self.shape)

    def put(self, whole: Any, value: Any) -> Any:
        """The value of the whole memory after the view has been set to ``value``."""
        laid = jnp.transpose(whole, self.memory)
        if self.places is not None:
            new = laid.reshape(-1).at[self.places].set(value)
        else:
            back = tuple(int(axis) for axis in np.argsort(self.order))
            sizes = tuple(size for size in self.core if size > 1)
            new = _set(laid.reshape(self.grid), self.index, value.reshape(sizes).transpose(back))
        return jnp.transpose(
            new.reshape(laid.shape), tuple(int(a) for a in np.argsort(self.memory))
        )


def route(whole: NDArray[Any], view: NDArray[Any]) -> Route | None:
    """The way from ``whole`` (dense) to ``view``, an array in the memory of ``whole``.

    Returns:
        None where ``whole`` has gaps, or where the two differ in item size.
    """
    strides = _in_items(whole, whole.itemsize)
    memory = tuple(int(a) for a in np.argsort([-s for s in strides], kind="stable"))
    if not _dense([whole.shape[a] for a in memory], [strides[a] for a in memory]):
        return None
    steps, offset = _in_items(view, whole.itemsize), _address(view) - _address(whole)
    if view.itemsize != whole.itemsize or offset % whole.itemsize:
        return None
    places = offset // whole.itemsize + _places(view.shape, steps)
    own = {strides[a] for a in memory if whole.shape[a] > 1}
    seen = {abs(s) for s, m in zip(steps, view.shape, strict=True) if s and m > 1}
    spans = {abs(s) * m for s, m in zip(steps, view.shape, strict=True) if s and m > 1}
    for cuts in (own | seen, seen, seen | spans):
        found = _along_grid(places, view.shape, steps, _chain(cuts, whole.size))
        if found is not None:
            return Route(memory, *found, view.shape, None)
    return Route(memory, (), (), (), (), view.shape, places)


def _along_grid(
    places: NDArray[Any], shape: tuple[int, ...], steps: tuple[int, ...], cuts: list[int]
) -> tuple[tuple[int, ...], Index, tuple[int, ...], tuple[int, ...]] | None:
    """Grid, index, order and core if each axis of the view lies along one axis of the grid."""
    if not places.size:
        return None
    grid = [big // small for small, big in itertools.pairwise(cuts)][::-1]
    scale = cuts[:-1][::-1]
    start = [int(places.flat[0]) // s % g for s, g in zip(scale, grid, strict=True)]
    index: list[slice | int] = list(start)
    axes: list[int] = []
    core = [1 if not step else size for step, size in zip(steps, shape, strict=True)]
    for step, size in zip(steps, core, strict=True):
        if size == 1:
            continue
        axis = next((k for k, s in enumerate(scale) if abs(step) % s == 0), -1)
        stride = step // scale[axis]
        last = start[axis] + stride * (size - 1)
        if axis in axes or not 0 <= last < grid[axis]:
            return None
        stop = last + (1 if stride > 0 else -1)
        index[axis] = slice(start[axis], None if stop < 0 else stop, stride)
        axes.append(axis)
    order = tuple(sorted(axes).index(axis) for axis in axes)
    memory = np.arange(math.prod(grid)).reshape(grid)
    reached = memory[tuple(index)].transpose(order).reshape(core)
    if not np.array_equal(np.broadcast_to(reached, shape), places):
        return None
    return tuple(grid), tuple(index), order, tuple(core)


def _chain(cuts: set[int], size: int) -> list[int]:
    """1 = c0 | c1 | ... | size: those of ``cuts`` that divide one another."""
    chain = [1]
    for cut in sorted(cuts):
        if cut > chain[-1] and cut % chain[-1] == 0 and size % cut == 0:
            chain.append(cut)
    return chain if chain[-1] == size else [*chain, size]


def _places(shape: tuple[int, ...], steps: tuple[int, ...]) -> NDArray[Any]:
    places = np.zeros(shape, np.int64)
    for axis, (size, step) in enumerate(zip(shape, steps, strict=True)):
        along = [1] * len(shape)
        along[axis] = size
        places += (np.arange(size) * step).reshape(along)
    return places


def _dense(shape: list[int], strides: list[int]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _in_items(array: NDArray[Any], itemsize: int) -> tuple[int, ...]:
    return tuple(stride // itemsize for stride in array.strides)


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _is_everything(index: Index, shape: tuple[int, ...]) -> bool:
    return all(
        isinstance(part, slice) and part == slice(0, size, 1)
        for part, size in zip(index, shape, strict=True)
    )


def _take(array: Any, index: Index) -> Any:
    return array if _is_everything(index, array.shape) else array[index]


def _set(array: Any, index: Index, value: Any) -> Any:
    return value if _is_everything(index, array.shape) else array.at[index].set(value)
