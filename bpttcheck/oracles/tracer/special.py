"""NumPy functions whose traced form is written out: making arrays, and calling back Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from bpttcheck.oracles.tracer.arguments import is_traced, shadows
from bpttcheck.oracles.tracer.call import blind, perform, perform_known, rearrange
from bpttcheck.oracles.tracer.memory import Held, Linked
from bpttcheck.oracles.tracer.run import current, decline
from bpttcheck.oracles.tracer.ufuncs import nest
from bpttcheck.oracles.tracer.writes import overwrite


def _maker(native: Callable[..., Any]) -> Callable[..., Any]:
    """``np.array``, ``np.asarray`` and their kin."""

    def make(obj: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not is_traced(obj):
            return perform_known(native, (obj, *_given(dtype), *args), kwargs)
        if not isinstance(obj, Held):
            return perform(native, nest, (obj, *_given(dtype), *args), kwargs)
        if dtype is None or np.dtype(dtype) == obj.shadow.dtype:
            return rearrange(lambda item: native(item, None, *args, **kwargs), (obj,))
        return perform(native, lambda item, *_, **__: item, (obj, dtype, *args), kwargs)

    return make


def _given(dtype: Any) -> tuple[Any, ...]:
    return () if dtype is None else (dtype,)


def _like(native: Callable[..., Any]) -> Callable[..., Any]:
    """``np.zeros_like`` and its kin: constants of a traced array's shape."""

    def make(a: Any, *args: Any, **kwargs: Any) -> Any:
        return blind(native, (a, *args), kwargs)

    return make


def _empty_like(prototype: Any, *args: Any, **kwargs: Any) -> Any:
    return blind(np.zeros_like, (prototype, *args), kwargs)


def _full_like(a: Any, fill_value: Any, *args: Any, **kwargs: Any) -> Any:
    made = blind(np.zeros_like, (a, *args), kwargs)
    return _filled(made, fill_value)


def _full(shape: Any, fill_value: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
    if not is_traced(fill_value):
        return perform_known(np.full, (shape, fill_value, dtype, *args), kwargs)
    dtype = fill_value.dtype if dtype is None else dtype
    return _filled(perform_known(np.zeros, (shape, dtype, *args), kwargs), fill_value)


def _filled(array: Any, value: Any) -> Any:
    array[...] = value
    return array


def _nan_to_num(x: Any, copy: bool = True, **fills: Any) -> Any:
    if not copy and isinstance(x, Held) and isinstance(x.shadow, np.ndarray):
        overwrite(
            lambda a: np.nan_to_num(a, copy=False, **fills),
            lambda whole: jnp.nan_to_num(whole, **fills),
            x,
            (),
        )
        return x
    form: Callable[..., Any] = lambda whole: jnp.nan_to_num(whole, **fills)  # noqa: E731
    return perform(lambda a: np.nan_to_num(a, **fills), form, (x,))


def _real(val: Any) -> Any:
    if not isinstance(val, Held) or val.shadow.dtype.kind == "c":
        return perform(np.real, jnp.real, (val,))
    return rearrange(np.real, (val,))


def _diag(v: Any, k: int = 0) -> Any:
    if isinstance(v, Held) and v.shadow.ndim == 2:
        return rearrange(np.diag, (v, k))
    return perform(np.diag, lambda item, k: jnp.diag(jnp.asarray(item), k), (v, k))


def _where(condition: Any, *branches: Any) -> Any:
    if not branches and is_traced(condition):
        what = "np.where with one argument: how many entries it finds is not known"
        decline(what, "np.where(condition, a, b)")
    if not is_traced(condition, branches):
        return perform_known(np.where, (condition, *branches), {})
    args = tuple(
        item if isinstance(item, (Held, int, float, np.ndarray)) else _maker(np.array)(item)
        for item in (condition, *branches)
    )
    return perform(np.where, jnp.where, args)


def _apply_along_axis(func1d: Any, axis: int, arr: Any, *args: Any, **kwargs: Any) -> Any:
    """``np.apply_along_axis`` slice by slice, each handed to Python code."""
    moved = np.moveaxis(arr, axis, -1)
    rows = [
        _maker(np.asanyarray)(func1d(moved[place], *args, **kwargs))
        for place in np.ndindex(*moved.shape[:-1])
    ]
    if not rows:
        decline("np.apply_along_axis over an empty array", "array expressions")
    if any(not isinstance(row, Held) for row in rows):
        return np.apply_along_axis(func1d, axis, arr, *args, **kwargs)
    stacked = np.stack(rows).reshape(moved.shape[:-1] + rows[0].shape)
    first, count = len(moved.shape) - 1, rows[0].ndim
    target = [(axis % moved.ndim) + number for number in range(count)]
    return np.moveaxis(stacked, [first + number for number in range(count)], target)


def _piecewise(x: Any, condlist: Any, funclist: Any, *args: Any, **kw: Any) -> Any:
    """``np.piecewise`` by whole arrays: each piece is computed where its condition holds."""
    x = _maker(np.asanyarray)(x)
    several = isinstance(condlist, (list, tuple)) or condlist.ndim > x.ndim
    conditions: list[Any] = list(condlist) if several else [condlist]
    if len(funclist) == len(conditions) + 1:
        rest: Any = conditions[0]
        for condition in conditions[1:]:
            rest = rest | condition
        conditions.append(~rest)
    made: Any = _like(np.zeros_like)(x)
    for condition, piece in zip(conditions, funclist, strict=True):
        made[condition] = piece(x[condition], *args, **kw) if callable(piece) else piece
    return made


def _text(a: Any, *_: Any, **__: Any) -> str:
    return repr(a)


def _fresh_empty(*args: Any, **kwargs: Any) -> Any:
    """``np.empty`` with zeros in it: what NumPy leaves there means nothing."""
    native = np.empty if current() is None else np.zeros
    return perform_known(native, args, kwargs)


_MAKERS = (np.array, np.asarray, np.asanyarray, np.ascontiguousarray, np.asfortranarray)


def _sharing(native: Callable[..., bool]) -> Callable[..., bool]:
    """``np.shares_memory``: a question about shadows, unless what is a view is not known."""

    def ask(a: Any, b: Any, *args: Any, **kwargs: Any) -> bool:
        if any(isinstance(item, Held) and isinstance(item.box, Linked) for item in (a, b)):
            decline("whether two arrays share memory depends on their layout", "array code")
        return native(*shadows((a, b, *args)), **kwargs)

    return ask


SPECIAL: dict[Any, Callable[..., Any]] = {
    **{native: _maker(native) for native in _MAKERS},
    np.zeros_like: _like(np.zeros_like),
    np.ones_like: _like(np.ones_like),
    np.empty_like: _empty_like,
    np.full_like: _full_like,
    np.full: _full,
    np.empty: _fresh_empty,
    np.nan_to_num: _nan_to_num,
    np.real: _real,
    np.diag: _diag,
    np.where: _where,
    np.apply_along_axis: _apply_along_axis,
    np.piecewise: _piecewise,
    np.shares_memory: _sharing(np.shares_memory),
    np.may_share_memory: _sharing(np.may_share_memory),
    np.array2string: _text,
    np.array_repr: _text,
    np.array_str: _text,
}
