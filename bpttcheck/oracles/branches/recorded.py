"""An array that behaves as NumPy's own and notes every branch that a program takes on its values.

Each operation runs on plain arrays, so its result has the same bits as in a plain run; only
floating results are wrapped again. Whole numbers and truth values stay plain: the event that made
them is already noted, and nothing they decide changes before that event does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.branches import recorder as _recorder

_FLOAT64 = np.dtype(np.float64)
_BRANCHES = _recorder.UFUNCS
_ndarray = np.ndarray
# Functions that only rearrange or multiply and never branch: run on plain arrays in one go.
_LAYOUT = {
    *(np.concatenate, np.stack, np.hstack, np.vstack, np.split, np.array_split),
    *(np.hsplit, np.vsplit, np.reshape, np.transpose, np.swapaxes, np.moveaxis),
    *(np.expand_dims, np.squeeze, np.broadcast_to, np.tile, np.repeat, np.roll),
    *(np.dot, np.inner, np.outer, np.tensordot, np.einsum),
    *(np.zeros_like, np.ones_like, np.empty_like),
}


class Recorded(np.ndarray):
    """A NumPy array whose branch decisions are noted by the recorder of the running thread."""

    # Above ndarray's, so that C functions hand back this type for mixed arguments.
    __array_priority__: Any = 1.0  # pyright: ignore[reportIncompatibleMethodOverride]

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        plain = [x.view(_ndarray) if isinstance(x, Recorded) else x for x in inputs]
        if ufunc.__name__ in _BRANCHES:
            _recorder.note_ufunc(ufunc.__name__, method, plain, kwargs)
        if method == "__call__" and not kwargs:
            result = ufunc(*plain)
            # The common case first: this line runs for nearly every operation of a program.
            if type(result) is _ndarray and result.dtype is _FLOAT64:
                return result.view(Recorded)
            return wrap(result)
        out = kwargs.get("out")
        if out is None:
            return wrap(getattr(ufunc, method)(*plain, **kwargs))
        kwargs["out"] = tuple(x.view(_ndarray) if isinstance(x, Recorded) else x for x in out)
        return _with_outputs(getattr(ufunc, method)(*plain, **kwargs), out)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in _LAYOUT:
            return wrap(func(*unwrap_all(args), **kwargs))
        _recorder.note_function(func, args, kwargs)
        # Python-level functions of NumPy call ufuncs, which come back to `__array_ufunc__`.
        return wrap(super().__array_function__(func, types, args, kwargs))

    def __getitem__(self, key: Any) -> Any:
        item = super().__getitem__(key)
        return item if type(item) is Recorded else wrap(item)

    def __bool__(self) -> bool:
        _recorder.compare("bool", self.view(np.ndarray), 0)
        return bool(self.view(np.ndarray))

    def __float__(self) -> float:
        _recorder.lose("float()")
        return float(self.view(np.ndarray))

    def __int__(self) -> int:
        _recorder.lose("int()")
        return int(self.view(np.ndarray))

    def item(self, *args: Any) -> Any:
        """As NumPy's; the value leaves the recorded world."""
        _recorder.lose(".item()")
        return self.view(np.ndarray).item(*args)

    def tolist(self) -> Any:
        """As NumPy's; the values leave the recorded world."""
        _recorder.lose(".tolist()")
        return self.view(np.ndarray).tolist()

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        """As NumPy's; a conversion to whole numbers is a branch, one to truth values too."""
        plain = self.view(np.ndarray)
        kind = np.dtype(dtype).kind
        if kind in "iu":
            _recorder.rounding("astype", plain)
        elif kind == "b":
            _recorder.compare("astype", plain, 0)
        return wrap(plain.astype(dtype, *args, **kwargs))

    def dot(self, b: Any, out: Any = None) -> Any:
        """As NumPy's."""
        return np.dot(self, b, out)

    def argmax(self, axis: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As NumPy's."""
        _recorder.selection("argmax", self.view(np.ndarray), axis, largest=True)
        return self.view(np.ndarray).argmax(axis, *args, **kwargs)

    def argmin(self, axis: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As NumPy's."""
        _recorder.selection("argmin", self.view(np.ndarray), axis, largest=False)
        return self.view(np.ndarray).argmin(axis, *args, **kwargs)

    def argsort(self, axis: Any = -1, *args: Any, **kwargs: Any) -> Any:
        """As NumPy's."""
        _recorder.order("argsort", self.view(np.ndarray), axis)
        return self.view(np.ndarray).argsort(axis, *args, **kwargs)

    def argpartition(self, kth: Any, axis: Any = -1, *args: Any, **kwargs: Any) -> Any:
        """As NumPy's."""
        _recorder.order("argpartition", self.view(np.ndarray), axis)
        return self.view(np.ndarray).argpartition(kth, axis, *args, **kwargs)

    def sort(self, axis: Any = -1, *args: Any, **kwargs: Any) -> None:
        """As NumPy's, in place."""
        _recorder.order("sort", self.view(np.ndarray), axis)
        self.view(np.ndarray).sort(axis, *args, **kwargs)

    def partition(self, kth: Any, axis: Any = -1, *args: Any, **kwargs: Any) -> None:
        """As NumPy's, in place."""
        _recorder.order("partition", self.view(np.ndarray), axis)
        self.view(np.ndarray).partition(kth, axis, *args, **kwargs)

    def nonzero(self) -> Any:
        """As NumPy's."""
        _recorder.compare("nonzero", self.view(np.ndarray), 0)
        return self.view(np.ndarray).nonzero()


class RecordedScalar(Recorded):
    """What NumPy gives as a scalar: an array of no axes here, but never changed in place."""

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(self.view(np.ndarray)[()])

    def __iadd__(self, other: Any) -> Any:
        return self + other

    def __isub__(self, other: Any) -> Any:
        return self - other

    def __imul__(self, other: Any) -> Any:
        return self * other

    def __itruediv__(self, other: Any) -> Any:
        return self / other

    def __ipow__(self, other: Any) -> Any:
        return self**other

    def __pow__(self, other: Any, modulus: None = None) -> Any:
        # NumPy's scalars and arrays take different roads to a power; the bits may differ.
        return wrap(self.view(np.ndarray)[()] ** _scalar(other))

    def __rpow__(self, other: Any, modulus: None = None) -> Any:
        return wrap(_scalar(other) ** self.view(np.ndarray)[()])


def wrap(result: Any) -> Any:
    """``result`` with every floating array in it recorded."""
    if isinstance(result, np.ndarray):
        if type(result) is Recorded and result.dtype is _FLOAT64:
            return result
        return _narrow(result).view(Recorded) if result.dtype.kind in "fc" else _whole(result)
    if isinstance(result, np.inexact):
        return _narrow(np.asarray(result)).view(RecordedScalar)
    if isinstance(result, (tuple, list)):
        items = [wrap(item) for item in result]
        if hasattr(result, "_fields"):
            return type(result)(*items)
        return type(result)(items)
    return result


def unwrap_all(args: Any) -> Any:
    """``args`` with every recorded array in it, or in a list or tuple of it, made plain."""
    if isinstance(args, (tuple, list)):
        return type(args)(unwrap_all(item) for item in args)
    return args.view(_ndarray) if isinstance(args, Recorded) else args


def unwrap(result: Any) -> NDArray[Any]:
    """``result`` as a plain array."""
    return np.asarray(result).view(np.ndarray)


def _narrow(result: NDArray[Any]) -> NDArray[Any]:
    if result.dtype is not _FLOAT64 and result.dtype.kind == "f":
        _recorder.narrow(result.dtype.itemsize)
    return result


def _whole(result: NDArray[Any]) -> NDArray[Any]:
    if result.dtype.kind == "O":
        _recorder.lose("an array of Python objects")
    return result.view(np.ndarray)


def _scalar(x: Any) -> Any:
    return x.view(np.ndarray)[()] if isinstance(x, Recorded) else x


def _with_outputs(result: Any, out: tuple[Any, ...]) -> Any:
    """The caller's own output arrays where it gave some."""
    if len(out) == 1:
        return wrap(result) if out[0] is None else out[0]
    pairs = zip(result, out, strict=True)
    return tuple(wrap(made) if given is None else given for made, given in pairs)
