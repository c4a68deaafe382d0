"""The values that a method returns, and what is wrong with them."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.errors import ContractError

_DRIFTS: ContextVar[list[ContractError] | None] = ContextVar("_DRIFTS", default=None)

Shape = tuple[int, ...]
DType = np.dtype[Any]

FLOAT64_REMEDY = (
    "something in it is float64. NumPy promotes: `x32 * np.sqrt(2)` is float64 because np.sqrt(2) "
    "is a float64 scalar, and np.zeros(shape) is float64; write float(np.sqrt(2)), "
    "x.dtype.type(...) or dtype=x.dtype. Or it was kept from an earlier call"
)


@dataclass(frozen=True)
class Location:
    """Where a value stands: the method that returned it and the item's name."""

    method: str
    item: str

    def error(self, text: str) -> ContractError:
        """A :class:`ContractError` at this place; ``text`` follows the method's name."""
        return ContractError(f"{self.method}: {text}", method=self.method, item=self.item)

    def at(self, path: str) -> Location:
        """The place of an entry, such as ``"['W']"``, of this one."""
        return Location(self.method, self.item + path)


@dataclass(frozen=True)
class Expected:
    """What an array should be.

    Args:
        shape: its shape; None leaves it open.
        source: where the shape comes from, such as ``"params['W'].shape"``.
        batch: rows B, for hints; None if unknown.
        steps: time steps T, for hints; None if unknown.
        per_row: True if the batch is an axis of the shape, False if it was to be summed over.
        scalar: True if a NumPy scalar may stand for an array of shape ``()``.
    """

    shape: Shape | None
    source: str = ""
    batch: int | None = None
    steps: int | None = None
    per_row: bool = True
    scalar: bool = False


def is_a(value: object, kind: type | tuple[type, ...]) -> bool:
    """``isinstance`` that the object itself cannot influence."""
    return issubclass(type(value), kind)


def is_array(value: object) -> bool:
    """True for a plain array: a subclass may compute by rules of its own."""
    return type(value) is np.ndarray


def describe(value: Any) -> str:
    """A short description of ``value`` that does not call its own methods."""
    if value is None:
        return "None"
    if is_a(value, np.ndarray):
        kind = "an array" if is_array(value) else _article(type(value).__name__)
        return f"{kind} of shape {value.shape} and dtype {value.dtype}"
    if is_a(value, np.generic):
        return f"a NumPy scalar ({type(value).__name__})"
    if type(value) in (bool, int, float, complex):
        return _describe_number(value)
    if type(value) is str:
        return f"the string {value[:40]!r}"
    if is_a(value, (list, tuple, dict, set)):
        return f"{_article(type(value).__name__)} of {len(value)}"
    if is_a(value, type):
        return f"the class {value.__name__}"
    return f"{_article(type(value).__name__)} object"


def _describe_number(value: complex) -> str:
    if isinstance(value, int) and value.bit_length() > 100:
        return f"an int of {value.bit_length()} bits"
    return f"the {type(value).__name__} {value}"


def check_layout(value: Any, place: Location, expected: Expected) -> None:
    """Raise unless ``value`` is an array of numbers with the expected shape."""
    if expected.scalar and is_a(value, np.generic):
        value = np.asarray(value)
    if not is_array(value):
        raise place.error(_not_an_array(value, place, expected))
    if value.dtype.kind not in "biufc":
        raise place.error(
            f"{place.item}.dtype={value.dtype}, but should be floating: an array of numbers, all "
            "rows of one length"
        )
    if expected.shape is not None and value.shape != expected.shape:
        hint = shape_hint(value.shape, expected)
        raise place.error(
            f"{place.item}.shape={value.shape}, but should be {expected.shape} "
            f"[{expected.source}]" + (hint and f": {hint}")
        )


@contextmanager
def dtypes_noted(drifts: list[ContractError]) -> Generator[None]:
    """Collect a floating dtype other than the checked one in ``drifts`` instead of raising."""
    token = _DRIFTS.set(drifts)
    try:
        yield
    finally:
        _DRIFTS.reset(token)


def check_content(value: Any, place: Location, dtype: DType, *, infinite: bool = False) -> None:
    """Raise unless the array ``value`` has the dtype and is finite throughout.

    Args:
        value: the array.
        place: where it stands.
        dtype: the checked dtype.
        infinite: infinities are no violation, only NaN is.
    """
    if value.dtype != dtype:
        error = place.error(
            f"{place.item}.dtype={value.dtype}, but should be {dtype}: "
            + dtype_remedy(value.dtype, dtype)
        )
        drifts = _DRIFTS.get()
        if drifts is None or not value.dtype.kind == dtype.kind == "f":
            raise error
        drifts.append(error)
    check_finite(np.nan_to_num(value, nan=np.nan, posinf=0, neginf=0) if infinite else value, place)


def check_finite(value: Any, place: Location) -> None:
    """Raise if an entry is NaN or infinite, naming the first."""
    bad = ~np.isfinite(value)
    if not bad.any():
        return
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    count = f"{int(bad.sum())} of {bad.size} entries are not finite"
    raise place.error(
        f"{place.item} has a non-finite value where parameters and inputs are ordinary: first "
        f"non-finite value at index {index}: {np.asarray(value)[index]} ({count})"
    )


def dtype_remedy(given: DType, expected: DType) -> str:
    """What usually turns ``expected`` into ``given``, and what to write instead."""
    if given == np.float64 and expected == np.float32:
        return FLOAT64_REMEDY
    if given.kind == "f" and expected == np.float64:
        return f"something inside computes in {given}; write dtype=x.dtype where an array is made"
    if given.kind == "c":
        return "take the real part, or carry real and imaginary part as two floating arrays"
    if given.kind in "iub" and expected.kind == "f":
        return "make it floating: np.zeros(shape, dtype=x.dtype), array.astype(x.dtype)"
    return f"write array.astype({str(expected)!r})"


def shape_hint(given: Shape, expected: Expected) -> str:
    """The usual mistake that leads from the expected shape to ``given``, or ``""``."""
    shape, batch, steps = expected.shape or (), expected.batch, expected.steps
    if len(given) == len(shape) and len(shape) > 1:
        return _permuted(given, shape, expected)
    if given == (batch, *shape) and not expected.per_row:
        return "forgot to sum over the batch?"
    if given in {(steps, *shape), (steps, batch, *shape)}:
        return "all time steps? return one" if expected.per_row else "forgot to sum over time?"
    if _without_ones(given) == _without_ones(shape):
        if len(given) > len(shape):
            return "keepdims left on?"
        return "an axis of length 1 was squeezed or summed away?"
    if given == ():
        return "summed over every axis?"
    for axis in range(len(shape)):
        if given == shape[:axis] + shape[axis + 1 :]:
            return f"summed over axis {axis} too many?"
    return "reshape it?" if np.prod(given) == np.prod(shape) else ""


def _permuted(given: Shape, shape: Shape, expected: Expected) -> str:
    if given == shape[::-1] and len(shape) == 2:
        return "transposed?"
    if sorted(given) != sorted(shape):
        ones = [i for i, (g, e) in enumerate(zip(given, shape, strict=True)) if g == 1 != e]
        return f"summed over axis {ones[0]} with keepdims?" if ones else ""
    if expected.steps is not None and given[:2] == (shape[1], shape[0]):
        return "batch-major? arrays are time-major, (T, B, ...)"
    orders = itertools.permutations(range(len(shape)))
    order = next(o for o in orders if tuple(shape[i] for i in o) == given)
    return f"axes in the order {order}?"


def _without_ones(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _not_an_array(value: Any, place: Location, expected: Expected) -> str:
    said = f"{place.item} is {describe(value)}, but should be an array"
    if expected.shape is not None:
        said += f" of shape {expected.shape} [{expected.source}]"
    return f"{said}: {_remedy(value, place)}"


def _remedy(value: Any, place: Location) -> str:
    gradient = place.item.startswith("d_")
    if value is None and gradient:
        return "return zeros of that shape where there is no gradient"
    if value is None:
        return "forgot to set it?" if place.item.endswith("]") else "forgot to return it?"
    if is_a(value, (list, int, float, np.generic)):
        return "write np.array(...)"
    if is_a(value, tuple) and len(value) == 1:
        return "a trailing comma?"
    if hasattr(type(value), "__array__"):
        return "return np.asarray(...), a plain ndarray"
    return "return a NumPy array"


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


Bits = dict[str, Array]

_DEEPEST = 12
_MOST_OBJECTS = 200_000


def arrays(value: Any, name: str) -> Bits:
    """The arrays and numbers inside ``value`` by their paths, such as ``"cache['z']"``.

    Tuples, lists, dicts and the attributes of objects are searched; what cannot be inspected is
    skipped. The arrays are the originals, not copies.
    """
    found: Bits = {}
    seen: dict[int, Any] = {}  # keeps visited objects alive, so that no id is reused
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
    """Private copies."""
    return {item: np.array(array) for item, array in found.items()}


def same(a: Array, b: Array) -> bool:
    """True if two arrays are equal bit by bit, NaNs included."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def different(before: Bits, after: Bits) -> list[str]:
    """The items of ``before`` that are missing or not bitwise equal."""
    return [item for item in before if item not in after or not same(before[item], after[item])]


def difference(before: Array, after: Array) -> str:
    """A short description of how two arrays differ."""
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
    """The parts of a container or an object; none if it cannot be inspected."""
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
