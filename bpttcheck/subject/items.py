"""What the methods of a kind return: names, layouts and shapes."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Params, State, is_float
from bpttcheck.errors import ContractError
from bpttcheck.subject.user_code import guarded_inspection
from bpttcheck.subject.values import (
    DType,
    Expected,
    Location,
    check_content,
    check_layout,
    describe,
    is_a,
    is_array,
)


class Item(Protocol):
    """One of the three items that a method returns."""

    @property
    def name(self) -> str:
        """The item's name in messages."""
        ...

    def layout(self, value: Any, place: Location) -> None:
        """Raise unless ``value`` has the right kind, structure and shapes."""
        ...

    def content(self, value: Any, place: Location) -> None:
        """Raise unless ``value``, whose layout is right, has the right dtypes and is finite."""
        ...


@dataclass(frozen=True)
class Opaque:
    """The cache or the tape: whatever the backward method needs."""

    name: str

    def layout(self, value: Any, place: Location) -> None:
        """Accept."""

    def content(self, value: Any, place: Location) -> None:
        """Accept."""


@dataclass(frozen=True)
class InputGradient:
    """``d_x`` or ``d_xs``: an array of the input's shape."""

    name: str
    expected: Expected
    dtype: DType

    def layout(self, value: Any, place: Location) -> None:
        """Raise unless ``value`` is an array of the input's shape."""
        check_layout(value, place, self.expected)

    def content(self, value: Any, place: Location) -> None:
        """Raise unless the dtype is the input's and every entry finite."""
        check_content(value, place, self.dtype)


@dataclass(frozen=True)
class Output:
    """``y (B, n_out)`` or ``ys (T, B, n_out)``; the cell chooses ``n_out``."""

    name: str
    leading: tuple[int, ...]
    dtype: DType

    def layout(self, value: Any, place: Location) -> None:
        """Raise unless ``value`` is an array ``(*leading, n_out)``."""
        check_layout(value, place, Expected(None))
        if value.shape[:-1] == self.leading:
            return
        should = "(" + "".join(f"{size}, " for size in self.leading) + "n_out)"
        hint = self._hint(value.shape)
        raise place.error(
            f"{place.item}.shape={value.shape}, but should be {should}" + (hint and f": {hint}")
        )

    def content(self, value: Any, place: Location) -> None:
        """Raise unless the dtype is the checked one and every entry finite."""
        check_content(value, place, self.dtype)

    def _hint(self, given: tuple[int, ...]) -> str:
        leading = self.leading
        if given == leading:
            return f"one output? write {self.name}[..., None]"
        if len(given) > len(leading) + 1:
            return "flatten the axes after the batch"
        if len(leading) == 1:
            return "transposed?" if given[1:] == leading else ""
        if given[:2] == leading[::-1]:
            return "batch-major? arrays are time-major, (T, B, ...)"
        return "the last step alone? stack all steps" if given[:-1] == leading[1:] else ""


@dataclass(frozen=True)
class StateLike:
    """A state, or the cotangent of one: the structure and shapes of ``like``.

    Args:
        name: the item's name.
        like: the state whose structure it must have, already validated.
        source: the name of ``like`` in messages.
        cotangent: True for a gradient; then the leaves that are only carried must be zeros.
        steps: time steps T, for hints; None for one step.
    """

    name: str
    like: State
    source: str
    cotangent: bool = False
    steps: int | None = None

    def layout(self, value: Any, place: Location) -> None:
        """Raise unless ``value`` has the structure and the shapes of ``like``."""
        for at, source, leaf, like in pairs(value, self.like, place, self.source):
            check_layout(leaf, at, Expected(like.shape, f"{source}.shape", steps=self.steps))

    def content(self, value: Any, place: Location) -> None:
        """Raise unless the leaves have the dtypes of ``like`` and finite values."""
        for at, _, leaf, like in pairs(value, self.like, place, self.source):
            if not self.cotangent or is_float(like):
                # A leaf that starts at -inf, such as a running maximum, may stay there.
                infinite = not self.cotangent and bool(np.isinf(like).any())
                check_content(leaf, at, like.dtype, infinite=infinite)
            elif np.any(leaf):
                raise at.error(
                    f"{at.item} is not zero, but its state is {like.dtype}, which is carried and "
                    "not differentiated: return zeros of its shape"
                )


@dataclass(frozen=True)
class ParamsGradient:
    """``d_params``: a dict with the keys and shapes of ``params``.

    Args:
        name: the item's name.
        params: the parameters.
        batch: rows B, for hints.
        steps: time steps T, for hints; None for one step.
        partial: True if keys may be missing (their gradient is zero).
    """

    name: str
    params: Params
    batch: int
    steps: int | None = None
    partial: bool = False

    def layout(self, value: Any, place: Location) -> None:
        """Raise unless ``value`` has the keys and shapes of ``params``."""
        if not is_a(value, dict):
            raise place.error(
                f"{place.item} is {describe(value)}, but should be a dict with the keys of params: "
                f"{listed(self.params) or '(none)'}"
            )
        check_keys(value, self.params, place, "params", partial=self.partial)
        for key, gradient in value.items():
            expected = Expected(
                self.params[key].shape,
                f"params[{key!r}].shape",
                batch=self.batch,
                steps=self.steps,
                per_row=False,
                scalar=True,
            )
            check_layout(gradient, place.at(f"[{key!r}]"), expected)

    def content(self, value: Any, place: Location) -> None:
        """Raise unless every gradient has its parameter's dtype and is finite."""
        for key, gradient in value.items():
            at = place.at(f"[{key!r}]")
            check_content(gradient, at, self.params[key].dtype)


def pairs(
    value: Any, like: State, place: Location, source: str
) -> Iterator[tuple[Location, str, Any, Any]]:
    """Walk two trees at once: ``(place, source, leaf, like's leaf)``; raise where they differ."""
    if is_a(like, dict):
        if not is_a(value, dict):
            raise _other_structure(value, like, place, source)
        check_keys(value, like, place, source)
        for key, child in like.items():
            yield from pairs(value[key], child, place.at(f"[{key!r}]"), f"{source}[{key!r}]")
    elif is_a(like, tuple):
        if type(value) is not type(like) or len(value) != len(like):
            raise _other_structure(value, like, place, source)
        names = getattr(like, "_fields", None) or range(len(like))
        for name, item, child in zip(names, value, like, strict=True):
            path = f".{name}" if hasattr(like, "_fields") else f"[{name}]"
            yield from pairs(item, child, place.at(path), source + path)
    elif is_a(value, (tuple, dict, list)):
        raise _other_structure(value, like, place, source)
    else:
        yield place, source, value, like


def check_keys(
    given: dict[Any, Any], like: dict[Any, Any], place: Location, source: str, partial: bool = False
) -> None:
    """Raise if the keys of two dicts differ, suggesting corrections of misspelt ones."""
    missing = [key for key in like if key not in given]
    for key in given:
        if key in like:
            continue
        shown = repr(key) if type(key) in (str, int) else describe(key)
        guess = closest(key, missing)
        raise place.at(f"[{shown}]").error(
            f"{place.item} has the key {shown}, which {source} does not have: "
            + (f"did you mean {guess!r}?" if guess else f"its keys are {listed(like) or '(none)'}")
        )
    if missing and not partial:
        zeros = ": add its gradient, zeros if there is none" if place.item.startswith("d_") else ""
        raise place.at(f"[{missing[0]!r}]").error(
            f"{place.item} lacks {listed(missing)} of {source}{zeros}"
        )


def closest(key: Any, candidates: Iterable[Any]) -> str | None:
    """The candidate closest to ``key``; None if none is close."""
    if not is_a(key, str):
        return None
    names = [name for name in candidates if is_a(name, str)]
    bare = key
    for prefix in ("d_", "grad_", "d"):
        bare = bare.removeprefix(prefix)
    for attempt in (bare, key, key.lower(), key.upper()):
        if attempt in names:
            return attempt
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return near[0] if near else None


def listed(names: Iterable[Any]) -> str:
    """``'W', 'b'``."""
    return ", ".join(repr(name) for name in names)


def _other_structure(value: Any, like: State, place: Location, source: str) -> ContractError:
    return place.error(
        f"{place.item} is {describe(value)}, but should be {trees.structure(like).describe()} like "
        f"{source}{_structure_hint(value, like, place)}"
    )


def _structure_hint(value: Any, like: State, place: Location) -> str:
    if value is None:
        zeros = place.item.startswith("d_")
        return ": return zeros where there is no gradient" if zeros else ": forgot to return it?"
    if is_a(value, list):
        meant = "an array" if is_array(like) else "a dict" if is_a(like, dict) else "a tuple"
        return f": return {meant}, not a list"
    if is_a(value, tuple) and len(value) == 1 and is_array(like):
        return ": a trailing comma?"
    if hasattr(type(like), "_fields") and type(value) is tuple:
        return f": write {type(like).__name__}(...)"
    return ""


Items = tuple[Item, Item, Item]


def check_result(result: Any, method: str, items: Items) -> tuple[Any, Any, Any]:
    """Return the three items of ``result``, or raise the first violation.

    Args:
        result: what the method returned.
        method: the method's name.
        items: what each item must be, in order.

    Returns:
        The items.

    Raises:
        ContractError: ``result`` is not a tuple of three, its items are in another order, or one of
            them has a wrong kind, structure, shape, dtype or value.
    """
    given = check_layouts(result, method, items)
    for item, value in zip(items, given, strict=True):
        with guarded_inspection(method, item.name):
            item.content(value, Location(method, item.name))
    return given


def check_layouts(result: Any, method: str, items: Items) -> tuple[Any, Any, Any]:
    """The same, without checking dtypes and values."""
    with guarded_inspection(method):
        _check_tuple(result, method, items)
        given = tuple(result)
    for item, value in zip(items, given, strict=True):
        with guarded_inspection(method, item.name):
            try:
                item.layout(value, Location(method, item.name))
            except ContractError as error:
                raise _in_other_order(given, method, items) or error from None
    return given[0], given[1], given[2]


def _check_tuple(result: Any, method: str, items: Items) -> None:
    names = _names(items)
    place = Location(method, "")
    if not is_a(result, tuple):
        remedy = "forgot to return?" if result is None else f"write `return {names[1:-1]}`"
        raise place.error(f"returned {describe(result)}, but should return {names}: {remedy}")
    if len(result) == 3:
        return
    said = f"returned {len(result)} items, but should return 3, {names}"
    raise place.error(said + _length_hint(result, items))


def _length_hint(result: tuple[Any, ...], items: Items) -> str:
    for item in items:
        if isinstance(item, StateLike) and is_a(item.like, tuple):
            parts = len(item.like)
            if parts > 1 and len(result) == 2 + parts:
                return f": put the {parts} parts of {item.name} into one tuple"
    if len(result) == 2 and isinstance(items[2], Opaque):
        return f": the {items[2].name} is missing; return None for it if nothing is needed later"
    if len(result) == 2:
        fitting = [n for n in range(3) if _fits(result, items[:n] + items[n + 1 :])]
        return f": {items[fitting[0]].name} is missing" if len(fitting) == 1 else ""
    return ""


def _in_other_order(given: tuple[Any, ...], method: str, items: Items) -> ContractError | None:
    """The error that names the order of the items, or None if no order fits."""
    for arranged in itertools.permutations(items):
        if _fits(given, arranged) and not _doubtful(given, arranged, items):
            return Location(method, "").error(
                f"returned its items in another order: looks like {_names(arranged)}: return "
                f"{_names(items)}"
            )
    return None


def _doubtful(given: tuple[Any, ...], arranged: tuple[Item, ...], items: Items) -> bool:
    """True if a single array would have to be the cache: more likely it is a misshapen output."""
    return any(
        isinstance(item, Opaque) and is_array(value) and item is not was
        for value, item, was in zip(given, arranged, items, strict=True)
    )


def _fits(given: tuple[Any, ...], items: tuple[Item, ...]) -> bool:
    try:
        for value, item in zip(given, items, strict=True):
            with guarded_inspection(item.name):
                item.layout(value, Location("", item.name))
    except ContractError:
        return False
    return True


def _names(items: tuple[Item, ...]) -> str:
    return "(" + ", ".join(item.name for item in items) + ")"
