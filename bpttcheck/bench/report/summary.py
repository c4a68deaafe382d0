"""A benchmark in words and tables: for a terminal, and in Markdown for a pull request."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from bpttcheck.bench.report.compare import Change, Comparison
from bpttcheck.bench.report.records import (
    HAND,
    Benchmark,
    Interval,
    MeasuredPoint,
    RevisionRatio,
    SubjectBenchmark,
    Timing,
)

SHORT = {
    "numpy": "NumPy",
    "deferred": "NumPy deferred",
    "fused": "NumPy fused",
    "on_jax": "hand on JAX",
    "jax": "JAX",
    "jax_hoisted": "JAX hoisted",
    "jax_deferred": "JAX deferred",
    "torch": "torch",
    "jax_eager": "JAX eager",
    "differences": "differences",
}
_WIDTH = 80
_LONGEST_COMMENT = 60_000  # GitHub takes 65,536 characters


def seconds(value: float) -> str:
    """Three digits with a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= 0.9995 * scale:
            return f"{_three(value / scale)} {unit}"
    return f"{_three(value / 1e-9)} ns"


def _three(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def times(value: float) -> str:
    """A ratio: ``1.23x``."""
    return (
        f"{value:.2f}x" if value < 9.995 else f"{value:.3g}x" if value < 999.5 else f"{value:.0f}x"
    )


def between(ratio: Interval) -> str:
    """A ratio with its interval: ``1.23x (1.20 to 1.27)``."""
    return f"{times(ratio.value)} ({times(ratio.low)[:-1]} to {times(ratio.high)[:-1]})"


def terminal(subject: SubjectBenchmark) -> list[str]:
    """The headline, then one line for each point: seconds, and the ratio where there is one.

    Where the forms need more than 80 columns, the others follow in another table.
    """
    cells = table(subject)
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines: list[str] = []
    for columns in _blocks(widths):
        lines += [
            "  " + "  ".join(row[i].ljust(widths[i]) for i in columns).rstrip() for row in cells
        ]
        lines.append("")
    return [*subject.headlines, "", *lines, *notes(subject)]


def _blocks(widths: Sequence[int]) -> list[list[int]]:
    """The columns of each table: size and dtype in every one, and as many others as fit."""
    first = [0, 1]
    blocks = [first]
    for column in range(2, len(widths)):
        block = [*blocks[-1], column]
        if sum(widths[i] + 2 for i in block) > _WIDTH and blocks[-1] != first:
            block = [*first, column]
            blocks.append(block)
        blocks[-1] = block
    return blocks


def table(subject: SubjectBenchmark, peak: Mapping[str, float] | None = None) -> list[list[str]]:
    """A header and one row for each point.

    Args:
        subject: what was measured.
        peak: billions of operations a second for each dtype; with it every form of which the
            operations are known has its share of this peak in its cell.
    """
    forms = [form for form in SHORT if any(point.timing(form) for point in subject.points)]
    floors = any(floor_of(point) for point in subject.points)
    rows = [["size", "dtype", *(SHORT[form] for form in forms), *["floor"] * floors, "error"]]
    for point in subject.points:
        cells = [_cell(point, point.timing(form), peak or {}) for form in forms]
        cells += [_floor(point)] * floors
        rows.append([str(point.size), point.dtype, *cells, f"{worst_error(point):.0e}"])
    return rows


def share(point: MeasuredPoint, timing: Timing, peak: Mapping[str, float]) -> float | None:
    """The share of the machine's peak that a form reaches; None where it is not known."""
    if point.flops is None or not peak.get(point.dtype):
        return None
    return point.flops / timing.seconds / 1e9 / peak[point.dtype]


def floor_of(point: MeasuredPoint) -> Timing | None:
    """The form whose NumPy calls were counted, or None."""
    return next((timing for timing in point.timings if timing.floor), None)


def _floor(point: MeasuredPoint) -> str:
    timing = floor_of(point)
    if timing is None or not timing.floor:
        return "-"
    return f"{seconds(timing.floor)} ({times(timing.seconds / timing.floor)})"


def worst_error(point: MeasuredPoint) -> float:
    """The largest error of the hand-written forms."""
    return max(timing.error for timing in point.timings if timing.form in HAND)


def notes(subject: SubjectBenchmark) -> list[str]:
    """The baseline of the ratios, and the measured ratio of a form to itself."""
    largest = max((point.same.reach for point in subject.points), default=0.0)
    same = f"  noise floor: a form against itself differs by up to {largest:.0%} at a size"
    if subject.same is not None:
        mean = subject.same
        same += f"; over all sizes {mean.value:.3f}x, interval half-width {mean.half_width:.1%}"
    lines = [
        "  forward and backward; in brackets the ratio to the faster jitted JAX autodiff, marked *",
        same,
    ]
    if any(contradicts(point, t) for point in subject.points for t in point.timings):
        lines.append("  ?: the medians say the contrary of the ratio, which is that of single"
                     " rounds: not told apart")  # fmt: skip
    if any(floor_of(point) for point in subject.points):
        lines.append("  floor: what the calls of NumPy of the fused form cost on arrays of one"
                     " number; in brackets its time over that")  # fmt: skip
    return lines


def markdown(benchmark: Benchmark, comparison: Comparison | None = None) -> str:
    """The summary; without its tables of points where it would not fit a comment."""
    head = [*_head(benchmark), *([] if comparison is None else _comparison(comparison))]
    text = "\n".join([*head, *_points(benchmark), *_foot(benchmark)]) + "\n"
    if len(text) <= _LONGEST_COMMENT:
        return text
    left_out = "The tables of single sizes are too long for a comment: see `report.json`."
    return "\n".join([*head, left_out, "", *_foot(benchmark)]) + "\n"


def smaller_is_better(benchmark: Benchmark) -> str:
    """The ratios as JSON in the format ``customSmallerIsBetter`` of github-action-benchmark."""
    entries: list[dict[str, object]] = []
    for subject in benchmark.subjects:
        for point in subject.points:
            for timing in point.timings:
                if timing.form not in HAND or timing.ratio is None:
                    continue
                ratio = timing.ratio
                entries.append({
                    "name": f"{subject.target} {timing.form} {point.size} {point.dtype}",
                    "unit": "x JAX autodiff",
                    "value": ratio.value,
                    "range": f"± {(ratio.high - ratio.low) / 2:.3g}",
                    "extra": f"{between(ratio)} of {point.baseline}; {seconds(timing.seconds)}",
                })  # fmt: skip
    return json.dumps(entries, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; the first row is its header."""
    header, *rest = rows
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    # A `|` in a target's own text would begin a new cell.
    return lines + ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rest]


def _head(benchmark: Benchmark) -> Iterable[str]:
    yield "## Hand-written gradients against autodiff"
    yield ""
    for subject in benchmark.subjects:
        yield from (f"- **{line}**" for line in subject.headlines)
    for failure in benchmark.failures:
        yield f"- **{failure.target}: not timed**: {failure.message}"
    yield from (f"- **{line}**" for line in map(revisions_line, benchmark.revisions))
    yield ""
    rows = [["cell", "form", "dtype", "time over JAX autodiff", "over the sizes", "error"]]
    for subject in benchmark.subjects:
        rows += [
            [subject.target, SHORT.get(one.form, one.form), one.dtype, between(one.ratio),
             f"{times(one.lowest)} to {times(one.highest)}", f"{one.error:.0e}"]
            for one in subject.summaries
        ]  # fmt: skip
    if len(rows) > 1:
        yield from markdown_table(rows)
        yield ""


def _points(benchmark: Benchmark) -> Iterable[str]:
    peak: Mapping[str, float] = benchmark.environment.get("peak_gflops", {})
    for subject in benchmark.subjects:
        yield f"<details><summary>{subject.target}: every size</summary>"
        yield ""
        yield from markdown_table(table(subject, peak))
        yield ""
        yield from (line.strip() + "  " for line in notes(subject))
        if peak and any(point.flops for point in subject.points):
            yield _peak_line(peak)
        yield ""
        yield "</details>"
        yield ""


def _peak_line(peak: Mapping[str, float]) -> str:
    told = ", ".join(f"{value:.0f} in {dtype}" for dtype, value in peak.items())
    return f"after the semicolon the share of the peak of NumPy's products, in GFLOP/s: {told}  "


def _foot(benchmark: Benchmark) -> Iterable[str]:
    yield from (f"- note: {line}" for line in benchmark.environment.get("warnings", []))
    yield environment_line(benchmark)


def environment_line(benchmark: Benchmark) -> str:
    """The environment in one line."""
    found = benchmark.environment
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    cores = f"{found['cores']} core{'' if found['cores'] == 1 else 's'}"
    return (
        f"{found['processor']}, {cores}; Python {found['python']}, {packages};"
        f" BLAS {found['blas']}, threads {_threads(found['threads'])};"
        f" {benchmark.settings['rounds']} rounds; {benchmark.created}"
    )


def _threads(pools: Any) -> str:
    """The thread pools of the loaded libraries: ``openblas 2 (SkylakeX), openmp 2``."""
    if not isinstance(pools, list):
        return str(pools)
    told = [
        f"{pool.get('internal_api')} {pool.get('num_threads')}"
        + (f" ({pool['architecture']})" if pool.get("architecture") else "")
        for pool in cast("list[dict[str, Any]]", pools)
    ]
    return ", ".join(dict.fromkeys(told)) or "unknown"


def revisions_line(one: RevisionRatio) -> str:
    """Two revisions beside each other in one line."""
    sizes = "1 point" if len(one.points) == 1 else f"{len(one.points)} points"
    return (
        f"{one.target}, {SHORT.get(one.form, one.form)}: now over {one.base} ({one.commit}):"
        f" {between(one.ratio)}, {sizes}; {one.base} over itself: {between(one.same)}"
    )


def comparison_lines(comparison: Comparison) -> list[str]:
    """A comparison with an older benchmark, one line for each form of each target."""
    groups: dict[tuple[str, str], list[Change]] = {}
    for change in comparison.changes:
        groups.setdefault((change.target, change.form), []).append(change)
    found: list[str] = []
    for (target, form), changes in groups.items():
        logs = [math.log(change.new.value / change.old.value) for change in changes]
        mean = times(math.exp(sum(logs) / len(logs)))
        verdicts = Counter(change.verdict for change in changes)
        points = "1 point" if len(changes) == 1 else f"{len(changes)} points"
        found.append(
            f"{target}, {SHORT.get(form, form)}: the ratio to JAX is {mean} that of before"
            f" ({points}: {verdicts['slower']} slower, {verdicts['faster']} faster beyond both"
            " intervals)"
        )
    return found


def _comparison(comparison: Comparison) -> Iterable[str]:
    yield "### Compared with before"
    yield ""
    rows = [["cell", "form", "size", "dtype", "before", "now", ""]]
    rows += [
        [c.target, SHORT.get(c.form, c.form), str(c.size), c.dtype, between(c.old), between(c.new),
         c.verdict]
        for c in comparison.changes
    ]  # fmt: skip
    yield from markdown_table(rows)
    yield ""
    yield from (f"- {line}" for line in comparison.missing)
    if comparison.missing:
        yield ""


def _cell(point: MeasuredPoint, timing: Timing | None, peak: Mapping[str, float]) -> str:
    if timing is None:
        return "-"
    of_peak = share(point, timing, peak)
    end = "" if of_peak is None else f"; {percent(of_peak)}"
    if timing.form == point.baseline:
        return f"{seconds(timing.seconds)} *{end}"
    doubt = "?" if contradicts(point, timing) else ""
    ratio = "" if timing.ratio is None else f" ({times(timing.ratio.value)}{doubt})"
    return f"{seconds(timing.seconds)}{ratio}{end}"


def contradicts(point: MeasuredPoint, timing: Timing) -> bool:
    """True where a form has the smaller median and the ratio of the slower one, or the reverse."""
    base = point.timing(point.baseline)
    if base is None or timing.ratio is None:
        return False
    return (timing.seconds - base.seconds) * (timing.ratio.value - 1) < 0


def percent(part: float) -> str:
    """A share in percent: ``37 %``, ``1.2 %``, ``< 0.1 %``."""
    if part < 0.001:
        return "< 0.1 %"
    return f"{100 * part:.0f} %" if part >= 0.0995 else f"{100 * part:.2g} %"
