"""An array of real numbers with tiny imaginary parts that takes part in analytic operations only.

It is not an ``ndarray``: ``np.asarray(z)``, ``buffer[0] = z`` and every function without a rule
would otherwise take the complex numbers silently, and NumPy's answer to ``abs``, ``sign``, ``max``
or a comparison of complex numbers is not the real function's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from bpttcheck.errors import Declined
from bpttcheck.oracles import _analytic_rules as rules
from bpttcheck.oracles.branches.user_line import Line, user_place

_FLOAT64 = np.dtype(np.float64)


# A few times the spacing of the smallest numbers.
_UNDERFLOW = 2.0**-1072


@dataclass(frozen=True)
class Jitter:
    """How each result is disturbed: by up to ``width`` relative, real and imaginary part apart.

    A result that came out of something perturbed is also off by what underflow may have swallowed:
    harmless, unless a later division by something tiny brings it back.
    """

    rng: np.random.Generator | None
    width: float = 0.0

    def __call__(self, z: NDArray[np.complex128]) -> NDArray[np.complex128]:
        """``z`` itself, disturbed in place."""
        if self.rng is not None:
            of_real, of_imag = self.rng.uniform(1 - self.width, 1 + self.width, (2, *z.shape))
            z.real *= of_real
            z.imag *= of_imag
        return z

    def underflow(self, z: NDArray[np.complex128], inputs: list[Any]) -> NDArray[np.complex128]:
        """``z``, an elementwise function of ``inputs``, disturbed in place by underflow."""
        if self.rng is not None:
            moved = np.zeros(z.shape, bool)
            for x in inputs:
                moved |= np.imag(x) != 0
            z.imag += np.where(moved, _UNDERFLOW * self.rng.uniform(-1, 1, z.shape), 0.0)
        return z


EXACT = Jitter(None)


def decline(what: str, remedy: str = "") -> NoReturn:
    """Raise a Declined that names the user's line."""
    raise Declined(what, where=str(Line(*user_place())), remedy=remedy)


class Analytic(NDArrayOperatorsMixin):
    """Real numbers ``a`` held as ``a + i b``, with ``b`` far below the rounding of ``a``.

    Args:
        z: the complex numbers; a scalar stays one.
        jitter: how results of arithmetic are disturbed.
    """

    __slots__ = ("_is_scalar", "jitter", "z")
    __hash__: Any = None

    def __init__(self, z: Any, jitter: Jitter) -> None:
        # NumPy gives scalars where an array would have no axes; scalars do not change in place.
        self._is_scalar = not isinstance(z, np.ndarray)
        self.z: NDArray[Any] = np.asarray(z)
        self.jitter = jitter

    shape = property(lambda self: self.z.shape)
    ndim = property(lambda self: self.z.ndim)
    size = property(lambda self: self.z.size)
    dtype = property(lambda self: _FLOAT64)
    T = property(lambda self: Analytic(self.z.T, self.jitter))
    mT = property(lambda self: Analytic(self.z.mT, self.jitter))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = ufunc.__name__
        rule = _rule(ufunc, method)
        (out,) = kwargs.pop("out", (None,))
        if out is not None and not isinstance(out, Analytic):
            decline(f"np.{name} into an array made for real numbers", _BUFFER)
        _require_wide(name, kwargs.pop("dtype", None))
        plain = [_operand(x) for x in inputs]
        if method != "__call__":
            made = getattr(ufunc, method)(*plain, **kwargs)
        elif kwargs:
            decline(f"np.{name} with {', '.join(sorted(kwargs))}=", "np.where on the result")
        elif name == "power" and isinstance(inputs[1], Analytic):
            decline("a power whose exponent depends on the input", "np.exp(p * np.log(x))")
        else:
            made = rule(*plain)
            if self.jitter.rng is not None and ufunc.signature is None:
                made = self.jitter.underflow(np.array(made), plain)[()]
        if out is None:
            return self._wrap(made, rounded=True)
        out.z[...] = self.jitter(np.array(made, np.complex128))
        return out

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        name = func.__name__
        if kwargs.pop("out", None) is not None:
            decline(f"np.{name} with out=", "the value that it returns")
        if func in rules.LIKE and kwargs.get("dtype") is not None:
            # A buffer for real numbers takes these; one for whole numbers or masks does not.
            if np.dtype(kwargs["dtype"]) != _FLOAT64:
                return func(unwrap(args)[0].real, *unwrap(args)[1:], **kwargs)
            del kwargs["dtype"]
        _require_wide(name, kwargs.pop("dtype", None))
        if func is np.where and (len(args) < 3 or isinstance(args[0], Analytic)):
            decline("a choice by the truth of a value that depends on the input")
        if func is np.pad and (args[2:] or (kwargs.get("mode", "constant"),))[0] not in rules.PAD:
            decline("np.pad with this mode")
        if func not in rules.LAYOUT and func not in rules.ARITHMETIC:
            decline(f"np.{name} is not complex-analytic", rules.REMEDIES.get(name, ""))
        made = func(*unwrap(args), **unwrap(kwargs))
        return self._wrap(made, rounded=func in rules.ARITHMETIC)

    def __getitem__(self, key: Any) -> Any:
        return Analytic(self.z[key], self.jitter)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.z[key] = _operand(value)

    def __len__(self) -> int:
        return len(self.z)

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _METHODS:
            return lambda *args, **kwargs: getattr(np, name)(self, *args, **kwargs)
        decline(f".{name} of a value that depends on the input", rules.REMEDIES.get(name, ""))

    def reshape(self, *shape: Any, **kwargs: Any) -> Analytic:
        """As NumPy's."""
        return Analytic(self.z.reshape(*shape, **kwargs), self.jitter)

    def transpose(self, *axes: Any) -> Analytic:
        """As NumPy's."""
        return Analytic(self.z.transpose(*axes), self.jitter)

    def flatten(self, *args: Any) -> Analytic:
        """As NumPy's."""
        return Analytic(self.z.flatten(*args), self.jitter)

    def fill(self, value: Any) -> None:
        """As NumPy's."""
        self.z[...] = _operand(value)

    def astype(self, dtype: Any, *_: Any, **__: Any) -> Analytic:
        """As NumPy's, for float64 only."""
        _require_wide("astype", dtype)
        return Analytic(self.z.copy(), self.jitter)

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        decline("np.asarray(z) or buffer[...] = z of what depends on the input", _BUFFER)

    def __bool__(self) -> NoReturn:
        decline("the truth of a value that depends on the input")

    def __float__(self) -> NoReturn:
        decline("float(z) or buffer[k] = z of a value that depends on the input", _BUFFER)

    def __int__(self) -> NoReturn:
        decline("int() of a value that depends on the input")

    def __complex__(self) -> NoReturn:
        decline("complex() of a value that depends on the input")

    def __index__(self) -> NoReturn:
        decline("an index that depends on the input")

    def __iadd__(self, other: Any) -> Any:
        return self + other if self._is_scalar else super().__iadd__(other)

    def __isub__(self, other: Any) -> Any:
        return self - other if self._is_scalar else super().__isub__(other)

    def __imul__(self, other: Any) -> Any:
        return self * other if self._is_scalar else super().__imul__(other)

    def __itruediv__(self, other: Any) -> Any:
        return self / other if self._is_scalar else super().__itruediv__(other)

    def _wrap(self, made: Any, *, rounded: bool) -> Any:
        if isinstance(made, (tuple, list)):
            return type(made)(self._wrap(item, rounded=rounded) for item in made)
        if not isinstance(made, (np.ndarray, np.generic)) or made.dtype.kind != "c":
            return made
        if rounded and self.jitter.rng is not None:
            disturbed = self.jitter(np.array(made, np.complex128))
            made = disturbed if isinstance(made, np.ndarray) else disturbed[()]
        return Analytic(made, self.jitter)


_BUFFER = "z as it is, np.stack or np.concatenate of parts, np.zeros_like(z) for a buffer"
_METHODS = {
    *("sum", "mean", "prod", "cumsum", "cumprod", "trace", "dot"),
    *("ravel", "squeeze", "swapaxes", "take", "repeat", "diagonal", "copy"),
}


def unwrap(x: Any) -> Any:
    """``x`` with the complex numbers of every :class:`Analytic` in it laid open."""
    if isinstance(x, Analytic):
        return x.z
    if isinstance(x, (tuple, list)):
        return type(x)(unwrap(item) for item in x)
    if isinstance(x, dict):
        return {key: unwrap(item) for key, item in x.items()}
    return x


def _operand(x: Any) -> Any:
    if isinstance(x, Analytic):
        return x.z
    if np.asarray(x).dtype.kind not in "fiub":
        decline("complex numbers of the code's own")
    return x


def _rule(ufunc: Any, method: str) -> Callable[..., Any]:
    name = ufunc.__name__
    if method != "__call__" and name not in rules.METHODS.get(method, ()):
        decline(f"np.{name}.{method} of a value that depends on the input")
    if name in rules.SCIPY_UFUNCS:
        return rules.SCIPY_UFUNCS[name](ufunc)
    if name not in rules.UFUNCS:
        decline(f"{name} is not complex-analytic", rules.REMEDIES.get(name, ""))
    return rules.UFUNCS[name]


def _require_wide(name: str, dtype: Any) -> None:
    if dtype is not None and np.dtype(dtype) != _FLOAT64:
        decline(f"{name} in another precision than float64")
