"""Which NumPy operations are complex-analytic, and how each acts on ``a + ib`` with a tiny ``b``.

``f(a + ib) = f(a) + i f'(a) b``, exactly as far as rounding goes: ``b²`` is far below it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Complex = NDArray[np.complex128]
Rule = Callable[..., Any]


def _unary(ufunc: Any) -> Rule:
    """NumPy's own complex function, with the real part of its real one.

    Where the real function is not defined (``log`` below zero), its complex twin is: NaN instead.
    """

    def rule(z: Complex) -> Complex:
        real = ufunc(z.real)
        result = np.asarray(ufunc(z), np.complex128)
        return _complex(real, np.where(np.isnan(real), np.nan, result.imag))

    return rule


def _through(ufunc: Any, slope: Callable[[Any, Array, Array], Array]) -> Rule:
    """A function without an accurate complex form; ``slope(f, a, f(a))`` is its derivative."""

    def rule(z: Complex) -> Complex:
        real = ufunc(z.real)
        # Where nothing moves, an infinite slope moves nothing either.
        return _complex(real, np.where(z.imag == 0, 0.0, slope(ufunc, z.real, real) * z.imag))

    return rule


def _complex(real: Any, imag: Any) -> Complex:
    result = np.empty(np.shape(real), np.complex128)
    result.real, result.imag = real, imag
    return result


def power(z: Complex, exponent: Array) -> Complex:
    """``a^p + i p a^(p-1) b`` for a real ``p``; flat at ``p = 0``."""
    real = np.power(z.real, exponent)
    # a^p / a, as the rounding of `p - 1` would be multiplied by log(a).
    less = np.where(z.real == 0, np.power(z.real, exponent - 1.0), real / z.real)
    slope = np.where(np.equal(exponent, 0), 0.0, exponent * less)
    return _complex(real, np.where(z.imag == 0, 0.0, slope * z.imag))


# Rational, or matrix products: NumPy's complex arithmetic is what is wanted.
_PLAIN = (
    *(np.add, np.subtract, np.multiply, np.divide, np.negative, np.positive),
    *(np.matmul, np.square, np.reciprocal),
)
_COMPLEX = (
    *(np.exp, np.log, np.log2, np.log10, np.expm1),
    *(np.sin, np.cos, np.tan, np.sinh, np.cosh, np.tanh),
    *(np.arcsin, np.arccos, np.arctan, np.arcsinh, np.arccosh, np.arctanh),
)

# By name: SciPy's are not imported for the sake of a look-up.
UFUNCS: dict[str, Rule] = {
    **{ufunc.__name__: ufunc for ufunc in _PLAIN},
    **{ufunc.__name__: _unary(ufunc) for ufunc in _COMPLEX},
    "power": power,
    "log1p": _through(np.log1p, lambda f, a, y: 1 / (1 + a)),
    # Its complex twin is finite at zero.
    "sqrt": _through(np.sqrt, lambda f, a, y: 0.5 / y),
    "exp2": _through(np.exp2, lambda f, a, y: np.log(2.0) * y),
}

SCIPY_UFUNCS: dict[str, Callable[[Any], Rule]] = {
    "expit": lambda ufunc: _through(ufunc, lambda f, a, y: y * f(-a)),
    "erf": lambda ufunc: _through(ufunc, lambda f, a, y: np.exp(-a * a) * (2 / np.sqrt(np.pi))),
}

# Reductions and outer products of these are sums and products again.
METHODS = {
    "reduce": {"add", "multiply"},
    "accumulate": {"add", "multiply"},
    "outer": {"add", "subtract", "multiply", "divide"},
}

LIKE = {np.zeros_like, np.ones_like, np.empty_like, np.full_like}
# Only rearrange entries; a result may be a view.
LAYOUT = {
    *(np.concatenate, np.stack, np.hstack, np.vstack, np.dstack, np.column_stack),
    *(np.split, np.array_split, np.hsplit, np.vsplit, np.dsplit),
    *(np.reshape, np.ravel, np.transpose, np.swapaxes, np.moveaxis, np.expand_dims, np.squeeze),
    *(np.broadcast_to, np.broadcast_arrays, np.atleast_1d, np.atleast_2d, np.atleast_3d),
    *(np.tile, np.repeat, np.roll, np.flip, np.fliplr, np.flipud, np.rot90),
    *(np.take, np.take_along_axis, np.diagonal, np.diag, np.tril, np.triu, np.append),
    *(np.copy, np.where, np.shape, np.ndim, np.size),
    *(np.pad, *LIKE),
}
ARITHMETIC = {
    *(np.sum, np.mean, np.prod, np.cumsum, np.cumprod, np.diff, np.trace),
    *(np.dot, np.inner, np.outer, np.tensordot, np.einsum, np.kron, np.cross),
    *(np.linalg.solve, np.linalg.inv, np.linalg.det, np.linalg.matrix_power),
}
PAD = {"constant", "edge", "wrap", "reflect", "symmetric"}

REMEDIES = {
    "logaddexp": "np.log(np.exp(a) + np.exp(b)), or leave it to the differences",
    "norm": "np.sqrt(np.sum(x * x))",
    "vdot": "np.dot(a.ravel(), b.ravel())",
    "vecdot": "np.sum(a * b, axis=-1)",
    "hypot": "np.sqrt(a * a + b * b)",
    "var": "np.mean((x - np.mean(x)) ** 2)",
    "std": "np.sqrt(np.mean((x - np.mean(x)) ** 2))",
    "cbrt": "x ** (1 / 3)",
    "float_power": "x ** p",
}
