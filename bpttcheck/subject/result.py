"""The triple that each method returns: its length, its order, its items."""

from __future__ import annotations

import itertools
from typing import Any

from bpttcheck.errors import ContractError
from bpttcheck.subject.items import Anything, Item, StateLike
from bpttcheck.subject.user_code import examining
from bpttcheck.subject.values import Place, describe, is_a, is_array

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
        ContractError: ``result`` is no tuple of three, its items stand in another order, or one of
            them has a wrong kind, structure, shape, dtype or value.
    """
    given = check_layouts(result, method, items)
    for item, value in zip(items, given, strict=True):
        with examining(method, item.name):
            item.content(value, Place(method, item.name))
    return given


def check_layouts(result: Any, method: str, items: Items) -> tuple[Any, Any, Any]:
    """The same, but for dtypes and values."""
    with examining(method):
        _check_tuple(result, method, items)
        given = tuple(result)
    for item, value in zip(items, given, strict=True):
        with examining(method, item.name):
            try:
                item.layout(value, Place(method, item.name))
            except ContractError as error:
                raise _in_other_order(given, method, items) or error from None
    return given[0], given[1], given[2]


def _check_tuple(result: Any, method: str, items: Items) -> None:
    names = _names(items)
    place = Place(method, "")
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
    if len(result) == 2 and isinstance(items[2], Anything):
        return f": the {items[2].name} is missing; return None for it if nothing is needed later"
    if len(result) == 2:
        fitting = [n for n in range(3) if _fits(result, items[:n] + items[n + 1 :])]
        return f": {items[fitting[0]].name} is missing" if len(fitting) == 1 else ""
    return ""


def _in_other_order(given: tuple[Any, ...], method: str, items: Items) -> ContractError | None:
    """The error that says in which order the items came, or None if no order fits."""
    for arranged in itertools.permutations(items):
        if _fits(given, arranged) and not _doubtful(given, arranged, items):
            return Place(method, "").error(
                f"returned its items in another order: looks like {_names(arranged)}: return "
                f"{_names(items)}"
            )
    return None


def _doubtful(given: tuple[Any, ...], arranged: tuple[Item, ...], items: Items) -> bool:
    """True if a lone array would have to be the cache: more likely it is a misshapen output."""
    return any(
        isinstance(item, Anything) and is_array(value) and item is not was
        for value, item, was in zip(given, arranged, items, strict=True)
    )


def _fits(given: tuple[Any, ...], items: tuple[Item, ...]) -> bool:
    try:
        for value, item in zip(given, items, strict=True):
            with examining(item.name):
                item.layout(value, Place("", item.name))
    except ContractError:
        return False
    return True


def _names(items: tuple[Item, ...]) -> str:
    return "(" + ", ".join(item.name for item in items) + ")"
