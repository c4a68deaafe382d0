"""Runs a program's native NumPy code unmodified and records every branch it takes.

A difference quotient is an estimate of a derivative only if the program took the same branches at
every point that it uses. The branches are the arguments of comparisons, ``maximum``, ``clip``,
``abs``, ``sign``, sorting, rounding and similar; ``where`` and ``if`` branch on comparisons.

They are recorded by an array that behaves as NumPy's own. Each operation runs on plain arrays, so
its result has the same bits as in a plain run; only floating results are wrapped again. Integers
and booleans stay plain: the event that made them is already recorded, and nothing that they decide
changes before that event does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.branches import recorder as _recorder
from bpttcheck.oracles.branches.events import Event
from bpttcheck.oracles.branches.recorder import BranchRecorder

Array = NDArray[Any]
Function = Callable[[list[Array]], list[Array]]


@dataclass(frozen=True)
class Difference:
    """The first branch that two runs took differently.

    Args:
        event: the branch, ``"maximum at cell.py:12: z = np.maximum(z, 0)"``.
        from_tie: true if the first run lay exactly on the threshold there.
    """

    event: str
    from_tie: bool


@dataclass(frozen=True, eq=False)
class Pattern:
    """Every branch of one run; equal to another if and only if all branches are the same.

    A tie (exactly at a threshold) is a branch of its own, so the pattern at a kink differs from
    that of every neighbour in a direction that leaves the kink.

    Args:
        events: the branches in order.
        unseen: where values left NumPy (``float(z)``): branches on them are not in the pattern.
        narrowest: the item size in bytes of the narrowest floating result seen (4: float32).
    """

    events: tuple[Event, ...]
    unseen: tuple[str, ...] = ()
    narrowest: int = 8

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        return tuple((event.name, event.key) for event in self.events)

    def __eq__(self, other: object) -> bool:
        """True if every branch is the same."""
        return isinstance(other, Pattern) and self._key == other._key

    def __hash__(self) -> int:
        """Of the branches."""
        return hash(self._key)

    def difference(self, other: Pattern) -> Difference | None:
        """The first branch at which ``other`` departs from this run, or ``None``."""
        for mine, its, key, its_key in zip(self.events, other.events, self._key, other._key):  # noqa: B905 - see below
            if key != its_key:
                alike = mine.name == its.name and mine.codes.shape == its.codes.shape
                tied = alike and bool(np.any(mine.ties[mine.codes != its.codes]))
                return Difference(str(mine), tied)
        # Equal so far: one run took more branches, which only unrecorded values can cause.
        if len(self.events) == len(other.events):
            return None
        longer = max(self.events, other.events, key=len)
        return Difference(str(longer[min(len(self.events), len(other.events))]), from_tie=False)


def record(function: Function, point: Sequence[Array]) -> tuple[list[Array], Pattern | None]:
    """Run ``function`` at ``point`` and record the branches that it took.

    The outputs have the same bits as those of a plain run.

    Args:
        function: takes a list of arrays, returns a list of arrays; plain NumPy inside.
        point: the arrays to run it on; never written to.

    Returns:
        The outputs as plain arrays, and the pattern; ``None`` for a pattern if the code runs on
        plain arrays only (a compiled extension that refuses a subclass).
    """
    recorder = BranchRecorder()
    try:
        with recorder, np.errstate(all="ignore"):
            outputs = function([np.array(leaf).view(Recorded) for leaf in point])
            outputs = [unwrap(output) for output in outputs]
    except Exception:
        # The subclass may be the cause: a plain run raises only genuine errors.
        return plain(function, point), None
    events = tuple(kind(*fields) for kind, fields in recorder.events)
    return outputs, Pattern(events, tuple(recorder.unseen), recorder.narrowest)


def plain(function: Function, point: Sequence[Array]) -> list[Array]:
    """Run ``function`` on copies of ``point`` without recording."""
    with np.errstate(all="ignore"):
        return [np.asarray(output) for output in function([np.array(leaf) for leaf in point])]


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
        """As NumPy's; the value is no longer recorded."""
        _recorder.lose(".item()")
        return self.view(np.ndarray).item(*args)

    def tolist(self) -> Any:
        """As NumPy's; the values are no longer recorded."""
        _recorder.lose(".tolist()")
        return self.view(np.ndarray).tolist()

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        """As NumPy's; a conversion to integers or booleans is a branch."""
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
        # NumPy computes powers of scalars and of arrays differently; the bits may differ.
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
