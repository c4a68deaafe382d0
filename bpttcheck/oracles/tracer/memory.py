"""NumPy memory while it is traced: buffers that hold values, and the arrays that view them.

Every traced array carries a *shadow*, a real ndarray with the shape, dtype, strides and flags that
NumPy would give it. Whether an operation makes a view or a copy is never guessed: it is run on the
shadows, and the memory of the result tells.

NumPy describes every view by an offset and strides. Here the same numbers become slices, transposes
and reshapes of an immutable JAX array, and their inverses.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.tracer.run import current, decline

_FRACTIONS = np.random.default_rng(0).random(1000)


class Buffer:
    """One piece of memory.

    Args:
        owner: the ndarray that owns the memory.
        value: the JAX array in it; None while NumPy's own content is exact (a constant).
        sure: False if the layout depends on arrays from outside the step, which may have
            another layout in other calls.
        external: True if the memory belongs to an array made outside the step.
        lone: True for a single number from outside: it may be an immutable NumPy scalar or a 0-d
            array.
    """

    def __init__(
        self,
        owner: Any,
        value: Any = None,
        *,
        layout_known: bool = True,
        external: bool = False,
        lone: bool = False,
    ) -> None:
        self.owner = owner
        self.layout = owner[...] if isinstance(owner, np.ndarray) else owner
        self.value = value
        self.layout_known = layout_known
        self.external = external
        self.lone = lone
        self.spent = False
        self._version = 0
        self.run = current()

    @property
    def known(self) -> bool:
        """True while NumPy's own content is exact."""
        return self.value is None

    @property
    def version(self) -> int:
        """Grows with every write."""
        return self._version

    def touch(self) -> None:
        """Count a write."""
        self._version += 1

    def load(self) -> Any:
        """The value of the whole memory."""
        if self.spent:
            decline(
                "a number given from outside is read after it was changed in place",
                "s = s + 1 under a new name",
            )
        return constant(self.layout) if self.value is None else self.value

    def store(self, value: Any) -> None:
        """Replace the value of the whole memory."""
        if self.external:
            decline(
                "a traced value is written into an array that was made outside the step",
                "make the array inside the step, with np.empty, np.zeros or np.array",
            )
        self.value = value
        self.touch()


class MaybeAliased(Buffer):
    """A value that may be a view of ``sources`` in NumPy: readable while they do not change."""

    def __init__(
        self, owner: Any, value: Any, sources: list[Buffer], *, layout_known: bool
    ) -> None:
        super().__init__(owner, value, layout_known=layout_known)
        self._sources = [(buffer, buffer.version) for buffer in sources]

    def load(self) -> Any:
        """The value, unless an array that it may alias has changed since."""
        if any(buffer.version != version for buffer, version in self._sources):
            decline(
                "an array that may be a view is read after its original was changed in place",
                "take the copy that you mean with .copy(), or write a new array",
            )
        return super().load()

    def store(self, value: Any) -> None:
        """Decline, because it is unknown whether the original changes too."""
        decline(
            "an array is changed in place that may or may not be a view of another one",
            "take the copy that you mean with .copy(), or write a new array",
        )


class GatherView(Buffer):
    """A view ``parent[index]`` whose position depends on traced integers."""

    def __init__(self, owner: NDArray[Any], parent: ArrayProxy, index: Any) -> None:
        super().__init__(owner, ())
        self._parent = parent
        self._index = index

    @property
    def version(self) -> int:
        """The version of the memory behind it."""
        return self._parent.buffer.version

    def load(self) -> Any:
        """The value now at the index."""
        return self._parent.read()[self._index]

    def store(self, value: Any) -> None:
        """Write through to the parent."""
        self._parent.write(self._parent.read().at[self._index].set(value))


class ArrayProxy:
    """An array or scalar of the step: a shadow, and the buffer that holds its values."""

    __slots__ = ("__weakref__", "_cache", "_route", "buffer", "shadow")

    def __init__(self, shadow: Any, buffer: Buffer) -> None:
        self.shadow: Any = shadow
        self.buffer = buffer
        self._route: Route | None = None
        self._cache: tuple[int, Any] | None = None

    @property
    def known(self) -> bool:
        """True if the shadow's own values are exact: nothing traced has reached this array."""
        return self.buffer.known

    def read(self) -> Any:
        """The JAX value of this array now; the same object until something is written."""
        if self.known:
            return constant(self.shadow)
        whole = self.buffer.load()
        if self._is_whole():
            return whole
        if self._cache is None or self._cache[0] != self.buffer.version:
            self._cache = (self.buffer.version, self._way().get(whole))
        return self._cache[1]

    def write(self, value: Any) -> None:
        """Set every entry to ``value`` (of this shape) in the underlying memory."""
        if not self.shadow.flags.writeable:
            raise ValueError("assignment destination is read-only")
        value = cast(jnp.broadcast_to(value, self.shadow.shape), self.shadow.dtype)
        if self._is_whole():
            self.buffer.store(value)
            return
        way = self._way()
        if way.repeats:
            decline("a view that repeats its entries is changed in place", "write a new array")
        self.buffer.store(way.put(self.buffer.load(), value))

    def _is_whole(self) -> bool:
        layout, shadow = self.buffer.layout, self.shadow
        return layout is shadow or (
            layout.shape == shadow.shape
            and layout.strides == shadow.strides
            and layout.dtype == shadow.dtype
        )

    def _way(self) -> Route:
        if self._route is None:
            self._route = route(self.buffer.layout, self.shadow)
        if self._route is None:
            decline("an array with an unusual memory layout is changed in place", "write a new one")
        return self._route


class Selection:
    """The result of ``z[mask]`` for a traced mask: an unknown number of entries."""


def constant(array: Any) -> Any:
    """A JAX array with a private copy of ``array``."""
    array = np.array(array)
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "biufc" or size > (16 if kind == "c" else 8):
        decline(f"an array of dtype {array.dtype}, which JAX does not have", "np.float64")
    return jnp.asarray(array)


def cast(value: Any, dtype: np.dtype[Any]) -> Any:
    """``value`` as a JAX array of exactly ``dtype``, never weakly typed."""
    if isinstance(value, jax.Array):
        if value.dtype == dtype and not value.weak_type:
            return value
        if value.dtype.kind == "c" and dtype.kind not in "cb":
            value = value.real
        return value.astype(dtype)
    return constant(np.array(value, dtype))


def owner_of(array: Any) -> NDArray[Any]:
    """The ndarray whose memory ``array`` uses, through every layer of views."""
    while True:
        base = getattr(array, "base", None)
        above = base if type(base) is np.ndarray else getattr(base, "base", None)
        if type(above) is not np.ndarray:
            return array
        array = above


def dummy(dtype: np.dtype[Any]) -> Any:
    """A dummy value of ``dtype`` for a shadow scalar."""
    return dtype.type({"b": False, "i": 0, "u": 0}.get(dtype.kind, 0.5))


def fill_with_dummies(array: NDArray[Any], *, regular: bool = False) -> None:
    """Dummy values for a shadow: zeros for integers, which may be indices; else fractions.

    Square matrices of fractions are made regular, and with ``regular`` those of integers, too.
    """
    fractional = array.dtype.kind in "fc"
    array[...] = dummy(array.dtype)
    if fractional:
        array[...] = np.resize(_FRACTIONS, array.shape)
    if array.ndim > 1 and array.shape[-1] == array.shape[-2] and (fractional or regular):
        array *= 0 if not fractional else array.dtype.type(0.01)
        array += np.eye(array.shape[-1], dtype=array.dtype)


Index = tuple[slice | int, ...]


@dataclass(frozen=True)
class Route:
    """The map from the value of a whole buffer to the value of a view, and back.

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
        """True if some element of memory appears twice: such a view cannot be written."""
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
    """The map from ``whole`` (dense) to ``view``, an array in the memory of ``whole``.

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
