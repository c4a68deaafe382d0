"""The words and tables of a benchmark."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bpttcheck.bench.report import summary
from bpttcheck.bench.report.compare import compare
from bpttcheck.bench.report.records import Benchmark, Interval, Timing, load


@pytest.fixture
def found() -> Benchmark:
    return load(Path(__file__).parent / "report.json")


def test_the_summary_begins_with_the_headlines(found: Benchmark) -> None:
    lines = summary.markdown(found).splitlines()
    assert lines[2] == f"- **{found.subjects[0].headlines[0]}**"
    assert "- **wrong.py:Cell: not timed**: d_xs is off by 0.5" in lines


def test_the_summary_has_a_row_for_each_form_and_for_each_size(found: Benchmark) -> None:
    text = summary.markdown(found)
    one = found.subjects[0].summaries[0]
    assert f"| lstm | NumPy | float64 | {summary.between(one.ratio)} |" in text
    for subject in found.subjects:
        assert f"<details><summary>{subject.target}: every size</summary>" in text
    assert text.count("| T=50 B=8 N=32 H=32 | float64 |") == 2
    assert "a processor, 2 cores; Python 3.12.1, numpy 2.0.0" in text
    assert "note: OPENBLAS_CORETYPE=Haswell holds" in text


def test_the_environment_is_told_in_words(found: Benchmark) -> None:
    pools = [{"internal_api": "openblas", "num_threads": 2, "architecture": "Zen"}]
    pools += [*pools, {"internal_api": "openmp", "num_threads": 1, "architecture": None}]
    alone = {**found.environment, "cores": 1, "threads": pools}
    text = summary.environment_line(replace(found, environment=alone))
    assert "1 core;" in text
    assert "threads openblas 2 (Zen), openmp 1;" in text


def test_a_summary_that_is_too_long_for_a_comment_keeps_its_headlines(found: Benchmark) -> None:
    many = [replace(found.subjects[0], target=f"cell{i}") for i in range(60)]
    text = summary.markdown(replace(found, subjects=many))
    assert len(text) < 65_536
    assert "too long for a comment" in text
    assert text.count(found.subjects[0].headlines[0]) == 60


def test_a_bar_in_a_target_begins_no_new_cell(found: Benchmark) -> None:
    odd = replace(found.subjects[0], target="a|b")
    row = next(
        line for line in summary.markdown(replace(found, subjects=[odd])).splitlines()
        if line.startswith("| a")
    )  # fmt: skip
    assert row.startswith("| a\\|b | NumPy |")


def test_the_terminal_has_the_headline_first_and_marks_the_baseline(found: Benchmark) -> None:
    subject = found.subjects[0]
    lines = summary.terminal(subject)
    assert lines[: len(subject.headlines)] == subject.headlines
    (start,) = (number for number, line in enumerate(lines) if "  JAX  " in line)
    header, row = lines[start : start + 2]
    assert header.split()[:2] == ["size", "dtype"]
    column = header.index("  JAX  ") + 2
    assert row[column:].split("  ")[0].endswith(" *")
    assert any("a form against itself differs by up to 2%" in line for line in lines)


def with_floor_and_operations(found: Benchmark) -> Benchmark:
    """The benchmark with the floor of a fused form, its operations, and the peak."""
    subject = found.subjects[0]

    def of(timing: Timing) -> Timing:
        return replace(timing, floor=timing.seconds / 4) if timing.form == "fused" else timing

    points = [
        replace(p, timings=[of(t) for t in p.timings], flops=int(1e9 * p.timings[0].seconds))
        for p in subject.points
    ]
    same = Interval(1.004, 0.99, 1.02)
    changed = replace(subject, points=points, same=same)
    environment = {**found.environment, "peak_gflops": {"float64": 50.0, "float32": 100.0}}
    return replace(found, subjects=[changed, *found.subjects[1:]], environment=environment)


def test_the_floor_is_one_column_and_the_share_of_the_peak_stands_in_the_details(
    found: Benchmark,
) -> None:
    known = with_floor_and_operations(found)
    before, after = summary.terminal(found.subjects[0]), summary.terminal(known.subjects[0])
    assert not any(" floor" in line for line in before if line.startswith("  size"))
    (start,) = (i for i, line in enumerate(after) if line.startswith("  size") and " floor" in line)
    assert "(4.00x)" in after[start + 1]
    assert any("over all sizes 1.004x, interval half-width 1.5%" in line for line in after)
    text = summary.markdown(known)
    assert "; 2.0 % |" in text.replace("; 2 %", "; 2.0 %")  # 1 of 50 GFLOP/s
    assert "in GFLOP/s: 50 in float64, 100 in float32" in text
    assert " % |" not in summary.markdown(found)
    assert " % " not in after[start + 1]


def test_tables_of_a_terminal_fit_80_columns(found: Benchmark) -> None:
    for subject in with_floor_and_operations(found).subjects:
        lines = summary.terminal(subject)
        tables = [line for line in lines if line.startswith(("  size", "  T="))]
        assert max(map(len, tables)) <= 80
        headers = [line for line in tables if line.startswith("  size")]
        forms = {summary.SHORT[t.form] for p in subject.points for t in p.timings}
        assert all(any(form in header for header in headers) for form in forms)


def test_a_median_that_says_the_contrary_of_its_ratio_is_marked(found: Benchmark) -> None:
    subject = found.subjects[0]
    point = subject.points[0]
    base = point.timing(point.baseline)
    assert base is not None

    def of(timing: Timing) -> Timing:
        if timing.form != "numpy":
            return timing
        return replace(timing, seconds=0.99 * base.seconds, ratio=Interval(1.02, 0.98, 1.06))

    changed = replace(point, timings=[of(t) for t in point.timings])
    lines = summary.terminal(replace(subject, points=[changed]))
    assert any("(1.02x?)" in line for line in lines)
    assert any(line.startswith("  ?: the medians say the contrary") for line in lines)
    assert not any("?" in line for line in summary.terminal(replace(subject, points=[point])))


def test_a_share_needs_the_operations_and_the_peak(found: Benchmark) -> None:
    point = with_floor_and_operations(found).subjects[0].points[0]
    first = point.timings[0]
    assert summary.share(point, first, {point.dtype: 50.0}) == pytest.approx(0.02, rel=1e-3)
    assert summary.share(point, first, {}) is None
    assert summary.share(replace(point, flops=None), first, {point.dtype: 50.0}) is None


def test_the_ratios_are_a_file_of_github_action_benchmark(found: Benchmark) -> None:
    entries = json.loads(summary.smaller_is_better(found))
    assert len(entries) == sum(
        timing.form in ("numpy", "fused", "on_jax")
        for subject in found.subjects for point in subject.points for timing in point.timings
    )  # fmt: skip
    assert len({entry["name"] for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.keys() == {"name", "unit", "value", "range", "extra"}
        assert isinstance(entry["value"], float)
        assert entry["range"].startswith("± ")


def test_a_comparison_stands_in_the_summary_with_what_is_missing(found: Benchmark) -> None:
    text = summary.markdown(found, compare(found, replace(found, subjects=found.subjects[:1])))
    assert "### Compared with before" in text
    assert "- only before: mine.py:Cell numpy T=10 B=8 N=32 H=32 float64" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.5, "2.5 s"), (1234.5, "1234 s"), (0.9999, "1 s"), (0.0123, "12.3 ms"), (9.999e-4, "1 ms"),
     (9.9949e-4, "999 µs"), (4.2e-8, "42 ns"), (0.0, "0 ns")],
)  # fmt: skip
def test_seconds_have_three_digits_and_a_unit(value: float, text: str) -> None:
    assert summary.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123, "0.12x"), (1.0, "1.00x"), (9.994, "9.99x"), (9.996, "10x"), (123.4, "123x"),
     (26553.0, "26553x")],
)  # fmt: skip
def test_ratios_are_short(value: float, text: str) -> None:
    assert summary.times(value) == text


def test_a_ratio_is_told_with_its_interval() -> None:
    assert summary.between(Interval(1.2, 1.1, 1.3)) == "1.20x (1.10 to 1.30)"
