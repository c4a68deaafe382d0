"""NumPy's functions on traced arrays: which JAX function each is, and which have none."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from bpttcheck.oracles.tracer.arguments import collect, is_traced, replace, shadows
from bpttcheck.oracles.tracer.call import perform, perform_known, rearrange
from bpttcheck.oracles.tracer.forms import FORMS, name_of
from bpttcheck.oracles.tracer.memory import Chosen, Held
from bpttcheck.oracles.tracer.run import current, decline
from bpttcheck.oracles.tracer.special import SPECIAL
from bpttcheck.oracles.tracer.ufuncs import OTHERWISE, call_ufunc, nest
from bpttcheck.oracles.tracer.watch import NumpyCall, observed
from bpttcheck.oracles.tracer.writes import WRITERS, into

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
    """``function(*args, **kwargs)`` for a function of NumPy or SciPy and arguments of ours."""
    function = _ALIASES.get(function, function)
    chosen = next((item for item in (*args, *kwargs.values()) if isinstance(item, Chosen)), None)
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
            item.box.touch()
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
    if any(callable(item) and not isinstance(item, Held) for item in (*args, *kwargs.values())):
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
    if any(callable(a) and not isinstance(a, (Held, type)) for a in args) or kept != kwargs:
        decline(f"{name_of(function)} with a Python function", "array expressions")
    return args, kwargs


def _without_layout(form: Any) -> Any:
    """``form`` without the keywords that only say how NumPy lays out or casts its result."""

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
    if isinstance(item, Held) or not isinstance(item, (list, tuple)) or function is np.block:
        return item
    return [_as_array(part) for part in item]


def _as_array(part: Any) -> Any:
    if isinstance(part, Held) or not isinstance(part, (list, tuple, int, float)):
        return part
    return perform(np.array, nest, (part,)) if collect(part) else np.asarray(part)


def _numbers(item: Any) -> bool:
    found: list[bool] = []
    replace(item, lambda leaf: found.append(isinstance(leaf, (int, float, complex, np.generic))))
    return all(found)


def _choice(chosen: Any, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    return chosen.call(function, args, kwargs)


def call_method(array: Held, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """``getattr(array, name)(*args, **kwargs)`` for a method that NumPy also has as a function."""
    function = getattr(np, name)
    if isinstance(function, np.ufunc):
        return call_ufunc(function, "__call__", (array, *args), kwargs)
    return call_function(function, (array, *args), kwargs)
