"""The plots of a benchmark, as SVG: seconds and error over T, ratios, and the V of differences."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bpttcheck.bench.report.history import PastRun, of_target
from bpttcheck.bench.report.records import (
    HAND,
    Benchmark,
    Interval,
    MeasuredPoint,
    Size,
    SubjectBenchmark,
    Timing,
)
from bpttcheck.bench.report.summary import SHORT, times
from bpttcheck.errors import ContractError

INK, SOFT, LINE = "#1f2933", "#66727f", "#d5dbe1"
COLOURS = {
    "numpy": "#0b6bcb", "deferred": "#00a3c4", "fused": "#0a8a72", "on_jax": "#8250c4",
    "jax": "#b35c00", "jax_hoisted": "#c2354a", "jax_deferred": "#d4699b", "torch": "#7a8490",
    "jax_eager": "#8c6d1f", "differences": "#5c7080",
}  # fmt: skip
STYLE = {
    "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif", "text.color": INK,
    "axes.edgecolor": LINE, "axes.labelcolor": INK, "xtick.color": SOFT, "ytick.color": SOFT,
    "axes.titlesize": 9.5, "legend.fontsize": 8,
}  # fmt: skip
_MOST_TICKS = 8
_WIDTH, _HEIGHT = 4.4, 3.3  # inches: the width of a phone, so that text keeps its size


@dataclass(frozen=True)
class Drawing:
    """One plot.

    Args:
        target: the subject's name on the command line.
        name: of the file, without its ending.
        caption: a description, which also serves as alternative text.
        svg: the file's text.
    """

    target: str
    name: str
    caption: str
    svg: str


def drawings(benchmark: Benchmark, history: Sequence[PastRun] = ()) -> list[Drawing]:
    """Every plot that the benchmark has points for.

    Args:
        benchmark: what was measured.
        history: earlier runs and this one; with at least two of a target its ratios are drawn.

    Raises:
        ContractError: matplotlib is not installed.
    """
    matplotlib = _matplotlib()
    made: list[Drawing] = []
    for number, subject in enumerate(benchmark.subjects):
        dtypes = dict.fromkeys(point.dtype for point in subject.points)
        for dtype in dtypes:
            for kind, caption, draw in _plots(subject, dtype, history):
                name = f"{number + 1}-{_plain(subject.target)}-{dtype}-{kind}"
                # The ids in the file are derived from this: they must be unique in a page.
                with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
                    svg = _svg(draw, f"{subject.name}: {caption}")
                made.append(Drawing(subject.target, name, f"{subject.name}: {caption}", svg))
    return made


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ContractError(
            'plots need matplotlib, which is not installed: pip install "bpttcheck[report]"'
        ) from error
    return matplotlib


def _plots(
    subject: SubjectBenchmark, dtype: str, history: Sequence[PastRun]
) -> Iterator[tuple[str, str, Callable[[Any], None]]]:
    """``(kind, caption, draw(ax))`` of each plot with data."""
    points = [point for point in subject.points if point.dtype == dtype]
    along = _along_T(points)
    if len({point.size.T for point in along}) > 1:
        fixed = _fixed(along[0].size, "B", "n_in", "n_hidden")
        yield ("time", f"time over T; {fixed}, {dtype}",
               lambda ax: _over_T(ax, subject, along, dtype, "seconds"))  # fmt: skip
        yield ("error", f"error over T; {fixed}, {dtype}",
               lambda ax: _over_T(ax, subject, along, dtype, "error"))  # fmt: skip
    across = _across(points)
    for form in HAND:
        cells = [(p, t) for p in across if (t := p.timing(form)) and t.ratio]
        if len(cells) > 1:
            T = cells[0][0].size.T
            yield (f"ratio-{form}", f"{SHORT[form]} over JAX autodiff; T={T}, {dtype}",
                   lambda ax, cells=cells: _heat(ax, cells))  # fmt: skip
    past = of_target(history, subject.target, dtype)
    if any(len(ratios) > 1 for ratios in past.values()):
        yield ("history", f"ratio to JAX autodiff over runs; {dtype}",
               lambda ax: _over_runs(ax, past, history))  # fmt: skip
    for curve in subject.v_curves:
        if curve.dtype == dtype and len(curve.steps) > 1:
            yield ("differences", f"error of differences over their step; {curve.size}, {dtype}",
                   lambda ax, curve=curve: _v(ax, curve.steps, curve.errors))  # fmt: skip


def _along_T(points: Sequence[MeasuredPoint]) -> list[MeasuredPoint]:
    """The points of the widths and batch that most lengths share, shortest first."""
    groups: dict[tuple[int, ...], list[MeasuredPoint]] = {}
    for point in points:
        size = point.size
        groups.setdefault((size.B, size.n_in, size.n_hidden), []).append(point)
    longest = max(groups.values(), key=lambda group: len({p.size.T for p in group}), default=[])
    return sorted(longest, key=lambda point: point.size.T)


def _across(points: Sequence[MeasuredPoint]) -> list[MeasuredPoint]:
    """The points of the length that most widths and batches share."""
    groups: dict[int, list[MeasuredPoint]] = {}
    for point in points:
        groups.setdefault(point.size.T, []).append(point)
    return max(groups.values(), key=len, default=[])


def _over_T(
    ax: Any, subject: SubjectBenchmark, points: Sequence[MeasuredPoint], dtype: str, what: str
) -> None:
    size = points[0].size
    for form, colour in COLOURS.items():
        found = [(p.size.T, getattr(t, what)) for p in points if (t := p.timing(form))]
        shown = [(T, value) for T, value in found if value > 0]  # a zero has no logarithm
        if len(shown) < 2:
            continue
        label = SHORT[form]
        if what == "seconds":
            power = _power(subject, form, dtype, size)
            label += "" if power is None else f", T^{power:.2f}"
        ax.plot(*zip(*shown, strict=True), "-o", color=colour, linewidth=1.4, markersize=3.5,
                label=label)  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    lengths = sorted({point.size.T for point in points})
    ax.set_xticks(lengths, map(str, lengths))
    ax.set_xticks([], minor=True)
    ax.set_xlabel("time steps T")
    ax.set_ylabel("seconds" if what == "seconds" else "error, relative to a block's largest entry")
    ax.grid(color=LINE, linewidth=0.6)
    if ax.get_lines():
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2)


def _over_runs(
    ax: Any, past: Mapping[str, Sequence[tuple[int, Interval]]], history: Sequence[PastRun]
) -> None:
    """Each form's ratio in each run, with its interval, beside the commits."""
    for form, ratios in past.items():
        at = [number for number, _ in ratios]
        values = [ratio.value for _, ratio in ratios]
        ends = [[r.value - r.low for _, r in ratios], [r.high - r.value for _, r in ratios]]
        ax.errorbar(at, values, yerr=ends, fmt="-o", color=COLOURS.get(form, SOFT), linewidth=1.4,
                    markersize=3.5, capsize=2, label=SHORT.get(form, form))  # fmt: skip
    shown = sorted({number for ratios in past.values() for number, _ in ratios})
    step = max(1, math.ceil(len(shown) / _MOST_TICKS))
    shown = shown[::-1][::step]
    names = [history[number].revision or history[number].created[:10] for number in shown]
    ax.set_xticks(shown, names, rotation=35, ha="right", fontsize=7)
    ax.axhline(1, color=SOFT, linewidth=0.8)
    ax.set_yscale("log")
    ax.set_ylabel("time over JAX autodiff")
    ax.grid(color=LINE, linewidth=0.6)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.3), ncols=2)


def _power(subject: SubjectBenchmark, form: str, dtype: str, size: Size) -> float | None:
    for fit in subject.exponents:
        same = (fit.size.B, fit.size.n_in, fit.size.n_hidden) == (size.B, size.n_in, size.n_hidden)
        if same and fit.form == form and fit.dtype == dtype:
            return fit.power
    return None


def _heat(ax: Any, cells: Sequence[tuple[MeasuredPoint, Timing]]) -> None:
    """Ratios by n_hidden and B: blue where hand-written code is faster, red where slower."""
    widths = sorted({point.size.n_hidden for point, _ in cells})
    batches = sorted({point.size.B for point, _ in cells})
    values = [[math.nan] * len(widths) for _ in batches]
    for point, timing in cells:
        assert timing.ratio is not None
        x, y = widths.index(point.size.n_hidden), batches.index(point.size.B)
        values[y][x] = math.log2(timing.ratio.value)
        ax.text(x, y + 0.1, times(timing.ratio.value), ha="center", va="center", color="#111111")
        ends = f"{times(timing.ratio.low)[:-1]} to {times(timing.ratio.high)[:-1]}"
        ax.text(x, y - 0.18, ends, ha="center", va="center", color="#333333", fontsize=7)
    # Squares and not a raster image, so that the plot stays sharp.
    ax.pcolormesh(range(len(widths)), range(len(batches)), values, shading="nearest",
                  cmap="RdBu_r", vmin=-6, vmax=6, alpha=0.75)  # fmt: skip
    ax.set_xticks(range(len(widths)), widths)
    ax.set_yticks(range(len(batches)), batches)
    ax.set_xlabel("n_hidden; below 1x the hand-written form is faster")
    ax.set_ylabel("rows B")


def _v(ax: Any, steps: Sequence[float], errors: Sequence[float]) -> None:
    shown = [(h, error) for h, error in zip(steps, errors, strict=True) if error > 0]
    if shown:
        ax.plot(
            *zip(*shown, strict=True), "-o", color=COLOURS["numpy"], linewidth=1.4, markersize=3
        )
        best = min(shown, key=lambda pair: pair[1])
        ax.annotate(f"{best[1]:.0e} at {best[0]:.0e}", best, xytext=(0, -14), color=INK,
                    textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.margins(y=0.15)
    ax.set_xlabel("step; left of the best rounding rules, right of it truncation")
    ax.set_ylabel("relative error")
    ax.grid(color=LINE, linewidth=0.6)


def _svg(draw: Callable[[Any], None], title: str) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT))
    ax = figure.subplots()
    draw(ax)
    ax.set_title(title.replace("; ", "\n"), loc="left")
    ax.set_axisbelow(True)
    ax.tick_params(length=0, which="both")
    for side in ax.spines.values():
        side.set_visible(False)
    out = io.StringIO()
    figure.savefig(
        out, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None}
    )
    return out.getvalue()


def _fixed(size: Size, *names: str) -> str:
    return ", ".join(f"{name}={getattr(size, name)}" for name in names)


def _plain(text: str) -> str:
    """A target as a part of a file's name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in text)
