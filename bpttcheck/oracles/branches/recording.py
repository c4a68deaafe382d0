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

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.branches.events import (
    ComparisonEvent,
    Event,
    OrderEvent,
    RoundingEvent,
    SelectionEvent,
)
from bpttcheck.oracles.branches.user_line import SourceLine, user_place

_running = threading.local()

# The kind of an event and its fields; the event object is made on demand.
Deferred = tuple[type[Event], tuple[Any, ...]]


@dataclass
class BranchRecorder:
    """The events of one run, in order.

    Args:
        events: the branches taken.
        unseen: where values left NumPy (``float(z)``), so that branches on them stay unseen.
        narrowest: the item size in bytes of the narrowest floating result.
    """

    events: list[Deferred] = field(default_factory=list[Deferred])
    unseen: list[str] = field(default_factory=list[str])
    narrowest: int = 8
    _outer: BranchRecorder | None = None

    def __enter__(self) -> BranchRecorder:
        """Become the recorder of this thread."""
        self._outer = current()
        _running.recorder = self
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous recorder."""
        _running.recorder = self._outer


def current() -> BranchRecorder | None:
    """The active recorder of this thread."""
    return getattr(_running, "recorder", None)


def add(kind: type[Event], name: str, *fields: Any) -> None:
    """Note a branch."""
    recorder = current()
    if recorder is not None:
        recorder.events.append((kind, (name, *user_place(), *fields)))


def lose(what: str) -> None:
    """Note that values left NumPy by ``what``."""
    recorder = current()
    if recorder is not None:
        recorder.unseen.append(f"{what} at {SourceLine(*user_place())}")


def narrow(itemsize: int) -> None:
    """Note a floating result of ``itemsize`` bytes."""
    recorder = current()
    if recorder is not None:
        recorder.narrowest = min(recorder.narrowest, itemsize)


def compare(name: str, a: Any, b: Any) -> None:
    """Note a decision on ``a`` against ``b``, real numbers both."""
    if _is_real(a) and _is_real(b):
        add(ComparisonEvent, name, _kept(a), _kept(b))


def order(name: str, a: Any, axis: Any = -1) -> None:
    """Note that the order of ``a`` along ``axis`` decides (``None``: of all its entries)."""
    rows = _plain(a).ravel() if axis is None else np.moveaxis(_plain(a), axis, -1)
    add(OrderEvent, name, rows.copy())


def rounding(name: str, a: Any) -> None:
    """Note that the integers around ``a`` decide."""
    add(RoundingEvent, name, np.array(_plain(a), np.float64))


def selection(name: str, a: Any, axis: Any, *, largest: bool) -> None:
    """Note that the extreme entries of ``a`` along ``axis`` decide."""
    add(SelectionEvent, name, _plain(a).copy(), axis, largest)


def note_ufunc(name: str, method: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Note the branches of one call of a ufunc on plain ``args``, before it runs."""
    if method == "__call__":
        UFUNCS[name](name, args)
    elif method == "reduce" and name in _LARGEST:
        selection(name, args[0], kwargs.get("axis", 0), largest=_LARGEST[name])
    elif method == "accumulate" and name in _LARGEST:
        _accumulated(name, args[0], kwargs.get("axis", 0))
    elif method == "reduce":
        compare(name, args[0], 0)
    else:
        lose(f"{name}.{method}")


def note_function(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Note the branches inside NumPy functions that work on plain arrays."""
    note = _FUNCTIONS.get(func)
    if note is not None:
        note(*args, **kwargs)


def _plain(a: Any) -> NDArray[Any]:
    return np.asarray(a)


def _is_real(a: Any) -> bool:
    return a.dtype.kind in "fiub" if isinstance(a, np.ndarray) else isinstance(a, _REAL)


def _kept(a: Any) -> Any:
    # A copy: the program may go on to overwrite its array in place.
    return a.view(np.ndarray).copy() if isinstance(a, np.ndarray) else a


_REAL = (int, float, np.bool_, np.integer, np.floating)


def _pair(name: str, args: list[Any]) -> None:
    compare(name, args[0], args[1])


def _zero(name: str, args: list[Any]) -> None:
    for a in args:
        compare(name, a, 0)


def _accumulated(name: str, a: Any, axis: int) -> None:
    """Each entry against the extreme of those before it."""
    rows = np.moveaxis(a, axis, 0)
    pick = np.maximum if _LARGEST[name] else np.minimum
    compare(name, rows[1:], pick.accumulate(rows)[:-1])


def _quotient(name: str, args: list[Any]) -> None:
    rounding(name, np.divide(args[0], args[1]))


def _clip(name: str, args: list[Any]) -> None:
    compare(name, args[0], args[1])
    compare(name, args[0], args[2])


_LARGEST = {"maximum": True, "fmax": True, "minimum": False, "fmin": False}

UFUNCS: dict[str, Callable[[str, list[Any]], None]] = {
    **dict.fromkeys(("greater", "greater_equal", "less", "less_equal"), _pair),
    **dict.fromkeys(("equal", "not_equal", *_LARGEST), _pair),
    **dict.fromkeys(("absolute", "fabs", "sign", "signbit", "heaviside", "copysign"), _zero),
    **dict.fromkeys(("logical_not", "logical_and", "logical_or", "logical_xor"), _zero),
    # Roots of a square: sqrt(z * z) is |z|.
    **dict.fromkeys(("sqrt", "cbrt"), _zero),
    **dict.fromkeys(("floor_divide", "remainder", "divmod", "fmod"), _quotient),
    **dict.fromkeys(("floor", "ceil", "trunc", "modf"), lambda n, args: rounding(n, args[0])),
    # `rint` changes half way between integers.
    "rint": lambda name, args: rounding(name, np.subtract(args[0], 0.5)),
    "hypot": lambda name, args: compare(name, np.abs(args[0]) + np.abs(args[1]), 0),
    "clip": _clip,
}


def _where(condition: Any, *_: Any) -> None:
    if _plain(condition).dtype.kind == "f":
        compare("where", condition, 0)


def _interp(x: Any, xp: Any, fp: Any, *_: Any, **__: Any) -> None:
    nodes = _plain(xp)
    compare("interp", _plain(x)[..., None], nodes)


def _searchsorted(a: Any, v: Any, *_: Any, **__: Any) -> None:
    compare("searchsorted", _plain(v)[..., None], _plain(a))


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> None:
    plain = np.abs(_plain(x))
    is_vector = isinstance(axis, int) or (axis is None and plain.ndim == 1)
    if ord is None or ord == "fro" or (is_vector and ord == 2):
        compare("norm", np.sum(plain, axis=axis), 0)
    elif is_vector and ord == 1:
        compare("norm", plain, 0)
    elif is_vector and ord in (np.inf, -np.inf):
        order("norm", plain, axis)
    else:
        lose(f"norm(ord={ord!r})")


_FUNCTIONS: dict[Any, Callable[..., None]] = {
    np.where: _where,
    np.interp: _interp,
    np.searchsorted: _searchsorted,
    np.digitize: lambda x, bins, *_, **__: _searchsorted(bins, x),
    np.linalg.norm: _norm,
}


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
_BRANCHES = UFUNCS
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
            note_ufunc(ufunc.__name__, method, plain, kwargs)
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
        note_function(func, args, kwargs)
        # Python-level functions of NumPy call ufuncs, which come back to `__array_ufunc__`.
        return wrap(super().__array_function__(func, types, args, kwargs))

    def __getitem__(self, key: Any) -> Any:
        item = super().__getitem__(key)
        return item if type(item) is Recorded else wrap(item)

    def __bool__(self) -> bool:
        compare("bool", self.view(np.ndarray), 0)
        return bool(self.view(np.ndarray))

    def __float__(self) -> float:
        lose("float()")
        return float(self.view(np.ndarray))

    def __int__(self) -> int:
        lose("int()")
        return int(self.view(np.ndarray))

    def item(self, *args: Any) -> Any:
        """As NumPy's; the value is no longer recorded."""
        lose(".item()")
        return self.view(np.ndarray).item(*args)

    def tolist(self) -> Any:
        """As NumPy's; the values are no longer recorded."""
        lose(".tolist()")
        return self.view(np.ndarray).tolist()

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        """As NumPy's; a conversion to integers or booleans is a branch."""
        plain = self.view(np.ndarray)
        kind = np.dtype(dtype).kind
        if kind in "iu":
            rounding("astype", plain)
        elif kind == "b":
            compare("astype", plain, 0)
        return wrap(plain.astype(dtype, *args, **kwargs))

    def dot(self, b: Any, out: Any = None) -> Any:
        """As NumPy's."""
        return np.dot(self, b, out)

    def argmax(self, axis: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As NumPy's."""
        selection("argmax", self.view(np.ndarray), axis, largest=True)
        return self.view(np.ndarray).argmax(axis, *args, **kwargs)

    def argmin(self, axis: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As NumPy's."""
        selection("argmin", self.view(np.ndarray), axis, largest=False)
        return self.view(np.ndarray).argmin(axis, *args, **kwargs)

    def argsort(self, axis: Any = -1, *args: Any, **kwargs: Any) -> Any:
        """As NumPy's."""
        order("argsort", self.view(np.ndarray), axis)
        return self.view(np.ndarray).argsort(axis, *args, **kwargs)

    def argpartition(self, kth: Any, axis: Any = -1, *args: Any, **kwargs: Any) -> Any:
        """As NumPy's."""
        order("argpartition", self.view(np.ndarray), axis)
        return self.view(np.ndarray).argpartition(kth, axis, *args, **kwargs)

    def sort(self, axis: Any = -1, *args: Any, **kwargs: Any) -> None:
        """As NumPy's, in place."""
        order("sort", self.view(np.ndarray), axis)
        self.view(np.ndarray).sort(axis, *args, **kwargs)

    def partition(self, kth: Any, axis: Any = -1, *args: Any, **kwargs: Any) -> None:
        """As NumPy's, in place."""
        order("partition", self.view(np.ndarray), axis)
        self.view(np.ndarray).partition(kth, axis, *args, **kwargs)

    def nonzero(self) -> Any:
        """As NumPy's."""
        compare("nonzero", self.view(np.ndarray), 0)
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
        narrow(result.dtype.itemsize)
    return result


def _whole(result: NDArray[Any]) -> NDArray[Any]:
    if result.dtype.kind == "O":
        lose("an array of Python objects")
    return result.view(np.ndarray)


def _scalar(x: Any) -> Any:
    return x.view(np.ndarray)[()] if isinstance(x, Recorded) else x


def _with_outputs(result: Any, out: tuple[Any, ...]) -> Any:
    """The caller's own output arrays where it gave some."""
    if len(out) == 1:
        return wrap(result) if out[0] is None else out[0]
    pairs = zip(result, out, strict=True)
    return tuple(wrap(made) if given is None else given for made, given in pairs)
