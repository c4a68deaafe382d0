"""The JAX forms of NumPy's functions, and ufuncs with dtypes, out=, where=, reduce, at, outer.

A function is listed by name only if its JAX namesake takes the same arguments with the same
defaults; otherwise its form is written out.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import jax.scipy.special as jsp
import numpy as np
import scipy.linalg
import scipy.special

from bpttcheck.oracles.error_origin import natively
from bpttcheck.oracles.tracer.arguments import collect, shadows
from bpttcheck.oracles.tracer.call import fresh, overwrite, perform, perform_known, steady
from bpttcheck.oracles.tracer.memory import ArrayProxy, cast, fill_with_dummies
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
    """``base ** exponent``: products for integer exponents, a square root for one half."""
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
    """``getattr(ufunc, method)(*inputs, **kwargs)`` with a traced argument."""
    run = current()
    held = collect(inputs, kwargs)
    if run is None or all(item.known for item in held):
        result = perform_known(getattr(ufunc, method), inputs, kwargs)
        for item in collect(inputs[:1] if method == "at" else (), kwargs.get("out")):
            item.buffer.touch()
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
    layout_known = steady(
        lambda *args: ufunc(*args, **plain), inputs, {}, collect(inputs), list(results)
    )
    finished = [
        fresh(run, result, value, layout_known=not layout_known or layout_known[number])
        if out is None
        else _store(out, value, where)
        for number, (out, result, value) in enumerate(zip(outs, results, computed, strict=True))
    ]
    return tuple(finished) if ufunc.nout > 1 else finished[0]


def _scratch(ufunc: np.ufunc, out: Any) -> Any:
    """An array like ``out``, for NumPy to accept or refuse (shape, casting, read-only)."""
    if out is None:
        return None
    if not isinstance(out, ArrayProxy):
        decline(
            f"a traced value is written into an array that was made outside the step, by "
            f"{_name(ufunc)}",
            "make the array inside the step, with np.empty, np.zeros or np.array",
        )
    scratch = np.empty_like(out.shadow)
    fill_with_dummies(scratch)
    scratch.flags.writeable = out.shadow.flags.writeable
    return scratch


def _store(out: ArrayProxy, value: Any, where: Any) -> ArrayProxy:
    value = cast(value, out.shadow.dtype)
    if where is not True:
        mask = where.read() if isinstance(where, ArrayProxy) else np.array(where)
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
    if isinstance(item, ArrayProxy):
        return np.array(item.shadow, dtype) if item.known else cast(item.read(), dtype)
    return np.array(item, dtype)


def _recipe(operand: Any) -> Any:
    """What identifies an operand: the content of a constant, or the JAX array itself."""
    if isinstance(operand, np.ndarray):
        return (operand.shape, operand.dtype.str, operand.tobytes())
    return id(operand)


def _kind(item: Any) -> Any:
    if isinstance(item, ArrayProxy):
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
    """The JAX array of nested lists of JAX arrays."""
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
    if ufunc in (np.add, np.subtract) and isinstance(target, ArrayProxy):
        sign = 1 if ufunc is np.add else -1

        def form(whole: Any, index: Any, value: Any) -> Any:
            return whole.at[index].add(sign * cast(jnp.asarray(value), whole.dtype))

        overwrite(lambda a, i, v: ufunc.at(a, i, v), form, target, (index, value))
        return
    if not isinstance(target, ArrayProxy) or any(not item.known for item in collect(index)):
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
    a, b = (item if isinstance(item, ArrayProxy) else np.asarray(_array(item)) for item in inputs)
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


_SAME: tuple[tuple[str, Any, Any, str], ...] = (
    (
        "np",
        np,
        jnp,
        "all any amax amin argmax argmin max min sum prod mean std var median average "
        "percentile quantile nanmean nansum nanmax nanmin nanstd nanvar nanprod nancumsum "
        "nancumprod nanmedian nanargmax nanargmin ptp cumsum cumprod cumulative_sum "
        "cumulative_prod count_nonzero array_equal allclose isclose isin diff ediff1d gradient "
        "interp unwrap sinc i0 convolve correlate cov corrcoef polyval vander "
        "searchsorted digitize lexsort unravel_index angle imag round around isposinf isneginf "
        "concatenate concat stack hstack vstack dstack column_stack block append insert delete "
        "tile repeat roll resize pad meshgrid tril triu diagflat trace dot vdot inner outer "
        "tensordot kron cross einsum linspace geomspace logspace select take_along_axis astype",
    ),
    (
        "np.linalg",
        np.linalg,
        jnp.linalg,
        "norm det inv solve slogdet svd svdvals qr cond matrix_power multi_dot outer vecdot cross "
        "trace matmul tensordot matrix_norm vector_norm tensorsolve tensorinv",
    ),
    (
        "np.fft",
        np.fft,
        jnp.fft,
        "fft ifft rfft irfft hfft ihfft fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn fftshift "
        "ifftshift",
    ),
    ("scipy.special", scipy.special, jsp, "logsumexp polygamma"),
    ("scipy.linalg", scipy.linalg, jsl, "inv det expm block_diag toeplitz"),
    ("np.lib.stride_tricks", np.lib.stride_tricks, None, ""),
    ("np.random", np.random, None, ""),
)


def _sorting(form: Form) -> Form:
    return lambda a, axis=-1, kind=None, order=None, stable=None: form(jnp.asarray(a), axis=axis)


def _take(a: Any, indices: Any, axis: Any = None, mode: Any = "raise") -> Any:
    mode = None if mode == "raise" else mode
    return jnp.take(jnp.asarray(a), jnp.asarray(indices), axis=axis, mode=mode)


def _choose(a: Any, choices: Any, mode: Any = "raise") -> Any:
    return jnp.choose(a, choices, mode="clip" if mode == "raise" else mode)


def _clip(a: Any, a_min: Any = None, a_max: Any = None, min: Any = None, max: Any = None) -> Any:
    low, high = (a_min if min is None else min), (a_max if max is None else max)
    a = a if low is None else jnp.maximum(a, low)
    return a if high is None else jnp.minimum(a, high)


def _trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    y = jnp.asarray(y)
    if y.dtype == bool:
        raise TypeError("NumPy adds bools by `or`")
    return jnp.trapezoid(y, x, dx, axis)


def _softmax(x: Any, axis: Any = None) -> Any:
    return jax.nn.softmax(x, axis=tuple(range(jnp.ndim(x))) if axis is None else axis)


def _log_softmax(x: Any, axis: Any = None) -> Any:
    return jax.nn.log_softmax(x, axis=tuple(range(jnp.ndim(x))) if axis is None else axis)


def _symmetric(a: Any, uplo: str = "L") -> Any:
    """The symmetric matrix that LAPACK uses when it reads one triangle."""
    a = jnp.asarray(a)
    half = jnp.tril(a) if uplo.upper() == "L" else jnp.conj(jnp.swapaxes(jnp.triu(a), -1, -2))
    below = jnp.tril(half, -1)
    return half + jnp.conj(jnp.swapaxes(below, -1, -2))


def _cholesky(a: Any, *, upper: bool = False) -> Any:
    return jnp.linalg.cholesky(_symmetric(a, "U" if upper else "L"), upper=upper)


def _scipy_cholesky(a: Any, lower: bool = False, **_: Any) -> Any:
    return _cholesky(a, upper=not lower)


def _scipy_solve(a: Any, b: Any) -> Any:
    return jsl.solve(a, b)


def _solve_triangular(a: Any, b: Any, trans: Any = 0, lower: bool = False) -> Any:
    return jsl.solve_triangular(a, b, trans=trans, lower=lower)


_WRITTEN: dict[Any, Form] = {
    np.clip: _clip,
    np.take: _take,
    np.choose: _choose,
    np.sort: _sorting(jnp.sort),
    np.argsort: _sorting(jnp.argsort),
    np.fix: jnp.trunc,
    np.trapezoid: _trapezoid,
    np.linalg.eigh: lambda a, UPLO="L": jnp.linalg.eigh(_symmetric(a, UPLO)),
    np.linalg.eigvalsh: lambda a, UPLO="L": jnp.linalg.eigvalsh(_symmetric(a, UPLO)),
    np.linalg.cholesky: _cholesky,
    np.linalg.pinv: lambda a, rcond=1e-15: jnp.linalg.pinv(a, rtol=rcond),
    scipy.special.softmax: _softmax,
    scipy.special.log_softmax: _log_softmax,
    scipy.linalg.cholesky: _scipy_cholesky,
    scipy.linalg.solve: _scipy_solve,
    scipy.linalg.solve_triangular: _solve_triangular,
}


def _table() -> dict[Any, Form]:
    found = dict(_WRITTEN)
    for _, home, forms, names in _SAME:
        for name in names.split():
            if hasattr(home, name) and hasattr(forms, name):
                found.setdefault(getattr(home, name), getattr(forms, name))
    if hasattr(scipy.special, "softplus"):
        found[scipy.special.softplus] = lambda x: jnp.logaddexp(x, 0.0)
    return found


FORMS: dict[Any, Form] = _table()


@functools.cache
def name_of(function: Any) -> str:
    """``"np.linalg.norm"``: how users call it."""
    name = getattr(function, "__name__", "")
    for prefix, home, _, _ in _SAME:
        if getattr(home, name, None) is function:
            return f"{prefix}.{name}"
    return getattr(function, "__qualname__", repr(function))
