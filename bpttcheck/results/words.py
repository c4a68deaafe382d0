"""Numbers, plurals and lines as text: few digits, or enough to tell two values apart."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from decimal import Decimal

WIDTH = 100


def aligned(values: Sequence[tuple[float | None, float | None]]) -> list[str]:
    """Numbers with one exponent and enough digits to tell the first from the others.

    Args:
        values: pairs of a value and its error bar; None for a value that is missing.

    Returns:
        One text for each pair; their decimal points stand under each other.
    """
    known = [v for v, _ in values if v is not None and math.isfinite(v)]
    top = max(map(abs, known), default=0.0)
    exponent = math.floor(math.log10(top)) if top else 0
    gaps = [abs(v - known[0]) for v in known[1:]]
    bars = [e for _, e in values if e is not None]
    for_gap = max((2 + exponent - _magnitude(gap) for gap in gaps), default=4)
    for_bar = max((1 + exponent - _magnitude(bar) for bar in bars), default=4)
    digits = min(17, max(4, for_gap, min(for_bar, 10)))  # a float64 has no 18th digit
    scale = 0 if -4 < exponent < 7 else exponent
    decimals = max(0, digits - 1 - (exponent - scale))
    texts = [_number(v, scale, decimals) for v, _ in values]
    width = max(len(text.partition(".")[0]) for text in texts)
    return [" " * (width - len(text.partition(".")[0])) + text for text in texts]


def _magnitude(value: float) -> int:
    """The exponent of ``value``; where it has none, a large number, so that it needs no digits."""
    return math.floor(math.log10(value)) if 0 < value < math.inf else 400


def _number(value: float | None, scale: int, decimals: int) -> str:
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"  # an exact zero is printed differently from a rounded one
    text = f"{Decimal(value).scaleb(-scale):.{decimals}f}"
    if not text.strip("-0."):
        return short(value, 3)  # too small beside the others to show any digit
    return text + (f"e{scale:+03d}" if scale else "")


def short(value: float, digits: int = 2) -> str:
    """A few digits: ``1.8``, ``3e-14``, ``8e-6``."""
    text = f"{value:.{digits}g}"
    mantissa, mark, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if mark else text


def plural(number: int, noun: str) -> str:
    """``"1 case"``, ``"1,000 cases"``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def last_lines(text: str, limit: int) -> list[str]:
    """The last lines that are not blank."""
    return [line.rstrip() for line in text.splitlines() if line.strip()][-limit:]


def cut(line: str, width: int) -> str:
    """The line, its end replaced by an ellipsis where it is wider than ``width``."""
    return line if len(line) <= width else line[: width - 3] + "..."


def wrapped(text: str, start: str, width: int, hang: str | None = None) -> list[str]:
    """Lines of at most ``width`` columns: ``start``, then ``hang`` or ``start`` before each."""
    later = start if hang is None else hang
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=start,
        subsequent_indent=later,
        break_on_hyphens=False,  # an option of a command line stays in one piece
    )
    return lines or [start.rstrip()]


def joined(facts: Sequence[str], start: str, width: int) -> list[str]:
    """Facts side by side, two spaces apart; a fact is broken only if it is wider than a line."""
    hang = " " * len(start)
    lines = [start + facts[0]]
    for fact in facts[1:]:
        if len(lines[-1]) + 2 + len(fact) <= width:
            lines[-1] += "  " + fact
        else:
            lines.append(hang + fact)
    return [part for line in lines for part in _fit(line, width, hang)]


def _fit(line: str, width: int, hang: str) -> list[str]:
    if len(line) <= width:
        return [line]
    text = line.lstrip()
    return wrapped(text, line[: len(line) - len(text)], width, hang=hang)
