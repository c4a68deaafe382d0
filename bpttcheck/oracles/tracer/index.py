"""Reading and writing ``z[index]``: views, copies, masks, and integers that depend on values.

For a mask that depends on values the number of entries is unknown while tracing, so they are kept
in an array of the full shape. After every operation it holds a dummy value wherever the mask is
false, so that entries that are not selected can neither overflow nor contaminate a derivative.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from bpttcheck.oracles.error_origin import as_numpy, natively
from bpttcheck.oracles.tracer.arguments import collect, shadows, stand_ins, values
from bpttcheck.oracles.tracer.call import fresh, overwrite, perform, perform_known, rearrange, wrap
from bpttcheck.oracles.tracer.memory import (
    ArrayProxy,
    GatherView,
    MaybeAliased,
    Selection,
    fill_with_dummies,
)
from bpttcheck.oracles.tracer.run import TracingRun, current, decline, here
from bpttcheck.oracles.tracer.ufuncs import call_ufunc, nest
from bpttcheck.oracles.tracer.watch import NumpyCall, observed


@observed(lambda array, index: NumpyCall("z[...]", operator.getitem, (array, index), {}))
def get_item(array: ArrayProxy, index: Any) -> Any:
    """``array[index]``."""
    run = current()
    traced = [item for item in collect(index) if not item.known]
    if run is None or (array.known and not traced):
        return perform_known(operator.getitem, (array, index), {})
    index = _tidy(index)
    mask = _mask(index)
    if mask is not None:
        return choose(array, mask)
    _refuse_other_masks(traced)
    if not all(_is_basic(part) for part in _parts(index)):
        return perform(operator.getitem, _for_jax, (array, index))
    if any(isinstance(part, ArrayProxy) and not part.known for part in _parts(index)):
        return _moving_view(run, array, index)
    index = shadows(index)
    found = natively(operator.getitem, array.shadow, index)
    if isinstance(found, np.ndarray):
        return rearrange(operator.getitem, (array, index))
    return fresh(run, found, array.read()[index], layout_known=True)


@observed(
    lambda array, i, value: NumpyCall("z[...] = ...", operator.setitem, (array, i, value), {})
)
def put_item(array: ArrayProxy, index: Any, value: Any) -> None:
    """``array[index] = value``."""
    traced = [item for item in collect(index) if not item.known]
    index = _tidy(index)
    mask = _mask(index)
    if mask is not None:
        _set_where(array, mask, value)
        return
    _refuse_other_masks(traced)
    if isinstance(value, (list, tuple)) and collect(value):
        value = perform(np.array, nest, (value,))
    if traced or not all(_is_basic(part) for part in _parts(index)):
        _set_places(array, index, value)
        return
    parts = _parts(shadows(index))
    dots = () if any(part is Ellipsis for part in parts) else (...,)
    view: Any = get_item(array, (*parts, *dots))
    _set_all(view, value)


def _moving_view(run: TracingRun, array: ArrayProxy, index: Any) -> Any:
    """``z[k]`` for an integer ``k`` that depends on values: a view whose place is not known."""
    found = natively(operator.getitem, array.shadow, stand_ins(index))
    place = values(index)
    if not isinstance(found, np.ndarray):
        return fresh(run, found, array.read()[place], layout_known=True)
    owner = np.empty(found.shape, found.dtype)
    fill_with_dummies(owner)
    # NumPy copies for a 0-d array and views for a scalar; a number from outside may be either.
    held = [part for part in _parts(index) if isinstance(part, ArrayProxy)]
    if any(isinstance(part.shadow, np.ndarray) for part in held):
        value = array.read()[place]
        return wrap(
            run,
            owner,
            MaybeAliased(owner, value, [array.buffer], layout_known=array.buffer.layout_known),
        )
    return wrap(run, owner, GatherView(owner, array, place))


def _set_all(view: ArrayProxy, value: Any) -> None:
    def native(array: Any, value: Any) -> None:
        array[...] = value

    def form(whole: Any, value: Any) -> Any:
        return _fitted(jnp.asarray(value), whole.ndim)

    overwrite(native, form, view, (value,))


def _set_places(array: ArrayProxy, index: Any, value: Any) -> None:
    axes = 0

    def native(array: Any, index: Any, value: Any) -> None:
        nonlocal axes
        axes = np.ndim(array[index])
        array[index] = value

    def form(whole: Any, index: Any, value: Any) -> Any:
        value = _fitted(jnp.asarray(value), axes)
        value = value.real if jnp.iscomplexobj(value) and not jnp.iscomplexobj(whole) else value
        return whole.at[index].set(value.astype(whole.dtype))

    overwrite(native, form, array, (index, value))


def _set_where(array: ArrayProxy, mask: ArrayProxy, value: Any) -> None:
    if isinstance(value, MaskedSelection):
        value.put_into(array, mask)
        return
    if np.ndim(value) > array.shadow.ndim - mask.shadow.ndim:
        decline(
            "z[mask] = array for a mask that depends on values: how many entries there are is not "
            "known",
            "z = np.where(mask, array, z)",
        )

    def form(whole: Any, mask: Any, value: Any) -> Any:
        mask = mask.reshape(mask.shape + (1,) * (whole.ndim - mask.ndim))
        return jnp.where(mask, value, whole)

    overwrite(operator.setitem, form, array, (mask, value))


def _fitted(value: Any, axes: int) -> Any:
    """NumPy drops leading axes of length 1 from what is assigned."""
    extra = value.ndim - axes
    return value.reshape(value.shape[extra:]) if extra > 0 else value


def _for_jax(array: Any, index: Any) -> Any:
    return jnp.asarray(array)[index]


def _parts(index: Any) -> tuple[Any, ...]:
    return index if type(index) is tuple else (index,)


def _tidy(index: Any) -> Any:
    """Lists and ranges as arrays, constants as NumPy's own; a mask with full slices alone."""

    def tidy(part: Any) -> Any:
        if isinstance(part, (list, range, tuple)):
            return perform(np.array, nest, (part,)) if collect(part) else _plain_array(part)
        if isinstance(part, slice):
            if any(not item.known for item in collect(part)):
                decline("a slice whose bounds depend on values", "np.take, or a mask of 0 and 1")
            return shadows(part)
        return part.shadow if isinstance(part, ArrayProxy) and part.known else part

    if type(index) is not tuple:
        return tidy(index)
    parts = tuple(tidy(part) for part in index)
    rest_is_full = all(part is Ellipsis or part == slice(None) for part in map(_plain, parts[1:]))
    return parts[0] if len(parts) > 1 and rest_is_full and _mask(parts[0]) is not None else parts


def _plain_array(part: Sequence[Any]) -> Any:
    return np.array(part) if part else np.array(part, np.intp)


def _plain(part: Any) -> Any:
    return part if isinstance(part, slice) else (part if part is Ellipsis else None)


def _mask(index: Any) -> ArrayProxy | None:
    part = index[0] if type(index) is tuple and len(index) == 1 else index
    if not isinstance(part, ArrayProxy) or part.shadow.dtype != np.bool_:
        return None
    return part if np.ndim(part.shadow) else None


def _refuse_other_masks(traced: list[ArrayProxy]) -> None:
    if any(item.shadow.dtype == np.bool_ for item in traced):
        decline("a mask that depends on values together with another index", "np.where(mask, a, b)")


def _is_basic(part: Any) -> bool:
    if isinstance(part, ArrayProxy):
        return np.ndim(part.shadow) == 0
    if isinstance(part, np.ndarray):
        return False
    if part is None or part is Ellipsis or isinstance(part, slice):
        return True
    return isinstance(part, (int, np.integer)) and not isinstance(part, bool)


_REMEDY = "np.where(mask, a, b)"
_ENTRYWISE = (np.clip, np.where, np.nan_to_num)


class MaskedSelection(Selection, NDArrayOperatorsMixin):
    """The entries of an array under a traced mask."""

    __hash__ = None  # type: ignore[assignment] - as for ndarray

    def __init__(self, array: ArrayProxy, mask: Any, axes: int) -> None:
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
        """Compute entry by entry; every operand is selected by the same mask, or is one number."""
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
        """Decline whatever depends on the number of entries."""
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
        """The entries themselves, which share no memory."""
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

    def parts(self) -> tuple[ArrayProxy, Any]:
        """The array that holds the entries, and the value of the mask over it."""
        return self._array, self._mask

    def put_into(self, target: ArrayProxy, mask: ArrayProxy) -> None:
        """``target[mask] = self``."""
        if mask.read() is not self._mask:
            decline("entries chosen by one mask are assigned under another", _REMEDY)

        def native(array: Any, value: Any) -> None:
            np.copyto(array, value, casting="unsafe")

        def form(whole: Any, value: Any) -> Any:
            return jnp.where(_spread(self._mask, whole.ndim), value, whole)

        overwrite(native, form, target, (self._array,))


def choose(array: ArrayProxy, mask: ArrayProxy) -> MaskedSelection:
    """``array[mask]`` for a traced mask over its leading axes."""
    if mask.shadow.shape != array.shadow.shape[: mask.shadow.ndim]:
        what = f"boolean index has shape {mask.shadow.shape}, the array {array.shadow.shape}"
        as_numpy(IndexError(what))
    value = mask.read()
    return MaskedSelection(hide(array, value), value, mask.shadow.ndim)


def hide(array: ArrayProxy, mask: Any) -> ArrayProxy:
    """A copy of ``array`` with a dummy value wherever ``mask`` is false."""
    run = current()
    if run is None:
        decline("a traced array was kept from an earlier call of the step", "keep nothing on self")
    harmless = {"b": False, "i": 1, "u": 1}.get(array.shadow.dtype.kind, 0.5)
    shown = jnp.where(_spread(mask, array.shadow.ndim), array.read(), harmless)
    return fresh(run, np.asarray(array.shadow), shown, layout_known=array.buffer.layout_known)


def _spread(mask: Any, ndim: int) -> Any:
    return mask.reshape(mask.shape + (1,) * (ndim - mask.ndim))
