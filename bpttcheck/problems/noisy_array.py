"""Monte Carlo arithmetic on the hand-written code itself: arrays whose results carry noise.

A :class:`NoisyArray` implements NumPy's array protocols. Each floating result ``o`` of an operation
that rounds becomes

    o (1 + eps u)           u uniform with mean 0 and variance 1

with ``eps`` the rounding unit of the checked dtype (code that computes in lower precision has a
larger error). An operation that sums products or terms has the same noise on the terms, because its
rounding error is that of the intermediates and not of the result. Operations that do not round (a
maximum, a sign, a copy, a comparison) stay exact. The noisy copies of the user's own forward and
backward pass span the effect of rounding, cancellation inside the code included.

Source: D. S. Parker, Monte Carlo Arithmetic, UCLA CSD-970002 (1997).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.contract import is_float
from bpttcheck.problems.problem import Problem, each_leaf

Array = NDArray[Any]

_UNIFORM = float(np.sqrt(3.0))

_EXACT_UFUNCS = frozenset(
    "absolute ceil copysign equal fabs floor fmax fmin frexp greater greater_equal heaviside "
    "isfinite isinf isnan ldexp less less_equal logical_and logical_not logical_or logical_xor "
    "maximum minimum modf negative nextafter not_equal positive rint sign signbit spacing trunc "
    "conjugate".split()
)
_SUMMING_METHODS = frozenset(("reduce", "accumulate", "reduceat"))

# Functions in C that sum products: the noise belongs on the products.
_PRODUCTS = frozenset("dot einsum inner tensordot vdot convolve correlate kron cross".split())
_FACTORED = frozenset(
    "inv pinv solve lstsq svd svdvals eig eigh eigvals eigvalsh qr cholesky det slogdet "
    "matrix_rank tensorinv tensorsolve".split()
)
"""Backward stable to ``n eps`` normwise: N. J. Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., SIAM 2002, sections 7.6, 9.3, 19.4."""

_PRODUCT_MODULES = ("numpy.linalg", "numpy.fft")


class _Supply(threading.local):
    """The random numbers of the evaluation that runs in this thread; None: no noise."""

    rng: np.random.Generator | None = None
    unit: float | None = None


_SUPPLY = _Supply()


@contextmanager
def noise(rng: np.random.Generator, unit: float | None = None) -> Generator[None]:
    """Operations on noisy arrays draw from ``rng`` while the block runs.

    Args:
        rng: the source of the noise.
        unit: the rounding unit of every operation; None: that of each result's own dtype.
    """
    before = _SUPPLY.rng, _SUPPLY.unit
    _SUPPLY.rng, _SUPPLY.unit = rng, unit
    try:
        yield
    finally:
        _SUPPLY.rng, _SUPPLY.unit = before


def noisy_problem(problem: Problem, rng: np.random.Generator) -> Problem:
    """The problem with every float array noisy, and itself moved by one rounding error."""

    def one(leaf: Any) -> Any:
        return _shaken(np.asarray(leaf), rng).view(NoisyArray) if is_float(leaf) else leaf

    return each_leaf(problem, one)


def copies(
    side: Callable[[Problem], dict[str, Any]], problem: Problem, seeds: tuple[int, ...], count: int
) -> list[dict[str, Array]] | None:
    """``count`` noisy evaluations of ``side`` at a problem.

    Args:
        side: from a problem to named arrays, by the hand-written code.
        problem: the point.
        seeds: the seeds of the noise.
        count: the number of evaluations.

    Returns:
        The named arrays of each evaluation in float64, or None where the code cannot run on a
        subclass of ``ndarray``, as compiled code.
    """
    found: list[dict[str, Array]] = []
    for copy in range(count):
        rng = np.random.default_rng([*seeds, copy])
        try:
            unit = float(np.finfo(problem.dtype).eps)
            with noise(rng, unit), np.errstate(all="ignore"):
                values = side(noisy_problem(problem, rng))
        except Exception:  # code for plain arrays may fail in any way on a subclass
            return None
        found.append({name: np.asarray(value, np.float64) for name, value in values.items()})
    return found


def deviations(group: Sequence[Mapping[str, Any]], block: str) -> Array:
    """The deviations of a few noisy values of a block from their mean, scaled to be unbiased.

    Args:
        group: the named arrays of each evaluation; two at least.
        block: which of them.
    """
    stack = np.stack([np.asarray(one[block], np.float64) for one in group])
    with np.errstate(all="ignore"):
        return (stack - stack.mean(axis=0)) * np.sqrt(len(stack) / max(len(stack) - 1, 1))


class NoisyArray(np.ndarray):
    """An array whose floating results are moved by their own rounding error."""

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any
    ) -> Any:
        """Evaluate on plain arrays, then add the noise."""
        plain = [_plain(value) for value in inputs]
        if (method in _SUMMING_METHODS and ufunc is np.add) or ufunc in (np.matmul, np.vecdot):
            plain[0] = _shaken_here(plain[0])
        targets = None if out is None else tuple(_plain(one) for one in out)
        if targets is not None:
            kwargs["out"] = targets
        if "where" in kwargs:
            kwargs["where"] = _plain(kwargs["where"])
        result = getattr(ufunc, method)(*plain, **kwargs)
        if method == "at":
            return None
        rounds = ufunc.__name__ not in _EXACT_UFUNCS
        if targets is None:
            return _wrapped(result, rounds)
        for target in targets:
            if rounds and target is not None:
                target[...] = _shaken_here(target)
        return out if out is None or len(out) > 1 else out[0]

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Noise on functions that sum products in C; others are made of ufuncs, or do not round."""
        if func.__name__ in _PRODUCTS or func.__module__.startswith(_PRODUCT_MODULES):
            factored = func.__module__.startswith("numpy.linalg") and func.__name__ in _FACTORED
            moved = _matrix if factored else _operand
            result = func(*map(moved, args), **{k: moved(v) for k, v in kwargs.items()})
            return _wrapped(result, True)
        return _wrapped(super().__array_function__(func, types, args, kwargs), False)

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, NoisyArray) else value


def _operand(value: Any) -> Any:
    """An argument of a function in C: plain, its floats moved by one rounding error."""
    if isinstance(value, NoisyArray):
        return _shaken_here(value.view(np.ndarray))
    if isinstance(value, (list, tuple)):
        return type(value)(map(_operand, value))
    return value


def _matrix(value: Any) -> Any:
    """An argument of a factorisation, whose backward error is ``n eps`` of its largest entry."""
    moved = _operand(value)
    if not isinstance(value, NoisyArray) or moved.ndim < 2 or _SUPPLY.rng is None:
        return moved
    eps = np.finfo(moved.dtype).eps if _SUPPLY.unit is None else _SUPPLY.unit
    largest = np.abs(moved).max(initial=0.0)
    u = _SUPPLY.rng.uniform(-_UNIFORM, _UNIFORM, moved.shape)
    return (moved + eps * moved.shape[-1] * largest * u).astype(moved.dtype)


def _wrapped(result: Any, rounds: bool) -> Any:
    if isinstance(result, tuple):
        items = [_wrapped(item, rounds) for item in result]
        return type(result)(*items) if hasattr(result, "_fields") else tuple(items)
    if isinstance(result, list):
        return [_wrapped(item, rounds) for item in result]
    if not isinstance(result, (np.ndarray, np.inexact)):
        return result
    array = np.asarray(result)
    if array.dtype.kind not in "fc":
        return result
    return (_shaken_here(array) if rounds else array).view(NoisyArray)


def _shaken_here(value: Any) -> Any:
    rng = _SUPPLY.rng
    return value if rng is None else _shaken(value, rng)


def _shaken(value: Any, rng: np.random.Generator) -> Any:
    """``value`` times ``1 + eps u``, real and imaginary part apart."""
    array = np.asarray(value)
    if array.dtype.kind == "f":
        eps = np.finfo(array.dtype).eps if _SUPPLY.unit is None else _SUPPLY.unit
        u = rng.uniform(-_UNIFORM, _UNIFORM, array.shape)
        return (array * (1 + eps * u)).astype(array.dtype)
    if array.dtype.kind == "c":
        return _shaken(np.real(array), rng) + 1j * _shaken(np.imag(array), rng)
    return value
