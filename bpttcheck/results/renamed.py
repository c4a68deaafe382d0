"""A report in the names of the author's own code."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from bpttcheck.blocks import Block
from bpttcheck.results.report import Report


def renamed(report: Report, names: Mapping[str, str]) -> Report:
    """The report with every block called as its author calls it.

    Args:
        report: the report.
        names: block -> name, such as ``{"d_params['W']": "dW"}``.
    """
    if not names:
        return report
    inputs = {block.removeprefix("d_"): _key(block) for block in names}
    known = {**inputs, **names}
    longest = sorted(known, key=len, reverse=True)
    pattern = re.compile("|".join(rf"\b{re.escape(block)}" for block in longest))
    return _each_text(report, lambda text: pattern.sub(lambda found: known[found[0]], text))


def _key(block: str) -> str:
    """The input that ``d_params['W']`` is the gradient of: ``W``."""
    return Block(block).path.strip("[]").strip("'\"")


def _each_text(thing: Any, change: Callable[[str], str]) -> Any:
    if isinstance(thing, str):
        return change(thing)
    if isinstance(thing, Mapping):
        return {change(key) if isinstance(key, str) else key: _each_text(value, change)
                for key, value in thing.items()}  # fmt: skip
    if isinstance(thing, tuple):
        return tuple(_each_text(one, change) for one in thing)
    if is_dataclass(thing) and not isinstance(thing, type):
        changed = {
            one.name: _each_text(getattr(thing, one.name), change)
            for one in fields(thing)
            if one.init and one.name not in ("problem", "case")
        }
        return replace(thing, **changed)
    return thing
