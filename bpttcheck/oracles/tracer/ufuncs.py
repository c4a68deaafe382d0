"""NumPy's ufuncs on traced arrays: JAX forms, exact dtypes, out=, where=, reduce, at, outer."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
import scipy.special

from bpttcheck.oracles.error_origin import natively
from bpttcheck.oracles.tracer.arguments import collect, shadows
from bpttcheck.oracles.tracer.call import fresh, overwrite, perform, perform_known, steady
from bpttcheck.oracles.tracer.memory import Held, cast, fill_with_dummies
from bpttcheck.oracles.tracer.run import TracingRun, current, decline
from bpttcheck.oracles.tracer.watch import NumpyCall, observed
from bpttcheck.oracles.tracer.writes import into

Form = Callable[..., Any]

OTHERWISE = "a formula in np.exp, np.where and the like, or a reference in JAX"

_OTHER_FORMS: dict[str, Form] = {
    "log_expit": jax.nn.log_sigmoid,
    "exp10": lambda x: jnp.exp(x * np.log(10.0)),
    "psi": jsp.digamma,
    "cosm1": lambda x: -2 * jnp.sin(x / 2) ** 2,
}


def _power(base: Any, exponent: Any) -> Any:
    """``base ** exponent``, by multiplication for whole numbers and by root for one half."""
    if isinstance(exponent, np.ndarray) and exponent.ndim == 0 and exponent.dtype.kind == "f":
        if exponent == 0.5:
            return jnp.sqrt(base)
        if float(exponent).is_integer() and abs(exponent) <= 16:
            return jax.lax.integer_pow(base, int(exponent))
    return jnp.power(base, exponent)


_REDUCTIONS: dict[np.ufunc, Form] = {
    np.add: jnp.sum,
    np.multiply: jnp.prod,
    np.maximum: jnp.max,
    np.minimum: jnp.min,
    np.logical_and: jnp.all,
    np.logical_or: jnp.any,
    np.logaddexp: jsp.logsumexp,
}

_ACCUMULATIONS: dict[np.ufunc, Form] = {
    np.add: jnp.cumsum,
    np.multiply: jnp.cumprod,
    np.maximum: lambda a, axis: jax.lax.cummax(a, axis % a.ndim),
    np.minimum: lambda a, axis: jax.lax.cummin(a, axis % a.ndim),
}


@functools.cache
def form_of(ufunc: np.ufunc) -> Form | None:
    """The JAX function that computes ``ufunc``, or None."""
    name = ufunc.__name__
    if ufunc is np.power:
        return _power
    if getattr(np, name, None) is ufunc:
        return getattr(jnp, name, None)
    if getattr(scipy.special, name, None) is ufunc:
        return _OTHER_FORMS.get(name) or getattr(jsp, name, None) or getattr(jnp, name, None)
    return {"clip": lambda a, low, high: jnp.minimum(jnp.maximum(a, low), high)}.get(name)


def _describe(ufunc: np.ufunc, method: str, inputs: Any, kwargs: dict[str, Any]) -> NumpyCall:
    name = _name(ufunc) if method == "__call__" else f"{_name(ufunc)}.{method}"
    return NumpyCall(name, getattr(ufunc, method), inputs, kwargs)


@observed(_describe)
def call_ufunc(ufunc: np.ufunc, method: str, inputs: Any, kwargs: dict[str, Any]) -> Any:
    """``getattr(ufunc, method)(*inputs, **kwargs)`` where an argument is one of ours."""
    run = current()
    held = collect(inputs, kwargs)
    if run is None or all(item.known for item in held):
        result = perform_known(getattr(ufunc, method), inputs, kwargs)
        for item in collect(inputs[:1] if method == "at" else (), kwargs.get("out")):
            item.box.touch()
        return result
    form = form_of(ufunc)
    if form is None:
        decline(f"{_name(ufunc)} on a traced value", OTHERWISE)
    if method == "__call__":
        return _call(run, ufunc, form, inputs, dict(kwargs))
    if method == "at":
        return _at(ufunc, *inputs)
    if method == "outer":
        return _outer(ufunc, inputs, kwargs)
    return _fold(ufunc, method, inputs, dict(kwargs))


def _call(run: TracingRun, ufunc: np.ufunc, form: Form, inputs: Any, kwargs: dict[str, Any]) -> Any:
    outs = kwargs.pop("out", None) or (None,) * ufunc.nout
    where = kwargs.pop("where", True)
    inputs = tuple(_array(item) for item in inputs)
    if where is not True and any(out is None for out in outs):
        decline(f"np.{ufunc.__name__} with where= but without out=: the rest is not set", "out=")
    scratch = tuple(_scratch(ufunc, out) for out in outs)

    rest = {} if where is True else {"where": shadows(where)}
    plain = dict(kwargs)
    with np.errstate(all="ignore"):
        results: Any = natively(ufunc, *shadows(inputs), out=scratch, **rest, **plain)
    results = results if ufunc.nout > 1 else (results,)
    computed = _values(run, ufunc, form, inputs, kwargs)
    computed = computed if ufunc.nout > 1 else (computed,)
    sure = steady(lambda *args: ufunc(*args, **plain), inputs, {}, collect(inputs), list(results))
    finished = [
        fresh(run, result, value, sure=not sure or sure[number])
        if out is None
        else _store(out, value, where)
        for number, (out, result, value) in enumerate(zip(outs, results, computed, strict=True))
    ]
    return tuple(finished) if ufunc.nout > 1 else finished[0]


def _scratch(ufunc: np.ufunc, out: Any) -> Any:
    """An array like ``out``, for NumPy to accept or refuse (shape, casting, read-only)."""
    if out is None:
        return None
    if not isinstance(out, Held):
        decline(
            f"a traced value is written into an array that was made outside the step, by "
            f"{_name(ufunc)}",
            "make the array inside the step, with np.empty, np.zeros or np.array",
        )
    scratch = np.empty_like(out.shadow)
    fill_with_dummies(scratch)
    scratch.flags.writeable = out.shadow.flags.writeable
    return scratch


def _store(out: Held, value: Any, where: Any) -> Held:
    value = cast(value, out.shadow.dtype)
    if where is not True:
        mask = where.read() if isinstance(where, Held) else np.array(where)
        value = jnp.where(mask, value, out.read())
    out.write(value)
    return out


def _values(
    run: TracingRun, ufunc: np.ufunc, form: Form, inputs: Any, kwargs: dict[str, Any]
) -> Any:
    """The result in JAX, every operand first cast to the dtype that NumPy's loop works in."""
    signature = kwargs.pop("signature", kwargs.pop("sig", None))
    dtype = kwargs.pop("dtype", None)
    if signature is not None:
        decline(f"{_name(ufunc)} with signature=", "dtype=")
    for name in ("casting", "order", "subok"):
        kwargs.pop(name, None)
    kinds = tuple(_kind(item) for item in inputs) + (None,) * ufunc.nout
    if dtype is not None:
        chosen = (None,) * ufunc.nin + (np.dtype(dtype),) * ufunc.nout
        loop = ufunc.resolve_dtypes(kinds, signature=chosen, casting="unsafe")
    else:
        loop = ufunc.resolve_dtypes(kinds, casting="unsafe")
    if any(kind.kind not in "biufc" for kind in loop):
        decline(f"{_name(ufunc)} of something that is no number", "numbers")
    operands = [_operand(item, kind) for item, kind in zip(inputs, loop, strict=False)]
    if loop[-1] != np.bool_ or kwargs:
        return form(*operands, **kwargs)
    recipe = (ufunc, *(_recipe(item) for item in operands))
    if recipe not in run.masks:
        run.masks[recipe] = (form(*operands), operands)
    return run.masks[recipe][0]


def _operand(item: Any, dtype: np.dtype[Any]) -> Any:
    if isinstance(item, Held):
        return np.array(item.shadow, dtype) if item.known else cast(item.read(), dtype)
    return np.array(item, dtype)


def _recipe(operand: Any) -> Any:
    """What identifies an operand: the content of a constant, or the JAX array itself."""
    if isinstance(operand, np.ndarray):
        return (operand.shape, operand.dtype.str, operand.tobytes())
    return id(operand)


def _kind(item: Any) -> Any:
    if isinstance(item, Held):
        return item.shadow.dtype
    if type(item) in (int, float, complex):
        return type(item)
    return np.asarray(item).dtype


def _array(item: Any) -> Any:
    """A list or tuple of traced numbers as one array."""
    if isinstance(item, (list, tuple)) and collect(item):
        return perform(np.array, nest, (item,))
    return item


def nest(item: Any, *_: Any, **__: Any) -> Any:
    """The JAX array that nested lists of JAX arrays spell out."""
    if isinstance(item, (list, tuple)):
        parts = [jnp.asarray(nest(part)) for part in item]
        if not parts:
            return jnp.zeros((0,))
        wide = np.result_type(*(part.dtype for part in parts))
        return jnp.stack([part.astype(wide) for part in parts])
    return item


def _at(ufunc: np.ufunc, target: Any, index: Any, *operand: Any) -> None:
    value = operand[0] if operand else None
    index = _as_index(index)
    if ufunc in (np.add, np.subtract) and isinstance(target, Held):
        sign = 1 if ufunc is np.add else -1

        def form(whole: Any, index: Any, value: Any) -> Any:
            return whole.at[index].add(sign * cast(jnp.asarray(value), whole.dtype))

        overwrite(lambda a, i, v: ufunc.at(a, i, v), form, target, (index, value))
        return
    if not isinstance(target, Held) or any(not item.known for item in collect(index)):
        decline(f"{_name(ufunc)}.at at places that depend on values", "np.add.at")
    whole = np.arange(target.shadow.size).reshape(target.shadow.shape)
    places: Any = natively(operator.getitem, whole, shadows(index))
    if len(np.unique(places)) < places.size:
        decline(f"{_name(ufunc)}.at with places that occur twice", "np.add.at")
    array: Any = target
    array[index] = call_ufunc(ufunc, "__call__", (array[index], *operand), {})


def _as_index(index: Any) -> Any:
    if isinstance(index, (list, range)):
        return _array(index) if collect(index) else np.asarray(index)
    return tuple(_as_index(part) for part in index) if isinstance(index, tuple) else index


def _outer(ufunc: np.ufunc, inputs: Any, kwargs: dict[str, Any]) -> Any:
    a: Any
    b: Any
    a, b = (item if isinstance(item, Held) else np.asarray(_array(item)) for item in inputs)
    spread = a.reshape(a.shape + (1,) * b.ndim)
    return call_ufunc(ufunc, "__call__", (spread, b), kwargs)


def _fold(ufunc: np.ufunc, method: str, inputs: Any, kwargs: dict[str, Any]) -> Any:
    table = {"reduce": _REDUCTIONS, "accumulate": _ACCUMULATIONS}.get(method, {})
    fold = table.get(ufunc)
    if fold is None:
        decline(f"np.{ufunc.__name__}.{method} has no JAX form", "np.sum, np.cumsum, np.max, ...")
    out = kwargs.pop("out", None)
    kwargs = {k: v for k, v in kwargs.items() if v is not None or k == "axis"}

    def native(*args: Any, **extra: Any) -> Any:
        return getattr(ufunc, method)(*args, **extra)

    def form(array: Any, axis: Any = 0, dtype: Any = None, **rest: Any) -> Any:
        array = jnp.asarray(array) if dtype is None else cast(array, np.dtype(dtype))
        return fold(array, axis=axis, **rest)

    result = perform(native, form, tuple(_array(item) for item in inputs), kwargs)
    return result if out is None else into(out, result)


def _name(ufunc: np.ufunc) -> str:
    for prefix, home in (("np", np), ("scipy.special", scipy.special)):
        if getattr(home, ufunc.__name__, None) is ufunc:
            return f"{prefix}.{ufunc.__name__}"
    return f"the ufunc {ufunc.__name__}"
