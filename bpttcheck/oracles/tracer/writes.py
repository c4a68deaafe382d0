"""NumPy functions that change an array in place, on traced arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from bpttcheck.oracles.tracer.call import overwrite
from bpttcheck.oracles.tracer.run import decline


def copyto(dst: Any, src: Any, casting: Any = "same_kind", where: Any = True) -> None:
    """``np.copyto``."""

    def native(array: Any, source: Any, where: Any) -> None:
        np.copyto(array, source, casting=casting, where=where)

    def form(whole: Any, source: Any, where: Any) -> Any:
        return source if where is True else jnp.where(where, source, whole)

    overwrite(native, form, dst, (src, where))


def put(a: Any, ind: Any, v: Any, mode: Any = "raise") -> None:
    """``np.put``: ``a.flat[ind] = v``, repeating ``v``."""

    def native(array: Any, places: Any, value: Any) -> None:
        np.put(array, places, value, mode=mode)

    def form(whole: Any, places: Any, value: Any) -> Any:
        places = jnp.asarray(places).reshape(-1)
        places = {"clip": lambda: jnp.clip(places, 0, whole.size - 1)}.get(mode, lambda: places)()
        places = places % whole.size if mode == "wrap" else places
        value = jnp.resize(jnp.asarray(value), places.shape).astype(whole.dtype)
        return whole.reshape(-1).at[places].set(value).reshape(whole.shape)

    overwrite(native, form, a, (ind, v))


def putmask(a: Any, mask: Any, values: Any) -> None:
    """``np.putmask``: entry ``i`` of the repeated ``values`` where ``mask`` is true."""

    def form(whole: Any, mask: Any, values: Any) -> Any:
        return jnp.where(mask, jnp.resize(jnp.asarray(values), whole.shape), whole)

    overwrite(np.putmask, form, a, (mask, values))


def place(arr: Any, mask: Any, vals: Any) -> None:
    """``np.place`` with one value."""
    if np.size(vals) != 1:
        decline("np.place with several values", "np.where(mask, a, b)")

    def form(whole: Any, mask: Any, value: Any) -> Any:
        return jnp.where(mask, jnp.asarray(value).reshape(()), whole)

    overwrite(np.place, form, arr, (mask, vals))


def fill_diagonal(a: Any, val: Any, wrap: bool = False) -> None:
    """``np.fill_diagonal``."""

    def native(array: Any, value: Any) -> None:
        np.fill_diagonal(array, value, wrap=wrap)

    def form(whole: Any, value: Any) -> Any:
        return jnp.fill_diagonal(whole, jnp.asarray(value, whole.dtype), wrap=wrap, inplace=False)

    overwrite(native, form, a, (val,))


def put_along_axis(arr: Any, indices: Any, values: Any, axis: int | None = -1) -> None:
    """``np.put_along_axis``."""

    def native(array: Any, indices: Any, values: Any) -> None:
        np.put_along_axis(array, indices, values, axis)

    def form(whole: Any, indices: Any, values: Any) -> Any:
        values = jnp.asarray(values, whole.dtype)
        return jnp.put_along_axis(whole, jnp.asarray(indices), values, axis, inplace=False)

    overwrite(native, form, arr, (indices, values))


def sort_in_place(array: Any, axis: int = -1, **_: Any) -> None:
    """``array.sort(axis)``."""
    overwrite(lambda a: a.sort(axis=axis), lambda whole: jnp.sort(whole, axis=axis), array, ())


def into(out: Any, result: Any) -> Any:
    """What ``out=`` does: ``result`` goes into ``out``, which is returned."""
    target = out[0] if isinstance(out, tuple) else out
    if np.shape(target) != np.shape(result):
        raise ValueError(f"out has shape {np.shape(target)}, expected {np.shape(result)}")
    copyto(target, result)
    return target


WRITERS: dict[Any, Callable[..., None]] = {
    np.copyto: copyto,
    np.put: put,
    np.putmask: putmask,
    np.place: place,
    np.fill_diagonal: fill_diagonal,
    np.put_along_axis: put_along_axis,
}
