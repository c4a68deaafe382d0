"""The page about speed: what misses a limit is named, and children get their own settings."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import child, plan, tables
from benchmarks.speed.__main__ import main
from benchmarks.speed.asked import Limit, limits
from benchmarks.speed.growth import Growth
from benchmarks.speed.memory import Checkpoints, Peak, checkpoints, peaks
from benchmarks.speed.page import page
from benchmarks.speed.results import Results, read
from bpttcheck.bench.report.records import (
    Benchmark,
    Interval,
    MeasuredPoint,
    Size,
    SubjectBenchmark,
    Timing,
    load,
)
from bpttcheck.errors import ContractError

FOUND = load(Path(__file__).parents[1] / "report" / "report.json")
LARGE, SMALL = Size(100, 64, 64, 64), Size(50, 1, 32, 32)


def timing(form: str, over: float, floor: float | None = None) -> Timing:
    samples = [over * wobble for wobble in (1.0, 1.01, 0.99)]
    ratio = None if form == "jax" else Interval(over, 0.99 * over, 1.01 * over)
    return Timing(form, over, samples, 1, 1e-15, 1e-13, 0.5, 100, ratio, floor, floor)


def point(size: Size, fused: float = 0.8, on_jax: float = 0.7, again: float = 1.0) -> MeasuredPoint:
    timings = [timing("numpy", 2.0), timing("fused", fused, fused / 1.2),
               timing("on_jax", on_jax), timing("jax", 1.0)]  # fmt: skip
    second = [again * value for value in timings[0].samples]
    same = Interval(again, again, again)
    return MeasuredPoint(size, "float64", "jax", timings, same, {}, second, 10**9)


def grid(*points: MeasuredPoint) -> Benchmark:
    environment = {**FOUND.environment, "peak_gflops": {"float64": 50.0}}
    subject = SubjectBenchmark("lstm", "LSTM", ["LSTM: a headline"], list(points), [], [], [])
    return replace(FOUND, subjects=[subject], environment=environment, failures=[])


def results(**changes: Any) -> Results:
    lengths = [100, 200, 500]
    whole: dict[str, Any] = {
        "grids": {1: grid(point(LARGE), point(SMALL))},
        "growth": [Growth("lstm", "fused", "float64", 8, 32, lengths, [1.0, 2.0, 5.0])],
        "peaks": [Peak("lstm", "float64", [50, 8, 32, 32], 1000, 1100)],
        "checkpoints": [Checkpoints("lstm", 100, 300, 100, 7000, 7200)],
        **changes,
    }
    return Results(**whole)


def broken(changed: Results) -> list[Limit]:
    return [one for one in limits(changed) if not one.holds]


def test_everything_that_meets_its_limit_is_said_to() -> None:
    assert len(limits(results())) == 10
    assert broken(results()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grids": {2: grid(point(LARGE, fused=1.05), point(SMALL))}},
         "lstm T=100 B=64 H=64 float64 1.05x"),
        ({"grids": {2: grid(point(LARGE, on_jax=1.02), point(SMALL, on_jax=0.3))}},
         "lstm T=100 B=64 H=64 float64 1.02x"),
        ({"growth": [Growth("lstm", "fused", "float64", 8, 32, [100, 1000], [1.0, 5.0])]},
         "lstm fused B=8 H=32 float64 (0.699)"),
        ({"peaks": [Peak("lstm", "float64", [50, 8, 32, 32], 1000, 1300)]},
         "lstm T=50 B=8 H=32 float64 (1.30x)"),
        ({"checkpoints": [Checkpoints("lstm", 100, 300, 100, 7000, 8800)]}, "lstm T=100 (2.20x)"),
    ],
)  # fmt: skip
def test_a_point_that_misses_a_limit_is_named(changes: dict[str, Any], words: str) -> None:
    changed = results(**changes)
    (only,) = broken(changed)
    assert only.met == only.of - 1
    assert only.missed[0].startswith(words)
    text = page(changed)
    assert words in " ".join(text.split())
    assert "**no**" in text


def test_a_mean_that_misses_its_limit_is_counted_as_one() -> None:
    slow = results(grids={1: grid(point(SMALL, fused=1.6, on_jax=0.8))})
    assert [one.what for one in broken(slow)] == [
        "fused over JAX, geometric mean, 1 core", "on JAX over JAX, geometric mean, 1 core",
    ]  # fmt: skip
    assert [(one.met, one.of) for one in broken(slow)] == [(0, 1)] * 2


def test_a_small_point_far_above_its_floor_is_named() -> None:
    far = point(SMALL)
    far = replace(far, timings=[replace(t, floor=t.floor and t.seconds / 1.7) for t in far.timings])
    (only,) = broken(results(grids={1: grid(point(LARGE), far)}))
    assert only.what == "fused over its floor where B H < 4096, 1 core"
    assert only.missed == ["lstm T=50 B=1 H=32 float64 (1.70x)"]


def test_the_rule_on_jax_is_compared_with_torch_where_torch_was_measured() -> None:
    with_torch = replace(point(LARGE), timings=[*point(LARGE).timings, timing("torch", 1.4)])
    (subject,) = grid(with_torch, point(SMALL)).subjects
    header, _, large, small = tables.ratios(subject).splitlines()
    column = [cell.strip() for cell in header.split("|")].index("on JAX over torch")
    assert large.split("|")[column].strip().startswith("0.50x")
    assert small.split("|")[column].strip() == "-"


def test_of_many_points_that_miss_a_limit_the_farthest_are_named() -> None:
    exponents = [1.2 + 0.01 * k for k in range(8)]
    growth = [Growth("lstm", "fused", "float64", 8, k, [1, 2, 4], [1.0, 2.0**e, 4.0**e])
              for k, e in enumerate(exponents)]  # fmt: skip
    line = tables.missed(limits(results(growth=growth)))
    assert "B=7 float64" in line or "H=7 float64" in line
    assert "H=0" not in line
    assert "and 2 more" in line


def test_the_same_that_differs_from_itself_is_no_pass() -> None:
    (only,) = broken(results(grids={1: grid(point(LARGE, again=1.02), point(SMALL, again=1.02))}))
    assert only.what == "the same against the same, 1 core"


def test_a_fixed_cost_is_seen_beside_the_exponent() -> None:
    lengths = [100, 200, 500, 1000, 2000]
    one = Growth("lstm", "fused", "float64", 8, 32, lengths, [3e-3 + 1e-5 * T for T in lengths])
    assert one.line == pytest.approx((3e-3, 1e-5), rel=1e-9)
    assert one.exponent < 0.7


def test_what_was_tried_stands_on_the_page_as_it_was_written(tmp_path: Path) -> None:
    text = "### Blocks of steps\n\nA line   as it is.\n\n* left out: 3 %"
    assert "What was tried" not in page(results())
    found = page(results(tried=text))
    assert found.endswith(f"## What was tried\n\n{text}\n")


def test_the_variable_is_shown_beside_the_plain_run() -> None:
    held = grid(point(LARGE, fused=1.3))
    text = page(results(blas=replace(held, environment={
        **held.environment, "variables": {plan.VARIABLE: "Haswell"}, "cores": 1,
    })))  # fmt: skip
    assert "`OPENBLAS_CORETYPE=Haswell`" in text
    row = next(line for line in text.splitlines() if "faster than JAX | 1.30x slower" in line)
    assert row.startswith("| lstm | T=100 B=64 H=64 | float64 | 0.80x (0.79 to 0.81) | 1.30x")


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("coretype", ["", "Haswell"])
def test_a_child_has_its_cores_and_no_variable_that_it_was_not_given(
    cores: int, coretype: str
) -> None:
    given = {plan.VARIABLE: "Prescott", "XLA_FLAGS": "--a", "OMP_NUM_THREADS": "7", "HOME": "/h"}
    found = plan.environment(cores, coretype, given)
    assert found.get(plan.VARIABLE, "") == coretype
    assert found["OMP_NUM_THREADS"] == found["OPENBLAS_NUM_THREADS"] == str(cores)
    assert ("--xla_cpu_multi_thread_eigen=false" in found["XLA_FLAGS"]) == (cores == 1)
    assert found["XLA_FLAGS"].startswith("--a")
    assert found["HOME"] == "/h"
    assert given[plan.VARIABLE] == "Prescott"


def test_nothing_is_imported_before_the_cores_of_a_child_are_set() -> None:
    code = "import sys, benchmarks.speed.child; assert not {'numpy', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_memory_is_measured_and_read_again_from_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = argparse.Namespace(
        cores=1, sizes=["100,16,24,64"], dtypes=["float32"], cells=["elman"], lengths=[25],
        out=tmp_path / "memory.json",
    )  # fmt: skip
    child.memory(options)
    with pytest.raises(ContractError, match="measure the grid first"):
        read(tmp_path)
    (tmp_path / "cores-1").mkdir()
    (tmp_path / "cores-1" / "report.json").write_text(grid(point(LARGE)).to_json())
    found = read(tmp_path)
    told = json.loads(options.out.read_text())
    assert [one.measured for one in found.peaks] == [one["measured"] for one in told["peaks"]]
    assert found.grids[1] == grid(point(LARGE))
    main(["--from", str(tmp_path)])
    assert "# How fast the layers are" in capsys.readouterr().out


def test_the_measured_memory_is_about_what_the_layers_state() -> None:
    for one in peaks([(100, 16, 24, 64)], ["float64"]):
        assert 0.8 < one.measured / one.stated < 1.3, one
    (root,) = checkpoints(["elman"], [100])
    assert 0.8 < root.measured / root.stated < 1.2
    assert root.kept + root.beside == 3 * 16 * 48 * 8
