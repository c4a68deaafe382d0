"""Compares two benchmarks by their ratios, because absolute times depend on the machine."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bpttcheck.bench.report.records import HAND, Benchmark, Interval, Size
from bpttcheck.errors import ContractError

_GATE = re.compile(r"ratio > (?P<factor>\d+(?:\.\d+)?)x")
_Key = tuple[str, str, Size, str]


@dataclass(frozen=True)
class Change:
    """One hand-written form at one point, before and now.

    Args:
        target: the subject.
        form: the form.
        size: the size.
        dtype: the dtype.
        old: the ratio before.
        new: the ratio now.
    """

    target: str
    form: str
    size: Size
    dtype: str
    old: Interval
    new: Interval

    def __str__(self) -> str:
        """Which point this is."""
        return f"{self.target} {self.form} {self.size} {self.dtype}"

    @property
    def verdict(self) -> str:
        """``slower`` or ``faster`` where the two intervals are disjoint, else ``""``."""
        if self.new.low > self.old.high:
            return "slower"
        return "faster" if self.new.high < self.old.low else ""

    def beyond(self, factor: float) -> bool:
        """True if all of the new interval lies above ``factor`` times the old ratio."""
        return self.new.low > factor * self.old.value


@dataclass(frozen=True)
class Comparison:
    """All hand-written forms that both benchmarks have.

    Args:
        changes: the points of both.
        missing: what only one of the two has, by name.
    """

    changes: list[Change]
    missing: list[str]

    def failures(self, factor: float) -> list[Change]:
        """The points that are slower than the gate allows."""
        return [change for change in self.changes if change.beyond(factor)]


def compare(old: Benchmark, new: Benchmark) -> Comparison:
    """Pair the ratios of two benchmarks.

    Raises:
        ContractError: they have no point in common.
    """
    before, now = _ratios(old), _ratios(new)
    changes = [Change(*key, before[key], now[key]) for key in now if key in before]
    missing = [f"only before: {_name(key)}" for key in before if key not in now]
    missing += [f"only now: {_name(key)}" for key in now if key not in before]
    if not changes:
        raise ContractError(
            "the two benchmarks have no ratio in common: there is nothing to compare"
        )
    return Comparison(changes, missing)


def parse_gate(text: str) -> float:
    """The factor in ``ratio > 1.1x``.

    Raises:
        ContractError: it is anything else, or a factor below one.
    """
    match = _GATE.fullmatch(text.strip())
    if match is None or float(match["factor"]) < 1:
        raise ContractError(
            f"--fail-if {text!r}, expected 'ratio > FACTORx' with a factor of at least 1, such as"
            " 'ratio > 1.1x'",
            item="fail_if",
        )
    return float(match["factor"])


def _ratios(benchmark: Benchmark) -> dict[_Key, Interval]:
    return {
        (subject.target, timing.form, point.size, point.dtype): timing.ratio
        for subject in benchmark.subjects
        for point in subject.points
        for timing in point.timings
        if timing.form in HAND and timing.ratio is not None
    }


def _name(key: _Key) -> str:
    return " ".join(map(str, key))
