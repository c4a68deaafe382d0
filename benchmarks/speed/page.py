"""The page about speed: what was asked, what was measured, and on what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from textwrap import fill
from typing import Any

from benchmarks.speed import tables
from benchmarks.speed.asked import Limit, limits
from benchmarks.speed.growth import Growth
from benchmarks.speed.plan import VARIABLE
from benchmarks.speed.results import Results, is_large, mean, points, same
from bpttcheck.bench.report.records import Benchmark, Interval, MeasuredPoint
from bpttcheck.bench.report.summary import between, environment_line, times

_WIDTH = 100
_PLAIN: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def page(results: Results) -> str:
    """The whole page in Markdown."""
    found = limits(results)
    parts = [
        _head(), "## Result", _result(results, found), tables.asked(found),
        "The points that do not meet a limit:", tables.missed(found), *_environment(results),
        *_same(results),
    ]  # fmt: skip
    for cores, grid in results.grids.items():
        parts += _grid(_cores(cores), grid)
    parts += [*_growth(results), *_memory(results), *_blas(results)]
    if results.tried:
        parts += ["## What was tried"]
    text = "\n\n".join(map(_filled, parts)) + "\n"
    return f"{text}\n{results.tried.strip()}\n" if results.tried else text


def _head() -> str:
    return """# How fast the layers are

This page is written by `python -m benchmarks.speed --write`; nothing on it is written by hand but
the section on what was tried. How the figures are made is told in
[benchmarking](benchmarking.md). Times are of one forward and backward pass with all gradients.
*Fused* is the layer in NumPy of `bpttcheck.bptt.fused`, *on JAX* the rule of `bpttcheck.on_jax`,
*faster JAX* the faster of two jitted forms of JAX autodiff at that size; below 1x the first is
faster. Brackets hold 95 % intervals over the rounds of one process."""


def _result(results: Results, found: Sequence[Limit]) -> str:
    """Five sentences."""
    told = [
        f"Where B H is at least 4096, the fused layers take {_over(results, 'fused', True)} of the"
        " time of the faster JAX autodiff (geometric means), asked is at most 1.0 at each point"
        f" within its interval, and {_count(found, 'fused over JAX where')} meet it.",
        f"Where it is less, they take {_range_over_floor(results)} times what their calls of NumPy"
        " cost on arrays of one number, asked is at most 1.5, and"
        f" {_count(found, 'fused over its floor')} meet it; over the same calls on arrays of the"
        f" sizes that they have it is {_range_over_floor(results, 'calls_at_size')}.",
        f"Over all points the fused layers take {_over(results, 'fused')} of that time, asked is"
        f" below 1.5, and the rules on JAX {_over(results, 'on_jax')}, asked is at most 0.75 and"
        f" never above 1.0 beyond the interval, which {_count(found, 'on JAX over JAX,')} meet.",
        f"A form against itself is {_same_words(results)}, asked is an interval that holds 1 with"
        f" a half-width of at most 3 %{_exponents(results.growth)}.",
        _memory_words(results),
    ]
    return " ".join(told)


def _over(results: Results, form: str, large: bool = False) -> str:
    told: list[str] = []
    for cores, grid in results.grids.items():
        some = [p for _, p in points(grid) if is_large(p) or not large]
        found = mean(some, form)
        told.append(f"{'no point' if found is None else between(found)} on {_cores(cores)}")
    return " and ".join(told)


def _count(found: Sequence[Limit], what: str) -> str:
    chosen = [one for one in found if one.what.startswith(what) and "mean" not in one.what]
    return f"{sum(one.met for one in chosen)} of {sum(one.of for one in chosen)} points"


def _range_over_floor(results: Results, floor: str = "floor") -> str:
    found = [
        t.seconds / getattr(t, floor) for grid in results.grids.values() for _, p in points(grid)
        if not is_large(p) and (t := p.timing("fused")) is not None and getattr(t, floor)
    ]  # fmt: skip
    return f"{times(min(found))} to {times(max(found))}".replace("x", "") if found else "unknown"


def _same_words(results: Results) -> str:
    told: list[str] = []
    for cores, grid in results.grids.items():
        found = same([point for _, point in points(grid)])
        told.append(f"{'unknown' if found is None else _fine(found)} on {_cores(cores)}")
    return " and ".join(told)


def _exponents(growth: Sequence[Growth]) -> str:
    if not growth:
        return ""
    values = [one.exponent for one in growth]
    return (f", and time grows with T to the power of {min(values):.3f} to {max(values):.3f}, asked"
            " is 0.95 to 1.05")  # fmt: skip


def _memory_words(results: Results) -> str:
    if not results.peaks or not results.checkpoints:
        return "Memory was not measured."
    peak = max(one.measured / one.stated for one in results.peaks)
    root = max(one.over_root for one in results.checkpoints)
    return (f"In memory the fused layers need at most {times(peak)} of what they state, asked is"
            f" 1.2x, and checkpoints at most {root:.2f} sqrt(T) times the memory of a step, asked"
            " is 2 sqrt(T).")  # fmt: skip


def _environment(results: Results) -> list[str]:
    parts = ["## Environment"]
    for cores, grid in results.grids.items():
        found = grid.environment
        peak = ", ".join(f"{value:.0f} in {key}" for key, value in found["peak_gflops"].items())
        parts += [
            f"{_cores(cores)}: {environment_line(grid)}. Variables:"
            f" `{json.dumps(found['variables'])}`. Load before: {_load(found['load_average'])}."
            f" Peak of NumPy's product of two matrices of 1024 x 1024, in GFLOP/s: {peak}. The run"
            f" took {grid.seconds:.0f} s.",
            *(f"Note: {line}." for line in found["warnings"]),
        ]
    return parts


def _same(results: Results) -> list[str]:
    lines: list[str] = []
    for cores, grid in results.grids.items():
        some = [point for _, point in points(grid)]
        found = same(some)
        if found is not None:
            worst = max(point.same.reach for point in some)
            lines.append(f"- {_cores(cores)}: {_fine(found)} over {len(some)} points, half-width"
                         f" {found.half_width:.1%}; the widest interval of a single point reaches"
                         f" {worst:.0%} from 1")  # fmt: skip
    return [
        "## The same against the same",
        "In every round the NumPy form is timed twice, as if it were two. What differs is what the"
        " machine does to equal things; a difference of that size between two forms means nothing.",
        "\n".join(lines) or "Not measured.",
    ]


def _grid(where: str, grid: Benchmark) -> list[str]:
    parts = [f"## On {where}", "\n".join(f"- {line}" for line in _headlines(grid))]
    for subject in grid.subjects:
        parts += [f"### {subject.target}, {where}", tables.ratios(subject)]
        missing = sorted({(form, why) for p in subject.points for form, why in _absent(p)})
        parts += [f"Not measured: {form}: {why}." for form, why in missing]
    return [
        *parts,
        f"### The first call, {where}",
        "The first call of a compiled form traces, compiles and runs. It has paid off after so many"
        " calls that all of them together cost less than those of the fastest form in NumPy; never,"
        " where a later call is not faster.",
        tables.first_calls(grid),
        f"### Floors and shares of the peak, {where}",
        "The floor is what the fused layer's calls of NumPy cost on arrays of one number; *calls at"
        " size* is what the same calls cost on arrays of the sizes that they have. The share"
        " of the peak counts the operations in the products alone.",
        tables.floors(grid),
    ]


def _headlines(grid: Benchmark) -> list[str]:
    return [line for subject in grid.subjects for line in subject.headlines]


def _absent(point: MeasuredPoint) -> list[tuple[str, str]]:
    return [pair for pair in point.absent.items() if pair[0] not in ("jax_eager", "differences")]


def _growth(results: Results) -> list[str]:
    if not results.growth:
        return []
    return [
        "## Growth with T",
        f"Seconds over T at a fixed size, {_cores(results.cores)}: the exponent of a power of T,"
        " and the line a + b T, both by least squares of relative errors. A fixed cost a lowers the"
        " exponent.",
        tables.growth(results),
    ]


def _memory(results: Results) -> list[str]:
    if not results.peaks:
        return []
    return [
        "## Memory",
        "Bytes in use at most during forward and backward, by `tracemalloc`, beside what"
        " `peak_bytes` states. Arguments are not counted; of small sizes Python's own objects are a"
        " part.",
        tables.peaks(results),
        "Checkpoints with ceil(sqrt(T)) segments, float64, beside arguments and results. A step"
        " keeps C bytes, and needs A beside while it is worked on: its adjoint or its output.",
        tables.checkpoints(results),
    ]


def _blas(results: Results) -> list[str]:
    if results.blas is None:
        return []
    cores = min(results.grids)
    value = results.blas.environment["variables"].get(VARIABLE, "")
    return [
        "## The variable of the BLAS",
        f"`{VARIABLE}` holds NumPy's products to the kernels of one kind of processor; JAX brings"
        f" its own products and does not know it. The points below were measured on"
        f" {_cores(results.blas.environment['cores'])} without it and with `{VARIABLE}={value}`."
        " All other figures of this page are without it.",
        tables.blas(results.grids[cores], results.blas),
    ]


def _cores(count: int) -> str:
    return f"{count} core{'s' if count > 1 else ''}"


def _load(load: Any) -> str:
    return ", ".join(f"{one:.1f}" for one in load) if isinstance(load, list) else str(load)


def _fine(found: Interval) -> str:
    return f"{found.value:.3f}x ({found.low:.3f} to {found.high:.3f})"


def _filled(block: str) -> str:
    """A paragraph or its items filled; tables and titles as they are."""
    if block.startswith("# ") and "\n" in block:
        return "\n\n".join(map(_filled, block.split("\n\n")))
    if block.startswith(("|", "#")):
        return block
    if block.startswith("- "):
        items = block.removeprefix("- ").split("\n- ")
        return "\n".join(fill(f"- {i}", _WIDTH, subsequent_indent="  ", **_PLAIN) for i in items)
    return fill(block, _WIDTH, **_PLAIN)
