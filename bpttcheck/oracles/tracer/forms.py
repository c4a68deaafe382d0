"""The JAX function for each NumPy and SciPy function that is no ufunc.

A function stands in the list of names only where its JAX namesake takes the same arguments with the
same defaults; where the two differ, its form is written out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import jax.scipy.special as jsp
import numpy as np
import scipy.linalg
import scipy.special

Form = Callable[..., Any]

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
    """The symmetric matrix that LAPACK sees when it reads one triangle."""
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
