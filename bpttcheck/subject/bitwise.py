"""The arrays inside anything, and whether two sets of them are equal bit by bit."""

from __future__ import annotations

from collections import deque
from types import ModuleType
from typing import Any

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.subject.values import is_a

Bits = dict[str, Array]

_DEEPEST = 12
_MOST_OBJECTS = 200_000


def arrays(value: Any, name: str) -> Bits:
    """The arrays and numbers inside ``value`` by their paths, such as ``"cache['z']"``.

    Tuples, lists, dicts and the attributes of objects are searched; what cannot be looked into is
    left out. The arrays are the living ones, not copies.
    """
    found: Bits = {}
    seen: dict[int, Any] = {}  # holds what it has seen, so that no id is given to another object
    pending = deque([(name, value, 0)])
    for _ in range(_MOST_OBJECTS):
        if not pending:
            break
        path, one, depth = pending.popleft()
        if is_a(one, (np.ndarray, np.generic)):
            found[path] = np.asarray(one)
        elif type(one) in (bool, int, float, complex):
            found[path] = _number(one)
        elif depth < _DEEPEST and (is_a(one, (dict, tuple, list)) or id(one) not in seen):
            pending.extend((path + tail, child, depth + 1) for tail, child in _children(one))
        seen[id(one)] = one
    return found


def bits(found: Bits) -> Bits:
    """Copies that nobody else holds."""
    return {item: np.array(array) for item, array in found.items()}


def same(a: Array, b: Array) -> bool:
    """True if two arrays are equal bit by bit, NaNs included."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def different(before: Bits, after: Bits) -> list[str]:
    """The items of ``before`` that are gone or not the same bit by bit."""
    return [item for item in before if item not in after or not same(before[item], after[item])]


def difference(before: Array, after: Array) -> str:
    """How two arrays differ, in a few words."""
    if before.shape != after.shape or before.dtype != after.dtype:
        return f"{before.dtype} {before.shape} against {after.dtype} {after.shape}"
    if before.dtype.kind not in "fiub":
        return "other contents"
    with np.errstate(all="ignore"):
        gap = np.abs(after.astype(float) - before.astype(float))
        largest, scale = np.max(gap), np.max(np.abs(before.astype(float)))
    if before.dtype.kind == "f" and largest <= 1e3 * np.finfo(before.dtype).eps * scale:
        return (
            f"by {largest:.2g} at most, the last digits only: does a sum change its order? bitwise "
            "equality is expected"
        )
    return f"by {largest:.2g} at most"


def _number(value: Any) -> Array:
    return np.asarray(str(value) if type(value) is int and value.bit_length() > 62 else value)


def _children(value: Any) -> list[tuple[str, Any]]:
    """The parts of a container or an object; none if it does not let itself be looked into."""
    try:
        if is_a(value, dict):
            return [(_subscript(key, i), item) for i, (key, item) in enumerate(value.items())]
        if is_a(value, tuple) and hasattr(type(value), "_fields"):
            return [(f".{name}", getattr(value, name)) for name in type(value)._fields]
        if is_a(value, (tuple, list)):
            return [(f"[{i}]", item) for i, item in enumerate(value)]
        if is_a(value, (type, ModuleType)):
            return []
        slots = [n for base in type(value).__mro__ for n in getattr(base, "__slots__", ())]
        attributes = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        attributes.update(getattr(value, "__dict__", {}))
        return [(f".{name}", item) for name, item in attributes.items()]
    except Exception:  # an object of the user's own may refuse
        return []


def _subscript(key: Any, position: int) -> str:
    return f"[{key!r}]" if type(key) in (str, int) else f"[key {position}]"
