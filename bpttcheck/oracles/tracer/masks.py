"""``z[mask]`` for a mask that depends on values: arithmetic by entry, put back under the mask.

How many entries there are is not known while tracing, so they are kept in an array of the full
shape. It holds a harmless number wherever the mask is false, after every operation, so that what is
not chosen can neither overflow nor spoil a derivative.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from bpttcheck.oracles.error_origin import as_numpy
from bpttcheck.oracles.tracer.call import fresh, overwrite
from bpttcheck.oracles.tracer.memory import Chosen, Held
from bpttcheck.oracles.tracer.run import current, decline, here
from bpttcheck.oracles.tracer.ufuncs import call_ufunc

_REMEDY = "np.where(mask, a, b)"
_ENTRYWISE = (np.clip, np.where, np.nan_to_num)


class MaskedSelection(Chosen, NDArrayOperatorsMixin):
    """The entries of an array under a traced mask."""

    __hash__ = None  # type: ignore[assignment] - as for ndarray

    def __init__(self, array: Held, mask: Any, axes: int) -> None:
        self._array = array
        self._mask = mask
        self._axes = axes
        self.where = here()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the entries."""
        return self._array.shadow.dtype

    @property
    def ndim(self) -> int:
        """Axes of ``z[mask]``: those of the mask count as one."""
        return self._array.shadow.ndim - self._axes + 1

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Compute entry by entry; every operand is chosen by the same mask, or one number."""
        out = kwargs.pop("out", None)
        if method != "__call__" or ufunc.nout > 1 or kwargs.get("where", True) is not True:
            decline(f"np.{ufunc.__name__} of z[mask] for a mask that depends on values", _REMEDY)
        operands = tuple(self._full(item) for item in inputs)
        made = self._safe(call_ufunc(ufunc, method, operands, kwargs))
        if out is None:
            return made
        if out != (self,) or made.dtype != self.dtype:
            decline("out= together with z[mask] for a mask that depends on values", _REMEDY)
        self._array = made._array
        return self

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """The few functions that work entry by entry."""
        return self.call(function, args, kwargs)

    def call(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Call a NumPy function on the entries."""
        if function not in _ENTRYWISE:
            name = getattr(function, "__name__", repr(function))
            decline(f"np.{name} of z[mask] for a mask that depends on values", _REMEDY)
        return self._safe(function(*(self._full(item) for item in args), **kwargs))

    def __getattr__(self, name: str) -> Any:
        """Refuse what depends on how many entries there are."""
        if name.startswith("__"):
            as_numpy(AttributeError(name))
        return decline(f".{name} of z[mask] for a mask that depends on values", _REMEDY)

    def __len__(self) -> int:
        return decline("len() of z[mask] for a mask that depends on values", _REMEDY)

    def __iter__(self) -> Any:
        return decline("iteration over z[mask] for a mask that depends on values", _REMEDY)

    def __bool__(self) -> bool:
        return decline("`if` on z[mask] for a mask that depends on values", _REMEDY)

    def __array__(self, *_: Any, **__: Any) -> Any:
        return decline("z[mask] for a mask that depends on values, as an array", _REMEDY)

    def __getitem__(self, index: Any) -> Any:
        return decline("an index into z[mask] for a mask that depends on values", _REMEDY)

    def __repr__(self) -> str:
        """A name for error messages."""
        return f"<traced {self.dtype} z[mask]>"

    def copy(self) -> MaskedSelection:
        """The entries themselves: they share nothing."""
        return MaskedSelection(self._array, self._mask, self._axes)

    def astype(self, dtype: Any, **_: Any) -> MaskedSelection:
        """The entries in another dtype."""
        array: Any = self._array
        return MaskedSelection(array.astype(dtype), self._mask, self._axes)

    def _full(self, item: Any) -> Any:
        if isinstance(item, MaskedSelection):
            if item._mask is not self._mask:
                decline("entries chosen by different masks in one formula", _REMEDY)
            return item._array
        if np.ndim(item) > self._array.shadow.ndim - self._axes:
            decline("z[mask] together with a whole array", _REMEDY)
        return item

    def _safe(self, array: Any) -> MaskedSelection:
        return MaskedSelection(hide(array, self._mask), self._mask, self._axes)

    def parts(self) -> tuple[Held, Any]:
        """The array that holds the entries, and the value of the mask over it."""
        return self._array, self._mask

    def put_into(self, target: Held, mask: Held) -> None:
        """``target[mask] = self``."""
        if mask.read() is not self._mask:
            decline("entries chosen by one mask are assigned under another", _REMEDY)

        def native(array: Any, value: Any) -> None:
            np.copyto(array, value, casting="unsafe")

        def form(whole: Any, value: Any) -> Any:
            return jnp.where(_spread(self._mask, whole.ndim), value, whole)

        overwrite(native, form, target, (self._array,))


def choose(array: Held, mask: Held) -> MaskedSelection:
    """``array[mask]`` for a traced mask over its leading axes."""
    if mask.shadow.shape != array.shadow.shape[: mask.shadow.ndim]:
        what = f"boolean index has shape {mask.shadow.shape}, the array {array.shadow.shape}"
        as_numpy(IndexError(what))
    value = mask.read()
    return MaskedSelection(hide(array, value), value, mask.shadow.ndim)


def hide(array: Held, mask: Any) -> Held:
    """A copy of ``array`` with a harmless number wherever ``mask`` is false."""
    run = current()
    if run is None:
        decline("a traced array was kept from an earlier call of the step", "keep nothing on self")
    harmless = {"b": False, "i": 1, "u": 1}.get(array.shadow.dtype.kind, 0.5)
    shown = jnp.where(_spread(mask, array.shadow.ndim), array.read(), harmless)
    return fresh(run, np.asarray(array.shadow), shown, sure=array.box.sure)


def _spread(mask: Any, ndim: int) -> Any:
    return mask.reshape(mask.shape + (1,) * (ndim - mask.ndim))
