"""The record of a run, and the NumPy functions that are branches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
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
