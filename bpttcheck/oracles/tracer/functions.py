"""NumPy's functions on traced arrays: mapped to JAX, written out here, or declined."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from bpttcheck.oracles.tracer.arguments import collect, is_traced, replace, shadows
from bpttcheck.oracles.tracer.call import blind, perform, perform_known, rearrange
from bpttcheck.oracles.tracer.memory import ArrayProxy, MaybeAliased, Selection
from bpttcheck.oracles.tracer.run import current, decline
from bpttcheck.oracles.tracer.ufuncs import FORMS, OTHERWISE, call_ufunc, name_of, nest
from bpttcheck.oracles.tracer.watch import NumpyCall, observed
from bpttcheck.oracles.tracer.writes import WRITERS, into, overwrite

_VIEWS = (
    "reshape ravel transpose permute_dims matrix_transpose swapaxes moveaxis rollaxis squeeze "
    "expand_dims atleast_1d atleast_2d atleast_3d split array_split hsplit vsplit dsplit unstack "
    "diagonal broadcast_to broadcast_arrays flip fliplr flipud rot90 copy require ix_ "
    "linalg.diagonal linalg.matrix_transpose lib.stride_tricks.sliding_window_view "
    "lib.stride_tricks.as_strided"
)
_FACTS = (
    "shape ndim size result_type can_cast iscomplexobj isrealobj "
    "min_scalar_type common_type iterable isscalar isfortran einsum_path"
)
_SEQUENCES = (
    "concatenate stack hstack vstack dstack column_stack block select choose linalg.multi_dot "
    "einsum broadcast_arrays meshgrid lexsort"
)
_NO_LISTS = frozenset({"axis", "axes", "shape", "reps", "shift", "s", "newshape", "optimize"})

_REMEDIES = {
    "nonzero flatnonzero argwhere extract compress": "np.where(mask, a, b)",
    "unique unique_all unique_counts unique_inverse unique_values union1d intersect1d setdiff1d "
    "setxor1d": "array code of a fixed size",
    "partition argpartition": "np.sort, np.argsort",
    "bincount histogram histogram2d histogramdd histogram_bin_edges": "np.add.at on fixed bins",
    "arange": "a range of a fixed size",
    "trim_zeros": "a slice of a fixed size",
    "save savez savez_compressed savetxt": "save outside the step",
    "frompyfunc": "array expressions, np.where for branches",
    "roots poly": "a closed form",
    "asmatrix bmat": "2-D arrays, with @ for the product",
}


def _resolve(names: str) -> dict[Any, str]:
    return {operator.attrgetter(name)(np): name for name in names.split() if _has(name)}


def _has(name: str) -> bool:
    try:
        operator.attrgetter(name)(np)
    except AttributeError:
        return False
    return True


# Old names of functions, which warn when they are called.
_ALIASES = {old: new for old, new in [(vars(np).get("row_stack"), np.vstack)] if old is not None}

VIEWS, FACTS, SEQUENCES = _resolve(_VIEWS), _resolve(_FACTS), _resolve(_SEQUENCES)
REFUSED = {f: remedy for names, remedy in _REMEDIES.items() for f in _resolve(names)}


def _describe(function: Any, args: Any, kwargs: dict[str, Any]) -> NumpyCall:
    return NumpyCall(name_of(function), function, args, kwargs)


@observed(_describe)
def call_function(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """``function(*args, **kwargs)`` for a NumPy or SciPy function and traced arguments."""
    function = _ALIASES.get(function, function)
    chosen = next((item for item in (*args, *kwargs.values()) if isinstance(item, Selection)), None)
    if chosen is not None and function not in FACTS:
        return _choice(chosen, function, args, kwargs)
    if function in SPECIAL:
        return SPECIAL[function](*args, **kwargs)
    if function in WRITERS:
        return WRITERS[function](*args, **kwargs)
    if function in FACTS:
        return function(*shadows(args), **shadows(kwargs))
    if current() is None or not is_traced(args, kwargs):
        result = perform_known(function, args, kwargs)
        for item in collect(kwargs.get("out")):
            item.buffer.touch()
        return result
    if function in VIEWS and function not in SEQUENCES:
        return rearrange(function, _joined(args), kwargs)
    if function in VIEWS:
        return rearrange(function, args, kwargs)
    return _by_form(function, args, dict(kwargs))


def _by_form(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    form = FORMS.get(function)
    if function in REFUSED or form is None:
        decline(f"{name_of(function)} on a traced value", REFUSED.get(function, OTHERWISE))
    if kwargs.get("overwrite_input") or kwargs.get("overwrite_a") or kwargs.get("overwrite_b"):
        decline(f"{name_of(function)} that may overwrite its input", "leave overwrite_... out")
    if any(
        callable(item) and not isinstance(item, ArrayProxy) for item in (*args, *kwargs.values())
    ):
        args, kwargs = _without_callables(function, args, kwargs)
    out = kwargs.pop("out", None)
    if function is np.dot and len(args) == 3:
        args, out = args[:2], args[2]
    if function in SEQUENCES and function is not np.einsum:
        args = tuple(_items_as_arrays(function, item) for item in args)
    else:
        args = tuple(_list_as_array(item) for item in _joined(args))
        kwargs = {k: v if k in _NO_LISTS else _list_as_array(v) for k, v in kwargs.items()}
    result = perform(function, _without_layout(form), args, kwargs)
    return result if out is None else into(out, result)


def _without_callables(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    kept = {k: v for k, v in kwargs.items() if k == "dtype" or not callable(v)}
    if any(callable(a) and not isinstance(a, (ArrayProxy, type)) for a in args) or kept != kwargs:
        decline(f"{name_of(function)} with a Python function", "array expressions")
    return args, kwargs


def _without_layout(form: Any) -> Any:
    """``form`` without the keywords that only set the layout or casting of NumPy's result."""

    def call(*args: Any, **kwargs: Any) -> Any:
        for name in ("order", "subok", "casting", "like"):
            kwargs.pop(name, None)
        return form(*args, **kwargs)

    return call


def _joined(args: Any) -> Any:
    """Lists and tuples of traced numbers or rows as one array each."""
    return tuple(
        perform(np.array, nest, (item,))
        if isinstance(item, (list, tuple)) and collect(item)
        else item
        for item in args
    )


def _list_as_array(item: Any) -> Any:
    return np.asarray(item) if isinstance(item, list) and _numbers(item) else item


def _items_as_arrays(function: Any, item: Any) -> Any:
    """The members of a sequence of arrays, each as an array."""
    if isinstance(item, ArrayProxy) or not isinstance(item, (list, tuple)) or function is np.block:
        return item
    return [_as_array(part) for part in item]


def _as_array(part: Any) -> Any:
    if isinstance(part, ArrayProxy) or not isinstance(part, (list, tuple, int, float)):
        return part
    return perform(np.array, nest, (part,)) if collect(part) else np.asarray(part)


def _numbers(item: Any) -> bool:
    found: list[bool] = []
    replace(item, lambda leaf: found.append(isinstance(leaf, (int, float, complex, np.generic))))
    return all(found)


def _choice(chosen: Any, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    return chosen.call(function, args, kwargs)


def call_method(array: ArrayProxy, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """``getattr(array, name)(*args, **kwargs)`` for a method that NumPy also has as a function."""
    function = getattr(np, name)
    if isinstance(function, np.ufunc):
        return call_ufunc(function, "__call__", (array, *args), kwargs)
    return call_function(function, (array, *args), kwargs)


def _maker(native: Callable[..., Any]) -> Callable[..., Any]:
    """``np.array``, ``np.asarray`` and similar."""

    def make(obj: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not is_traced(obj):
            return perform_known(native, (obj, *_given(dtype), *args), kwargs)
        if not isinstance(obj, ArrayProxy):
            return perform(native, nest, (obj, *_given(dtype), *args), kwargs)
        if dtype is None or np.dtype(dtype) == obj.shadow.dtype:
            return rearrange(lambda item: native(item, None, *args, **kwargs), (obj,))
        return perform(native, lambda item, *_, **__: item, (obj, dtype, *args), kwargs)

    return make


def _given(dtype: Any) -> tuple[Any, ...]:
    return () if dtype is None else (dtype,)


def _like(native: Callable[..., Any]) -> Callable[..., Any]:
    """``np.zeros_like`` and similar: constants of a traced array's shape."""

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
    if not copy and isinstance(x, ArrayProxy) and isinstance(x.shadow, np.ndarray):
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
    if not isinstance(val, ArrayProxy) or val.shadow.dtype.kind == "c":
        return perform(np.real, jnp.real, (val,))
    return rearrange(np.real, (val,))


def _diag(v: Any, k: int = 0) -> Any:
    if isinstance(v, ArrayProxy) and v.shadow.ndim == 2:
        return rearrange(np.diag, (v, k))
    return perform(np.diag, lambda item, k: jnp.diag(jnp.asarray(item), k), (v, k))


def _where(condition: Any, *branches: Any) -> Any:
    if not branches and is_traced(condition):
        what = "np.where with one argument: how many entries it finds is not known"
        decline(what, "np.where(condition, a, b)")
    if not is_traced(condition, branches):
        return perform_known(np.where, (condition, *branches), {})
    args = tuple(
        item if isinstance(item, (ArrayProxy, int, float, np.ndarray)) else _maker(np.array)(item)
        for item in (condition, *branches)
    )
    return perform(np.where, jnp.where, args)


def _apply_along_axis(func1d: Any, axis: int, arr: Any, *args: Any, **kwargs: Any) -> Any:
    """``np.apply_along_axis`` slice by slice, each passed to Python code."""
    moved = np.moveaxis(arr, axis, -1)
    rows = [
        _maker(np.asanyarray)(func1d(moved[place], *args, **kwargs))
        for place in np.ndindex(*moved.shape[:-1])
    ]
    if not rows:
        decline("np.apply_along_axis over an empty array", "array expressions")
    if any(not isinstance(row, ArrayProxy) for row in rows):
        return np.apply_along_axis(func1d, axis, arr, *args, **kwargs)
    stacked = np.stack(rows).reshape(moved.shape[:-1] + rows[0].shape)
    first, count = len(moved.shape) - 1, rows[0].ndim
    target = [(axis % moved.ndim) + number for number in range(count)]
    return np.moveaxis(stacked, [first + number for number in range(count)], target)


def _piecewise(x: Any, condlist: Any, funclist: Any, *args: Any, **kw: Any) -> Any:
    """``np.piecewise`` on whole arrays: each piece is computed where its condition holds."""
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


def _printing(native: Callable[..., str]) -> Callable[..., str]:
    """``np.array2string`` and similar: of a traced array its dtype and shape."""

    def text(a: Any, *args: Any, **kwargs: Any) -> str:
        return repr(a) if is_traced(a) else native(*shadows((a, *args)), **kwargs)

    return text


def _fresh_empty(*args: Any, **kwargs: Any) -> Any:
    """``np.empty`` as zeros: its content is arbitrary in NumPy."""
    native = np.empty if current() is None else np.zeros
    return perform_known(native, args, kwargs)


_MAKERS = (np.array, np.asarray, np.asanyarray, np.ascontiguousarray, np.asfortranarray)


def _sharing(native: Callable[..., bool]) -> Callable[..., bool]:
    """``np.shares_memory`` of the shadows, unless it is unknown which arrays are views."""

    def ask(a: Any, b: Any, *args: Any, **kwargs: Any) -> bool:
        if any(
            isinstance(item, ArrayProxy) and isinstance(item.buffer, MaybeAliased)
            for item in (a, b)
        ):
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
    **{native: _printing(native) for native in (np.array2string, np.array_repr, np.array_str)},
}
