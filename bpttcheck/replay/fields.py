"""Single values of a stored record: each has one form, and anything else is refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bpttcheck.results.records import Measured

_LONGEST_TEXT = 20_000
_MOST_DIMENSIONS = 32


def keys(record: Any, expected: tuple[str, ...]) -> None:
    """Refuse what is no object with exactly these keys."""
    if not isinstance(record, dict):
        raise ValueError(f"{type(record).__name__} where an object was expected")
    missing = [key for key in expected if key not in record]
    unknown = [key for key in record if key not in expected]
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"has the unknown key {unknown[0]!r:.40}"
        raise ValueError(f"it {what}")


def text(record: Mapping[str, Any], key: str) -> str:
    """A text as it was stored, with nothing in it that commands a terminal."""
    value = record[key]
    if type(value) is not str or value != clean(value):
        raise ValueError(f"{key} is no plain text")
    return value


def clean(text: str) -> str:
    """Text that cannot command a terminal: what is not printable is written out."""
    plain = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    return plain if len(plain) <= _LONGEST_TEXT else plain[: _LONGEST_TEXT - 4] + " ..."


def natural(record: Mapping[str, Any], key: str) -> int:
    """A natural number."""
    value = record[key]
    if type(value) is not int or value < 0:
        raise ValueError(f"{key}={value!r:.40}, expected a natural number")
    return value


def naturals(key: str, values: Any) -> tuple[int, ...]:
    """A short list of natural numbers."""
    if not isinstance(values, list) or len(values) > _MOST_DIMENSIONS:
        raise ValueError(f"{key} is no short list of natural numbers")
    return tuple(natural({key: value}, key) for value in values)


def number_to_json(value: float | None) -> float | str | None:
    """A number as JSON takes it: NaN and infinities as text."""
    if value is None or math.isfinite(value):
        return None if value is None else float(value)
    return str(float(value))  # JSON has no word for these


def number(key: str, value: Any) -> float | None:
    """A number, or None."""
    if type(value) is str and value in ("nan", "inf", "-inf"):
        return float(value)
    if value is not None and type(value) is not float:
        raise ValueError(f"{key}={value!r:.40}, expected a number")
    return value


def measured(key: str, value: Any) -> Measured | None:
    """A value with its error, or None."""
    if value is None:
        return None
    numbers = [number(key, v) for v in value] if isinstance(value, list) else []
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        raise ValueError(f"{key} is no value with its error")
    return Measured(numbers[0], numbers[1])


def one_of(key: str, value: Any, allowed: tuple[str, ...]) -> str:
    """One of the texts that are allowed."""
    if type(value) is not str or value not in allowed:
        raise ValueError(f"{key}={value!r:.40}, expected one of {', '.join(allowed)}")
    return value
