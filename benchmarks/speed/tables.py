"""The tables of the page about speed."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.common import table
from benchmarks.speed.asked import Limit
from benchmarks.speed.results import Results, points, ratio
from bpttcheck.bench import statistics
from bpttcheck.bench.forms import BASELINES
from bpttcheck.bench.report.records import (
    Benchmark,
    Interval,
    MeasuredPoint,
    SubjectBenchmark,
    Timing,
)
from bpttcheck.bench.report.summary import SHORT, between, percent, seconds, share, times
from bpttcheck.bench.statistics import compared

_COMPARED = ("fused", "on_jax", "jax_deferred", "torch")
_COMPILED = ("jax", "jax_hoisted", "jax_deferred", "on_jax")

_NAMED = 6  # points that miss a limit; the others are counted


def asked(limits: Sequence[Limit]) -> str:
    """What was asked beside what was measured."""
    rows = [
        [one.what, one.asked, one.measured, f"{one.met} of {one.of}",
         "yes" if one.holds else "**no**"]
        for one in limits
    ]  # fmt: skip
    return table(["", "asked", "measured", "points that meet it", "met"], rows)


def missed(limits: Sequence[Limit]) -> str:
    """The points that do not meet a limit, by name; the farthest of many."""
    lines = [f"- {one.what}: {'; '.join(_farthest(one.missed))}" for one in limits if one.missed]
    return "\n".join(lines) or "Every point meets its limit."


def _farthest(missed: Sequence[str]) -> list[str]:
    more = len(missed) - _NAMED
    return [*missed[:_NAMED], *([f"and {more} more, in the tables below"] if more > 0 else [])]


def ratios(subject: SubjectBenchmark) -> str:
    """One line for each point: seconds of the faster JAX autodiff, and the others over it."""
    forms = [form for form in _COMPARED if any(p.timing(form) for p in subject.points)]
    torch = "torch" in forms
    rows = [
        [_size(point), point.dtype, _baseline(point),
         *(_between(ratio(point, form)) for form in forms), *[_over_torch(point)] * torch,
         _between(point.same)]
        for point in subject.points
    ]  # fmt: skip
    header = ["size", "dtype", "faster JAX", *(SHORT[form] for form in forms),
              *["on JAX over torch"] * torch, "NumPy, the same"]  # fmt: skip
    return table(header, rows)


def first_calls(grid: Benchmark) -> str:
    """For each compiled form the first call, and the calls after which it has paid off."""
    rows: list[list[object]] = []
    for subject in grid.subjects:
        for form in _COMPILED:
            found = [t for point in subject.points if (t := point.timing(form)) is not None]
            first = [t.first_call for t in found if t.first_call is not None]
            if first:
                pays = [t.pays_off_after for t in found if t.pays_off_after is not None]
                rows.append([subject.target, SHORT[form], seconds(statistics.median(first)),
                             f"{seconds(min(first))} to {seconds(max(first))}",
                             f"{min(pays)} to {max(pays)}" if pays else "-",
                             f"{len(found) - len(pays)} of {len(found)}"])  # fmt: skip
    header = ["cell", "form", "first call, median", "range", "pays off after calls", "never"]
    return table(header, rows)


def floors(grid: Benchmark) -> str:
    """Seconds and floors of the fused form, and the shares of the peak."""
    rows = [
        [cell, _size(point), point.dtype, *_floor(point.timing("fused")),
         *(_share(grid, point, form) for form in ("fused", "on_jax", point.baseline))]
        for cell, point in points(grid)
    ]  # fmt: skip
    header = ["cell", "size", "dtype", "fused", "floor", "over floor", "calls at size",
              "over these", "of peak: fused", "on JAX", "faster JAX"]  # fmt: skip
    return table(header, rows)


def growth(results: Results) -> str:
    """Exponents, and the fixed cost beside that of a step."""
    rows: list[list[object]] = []
    for one in results.growth:
        fixed, each = one.line
        ends = " to ".join(seconds(one.seconds[k]) for k in (0, -1))
        rows.append([one.cell, SHORT[one.form], one.dtype, one.B, one.H, f"{one.exponent:.3f}",
                     _signed(fixed), _signed(each), ends])  # fmt: skip
    lengths = results.growth[0].lengths if results.growth else [0]
    header = ["cell", "form", "dtype", "B", "H", "exponent", "fixed cost a", "each step b",
              f"T={lengths[0]} to T={lengths[-1]}"]  # fmt: skip
    return table(header, rows)


def peaks(results: Results) -> str:
    """The fused layers' memory."""
    rows = [
        [p.cell, p.dtype, f"T={p.size[0]} B={p.size[1]} H={p.size[3]}", _megabytes(p.stated),
         _megabytes(p.measured), times(p.measured / p.stated)]
        for p in results.peaks
    ]  # fmt: skip
    return table(["cell", "dtype", "size", "stated", "measured", "measured over stated"], rows)


def checkpoints(results: Results) -> str:
    """The memory of checkpoints."""
    rows = [
        [c.cell, c.T, c.kept, c.beside, _megabytes(c.stated), _megabytes(c.measured),
         times(c.measured / c.stated), f"{c.over_root:.2f}"]
        for c in results.checkpoints
    ]  # fmt: skip
    header = ["cell", "T", "C (bytes)", "A (bytes)", "stated", "measured", "measured over stated",
              "measured over sqrt(T) (C + A)"]  # fmt: skip
    return table(header, rows)


def blas(plain: Benchmark, held: Benchmark) -> str:
    """The same points without and with the variable."""
    before = {(cell, str(p.size), p.dtype): p for cell, p in points(plain)}
    rows: list[list[object]] = []
    for cell, point in points(held):
        other = before.get((cell, str(point.size), point.dtype))
        one, two = (None if p is None else ratio(p, "fused") for p in (other, point))
        if one is not None and two is not None:
            rows.append([cell, _size(point), point.dtype, between(one), between(two),
                         f"{compared(one)} JAX", f"{compared(two)} JAX"])  # fmt: skip
    header = ["cell", "size", "dtype", "fused over JAX, plain", "with the variable",
              "fused is, plain", "with the variable"]  # fmt: skip
    return table(header, rows)


def _size(point: MeasuredPoint) -> str:
    size = point.size
    return f"T={size.T} B={size.B} H={size.n_hidden}"


def _baseline(point: MeasuredPoint) -> str:
    timing = point.timing(point.baseline)
    if timing is None:
        return "-"
    hoisted = " (hoisted)" if point.baseline == BASELINES[1] else ""
    return f"{seconds(timing.seconds)}{hoisted}"


def _over_torch(point: MeasuredPoint) -> str:
    ours, theirs = point.timing("on_jax"), point.timing("torch")
    if ours is None or theirs is None:
        return "-"
    return between(statistics.ratio(ours.samples, theirs.samples))


def _between(found: Interval | None) -> str:
    return "-" if found is None else between(found)


def _floor(timing: Timing | None) -> list[str]:
    if timing is None or not timing.floor or not timing.calls_at_size:
        return ["-"] * 5
    told = [seconds(timing.seconds)]
    for one in (timing.floor, timing.calls_at_size):
        told += [seconds(one), times(timing.seconds / one)]
    return told


def _share(grid: Benchmark, point: MeasuredPoint, form: str) -> str:
    timing = point.timing(form)
    part = None if timing is None else share(point, timing, grid.environment["peak_gflops"])
    return "-" if part is None else percent(part)


def _signed(value: float) -> str:
    return seconds(value) if value >= 0 else f"-{seconds(-value)}"


def _megabytes(value: int) -> str:
    return f"{value / 1e6:.3g} MB"
