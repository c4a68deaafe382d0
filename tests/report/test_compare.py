"""Two benchmarks side by side: what is slower, what is missing, and the gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpttcheck.bench.report.compare import Change, compare, parse_gate
from bpttcheck.bench.report.records import Benchmark, Interval, Size, load
from bpttcheck.errors import ContractError

FOUND = load(Path(__file__).parent / "report.json")


def slower(found: Benchmark, form: str, factor: float) -> Benchmark:
    """The benchmark with one form slower by a factor at one point."""

    def of(timing):
        ratio = timing.ratio
        if timing.form != form or ratio is None:
            return timing
        return replace(
            timing, ratio=Interval(ratio.value * factor, ratio.low * factor, ratio.high * factor)
        )

    subject = found.subjects[0]
    first = replace(subject.points[0], timings=[of(t) for t in subject.points[0].timings])
    changed = replace(subject, points=[first, *subject.points[1:]])
    return replace(found, subjects=[changed, *found.subjects[1:]])


def test_a_benchmark_beside_itself_has_no_failure_at_any_factor() -> None:
    comparison = compare(FOUND, FOUND)
    assert comparison.failures(1.0) == []
    assert comparison.missing == []
    assert {change.verdict for change in comparison.changes} == {""}


@pytest.mark.parametrize("form", ["numpy", "fused", "on_jax"])
def test_a_planted_slow_down_is_found_where_it_is(form: str) -> None:
    comparison = compare(FOUND, slower(FOUND, form, 1.5))
    (failure,) = comparison.failures(1.1)
    assert str(failure) == f"lstm {form} T=10 B=8 N=32 H=32 float64"
    assert failure.verdict == "slower"
    assert comparison.failures(1.6) == []


@pytest.mark.parametrize("form", ["jax_hoisted", "jax"])
def test_what_is_not_written_by_hand_is_not_gated(form: str) -> None:
    assert compare(FOUND, slower(FOUND, form, 5.0)).failures(1.1) == []


def test_a_speed_up_is_no_failure() -> None:
    comparison = compare(FOUND, slower(FOUND, "fused", 0.5))
    assert comparison.failures(1.0) == []
    assert [c.verdict for c in comparison.changes if c.verdict] == ["faster"]


@given(old=st.floats(0.1, 10), low=st.floats(0.1, 10), factor=st.floats(1, 3))
def test_the_gate_is_on_the_lower_end_of_the_interval(
    old: float, low: float, factor: float
) -> None:
    change = Change("a", "numpy", Size(1, 1, 1, 1), "float64",
                    Interval(old, old, old), Interval(2 * low, low, 3 * low))  # fmt: skip
    assert change.beyond(factor) == (low > factor * old)


def test_what_only_one_has_is_named() -> None:
    fewer = replace(FOUND, subjects=FOUND.subjects[1:])
    assert all(line.startswith("only before: lstm ") for line in compare(FOUND, fewer).missing)
    assert all(line.startswith("only now: lstm ") for line in compare(fewer, FOUND).missing)
    assert len(compare(FOUND, fewer).missing) == 36


def test_two_benchmarks_without_a_common_point_cannot_be_compared() -> None:
    one, other = (replace(FOUND, subjects=[subject]) for subject in FOUND.subjects)
    with pytest.raises(ContractError, match="no ratio in common"):
        compare(one, other)


@pytest.mark.parametrize(
    ("text", "factor"), [("ratio > 1.1x", 1.1), ("ratio > 2x", 2.0), (" ratio > 1x ", 1.0)]
)
def test_a_gate_is_read(text: str, factor: float) -> None:
    assert parse_gate(text) == factor


@pytest.mark.parametrize(
    "text",
    ["", "ratio", "ratio > 1.1", "ratio < 1.1x", "ratio >= 1.1x", "time > 1.1x", "ratio > x",
     "ratio > -2x", "ratio > 0.9x", "ratio > 1.1x or so", "ratio > 1e3x", "ratio>1.1x"],
)  # fmt: skip
def test_anything_else_is_no_gate(text: str) -> None:
    with pytest.raises(ContractError, match="expected 'ratio > FACTORx'"):
        parse_gate(text)
