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
from bpttcheck.oracles._user_line import Line, user_place

_FLOAT64 = np.dtype(np.float64)


@dataclass(frozen=True)
class Rounding:
    """How each result is disturbed: by up to ``width`` relative, real and imaginary part apart."""

    rng: np.random.Generator | None
    width: float = 0.0

    def __call__(self, z: NDArray[Any]) -> NDArray[Any]:
        """``z`` itself, disturbed in place."""
        if self.rng is not None and z.dtype.kind == "c":
            z.real *= 1 + self.width * self.rng.uniform(-1, 1, z.shape)
            z.imag *= 1 + self.width * self.rng.uniform(-1, 1, z.shape)
        return z


EXACT = Rounding(None)


def decline(what: str, remedy: str = "") -> NoReturn:
    """Raise a Declined that names the user's line."""
    raise Declined(what, where=str(Line(*user_place())), remedy=remedy)


class Analytic(NDArrayOperatorsMixin):
    """See the module; ``z`` holds the complex numbers."""

    __slots__ = ("_is_scalar", "rounding", "z")
    __hash__: Any = None

    def __init__(self, z: Any, rounding: Rounding) -> None:
        # NumPy gives scalars where an array would have no axes; scalars do not change in place.
        self._is_scalar = not isinstance(z, np.ndarray)
        self.z: NDArray[Any] = np.asarray(z)
        self.rounding = rounding

    shape = property(lambda self: self.z.shape)
    ndim = property(lambda self: self.z.ndim)
    size = property(lambda self: self.z.size)
    dtype = property(lambda self: _FLOAT64)
    T = property(lambda self: Analytic(self.z.T, self.rounding))
    mT = property(lambda self: Analytic(self.z.mT, self.rounding))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = ufunc.__name__
        rule = self._rule(ufunc, method, inputs)
        out = kwargs.pop("out", (None,))[0]
        if out is not None and not isinstance(out, Analytic):
            decline(f"np.{name} into an array made for real numbers", "np.zeros_like of its input")
        if kwargs.pop("dtype", None) not in (None, float, np.float64, _FLOAT64):
            decline(f"np.{name} in another precision than float64")
        plain = [unwrap(x) for x in inputs]
        if kwargs and (method == "__call__" and not isinstance(rule, np.ufunc)):
            decline(f"np.{name} with {', '.join(sorted(kwargs))}=", "np.where on the result")
        if out is not None and "where" in kwargs:
            kwargs["out"] = out.z
        made = rule(*plain, **kwargs) if method == "__call__" else getattr(ufunc, method)(*plain, **kwargs)
        if out is None:
            return self._arithmetic(made)
        out.z[...] = self.rounding(np.array(made))
        return out
