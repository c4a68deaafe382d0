"""Runs native NumPy code with every floating result off by about one rounding error.

What that does to the outputs is the rounding that the code itself makes, inside as well: a sum that
swallows a small term shows it, although the outputs and the arguments do not. The array class goes
where NumPy's protocols go; compiled code sees arguments that are off by a rounding error, no more.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.branches.recording import Function

Array = NDArray[Any]

_running = threading.local()
_SMALL_INTEGERS = 1024
_POOL = 4099  # a prime: signs that come again meet other entries
_ULPS = 64  # a number this near an integer is meant to be one
_SNAP = frozenset({"floor", "ceil", "trunc", "floor_divide"})
_EXACT = frozenset({
    *("absolute", "fabs", "negative", "positive", "sign", "heaviside", "copysign", "conjugate"),
    *("maximum", "minimum", "fmax", "fmin", "clip", "rint", "floor", "ceil", "trunc"),
})  # fmt: skip
_LAYOUT = frozenset({
    *(np.concatenate, np.stack, np.hstack, np.vstack, np.split, np.array_split, np.hsplit),
    *(np.vsplit, np.reshape, np.transpose, np.swapaxes, np.moveaxis, np.expand_dims, np.squeeze),
    *(np.broadcast_to, np.tile, np.repeat, np.roll, np.where, np.sort, np.take, np.flip),
    *(np.zeros_like, np.ones_like, np.empty_like, np.full_like, np.copy, np.split),
})  # fmt: skip


class Shaken(np.ndarray):
    """An array whose floating results are moved by about 3/4 of a unit, up or down by lot."""

    __array_priority__: Any = 1.0  # pyright: ignore[reportIncompatibleMethodOverride]

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = ufunc.__name__
        plain = [_plain(x) for x in inputs]
        if name in _SNAP:
            plain = [_snapped(x) for x in plain]
        out = kwargs.get("out")
        if out is not None:
            kwargs["out"] = tuple(_plain(x) for x in out)
        if "where" in kwargs:
            kwargs["where"] = _plain(kwargs["where"])
        result = getattr(ufunc, method)(*plain, **kwargs)
        if out is None:
            return _wrapped(result, shake=name not in _EXACT)
        if name not in _EXACT:
            for array in kwargs["out"]:
                if isinstance(array, np.ndarray) and _is_float(array):
                    array[...] = _off(array)
        return out[0] if len(out) == 1 else out

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = super().__array_function__(func, types, args, kwargs)
        return _wrapped(result, shake=func not in _LAYOUT)

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        """As NumPy's; a shorter format rounds by its own unit."""
        plain, target = self.view(np.ndarray), np.dtype(dtype)
        if target.kind in "iu":
            return _snapped(plain).astype(target, *args, **kwargs)
        if target.kind in "fV" and target.itemsize < plain.dtype.itemsize:
            return _off(plain, _unit(target)).astype(target).view(Shaken)
        return plain.astype(target, *args, **kwargs).view(Shaken)

    def __int__(self) -> int:
        return int(_snapped(self.view(np.ndarray)))

    def dot(self, b: Any, out: Any = None) -> Any:
        """As NumPy's."""
        return np.dot(self, b, out)


def shaken(
    function: Function,
    point: Sequence[Array],
    seed: int,
    unit: float,
    moving: Sequence[NDArray[np.bool_]],
) -> tuple[list[Array], list[bool], bool] | None:
    """The outputs of a run in which the arguments and all results are off by rounding.

    Args:
        function: takes a list of arrays, returns a list of arrays.
        point: the arrays to run it on; never written to.
        seed: of the signs.
        unit: the spacing at one of the format in which the arguments are given.
        moving: the entries that are to be moved. The others have no rounding error where they are
            small integers: counts, labels, zeros and ones.

    Returns:
        The outputs, for each whether it still is an array of this class, and whether any result
        inside was moved; None if the code does not run so.
    """
    _running.rng = _Signs(seed)
    try:
        with np.errstate(all="ignore"):
            outputs = function(
                [_argument(leaf, unit, moves) for leaf, moves in zip(point, moving, strict=True)]
            )
            return (
                [np.asarray(output).view(np.ndarray) for output in outputs],
                [isinstance(output, Shaken) for output in outputs],
                _running.rng.used > sum(leaf.size > 0 for leaf in point),
            )
    except Exception:  # whatever user code raises because of the subclass
        return None
    finally:
        _running.rng = None


class _Signs:
    """Random signs and sizes near one, from a pool: drawing them again is most of the cost."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        # Sizes differ: errors of one size cancel too often, exactly.
        self._pool = rng.choice(np.array([-1.0, 1.0]), _POOL) * rng.uniform(0.7, 1.7, _POOL)
        self._next = 0
        self.used = 0

    def signs(self, count: int) -> Array:
        """The next ``count`` signs."""
        self.used += 1
        end = self._next + count
        if end > len(self._pool):
            shortage = -(-count // len(self._pool))
            self._pool = np.concatenate([self._pool[self._next :], *[self._pool] * shortage])
            self._next, end = 0, count
        found = self._pool[self._next : end]
        self._next = end
        return found


def _argument(leaf: Array, unit: float, moves: NDArray[np.bool_]) -> Any:
    values = np.array(leaf)
    if not values.size:
        return values.view(Shaken)
    is_count = (values == np.rint(values)) & (np.abs(values) <= _SMALL_INTEGERS) & ~moves
    return np.where(is_count, values, _off(values, unit)).astype(values.dtype).view(Shaken)


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, Shaken) else x


def _is_float(array: Array) -> bool:
    return array.dtype.kind in "fc"


def _wrapped(result: Any, *, shake: bool) -> Any:
    if isinstance(result, np.ndarray):
        plain = result.view(np.ndarray)
        if not _is_float(plain) and plain.dtype.kind != "V":
            return plain
        return (_off(plain) if shake and _is_float(plain) else plain).view(Shaken)
    if isinstance(result, np.inexact):
        return _off(np.asarray(result))[()] if shake else result
    if isinstance(result, (tuple, list)):
        items = [_wrapped(item, shake=shake) for item in result]
        return type(result)(*items) if hasattr(result, "_fields") else type(result)(items)
    return result


def _off(array: Array, unit: float | None = None) -> Array:
    rng = getattr(_running, "rng", None)
    if rng is None or not array.size:
        return array
    # Enough that a number just above a power of two moves both ways, most of the time.
    size = 0.75 * (_unit(array.dtype) if unit is None else unit)
    signs = rng.signs(array.size).reshape(array.shape)
    wide = np.asarray(array, np.result_type(array.dtype, np.float64))
    return np.asarray(wide + wide * size * signs).astype(array.dtype)


@cache
def _unit(dtype: Any) -> float:
    """The spacing at one; formats that are no NumPy's own (bfloat16) are tried out."""
    if dtype.kind in "fc":
        return float(np.finfo(dtype).eps)
    unit = 1.0
    while float(np.asarray(1 + unit / 2).astype(dtype).astype(np.float64)) != 1.0:
        unit /= 2
    return unit


def _snapped(x: Any) -> Any:
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        return x
    whole = np.rint(x)
    near = np.abs(x - whole) <= _ULPS * np.finfo(x.dtype).eps * np.abs(x)
    return np.where(near, whole, x)
