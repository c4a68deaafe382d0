"""What was asked of the speed, and which points meet it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.speed.results import Results, is_large, mean, name, points, ratio, same
from bpttcheck.bench.report.records import Benchmark, Interval, MeasuredPoint
from bpttcheck.bench.report.summary import between, times

FUSED, OVER_FLOOR, FUSED_MEAN, ON_JAX, ON_JAX_MEAN = 1.0, 1.5, 1.5, 1.0, 0.75
_FLOORS = {
    "fused over its floor": "floor",
    "fused over its calls at their sizes": "calls_at_size",
}
SAME, EXPONENT, PEAK, ROOT = 0.03, (0.95, 1.05), 1.2, 2.0


@dataclass(frozen=True)
class Limit:
    """One limit.

    Args:
        what: what is limited, and where.
        asked: the limit in words.
        measured: what was found.
        met: how many points meet it.
        of: of how many.
        missed: those that do not, in words.
    """

    what: str
    asked: str
    measured: str
    met: int
    of: int
    missed: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """True where every point meets it, and there is one."""
        return self.met == self.of > 0


def limits(results: Results) -> list[Limit]:
    """Every limit for which there is a measurement."""
    found = [
        limit
        for cores, grid in results.grids.items()
        for limit in _of_a_grid(grid, f"{cores} core{'s' if cores > 1 else ''}")
    ]
    return [*found, *_growth(results), *_memory(results)]


def _of_a_grid(grid: Benchmark, where: str) -> Iterator[Limit]:
    every = list(points(grid))
    large = [(cell, point) for cell, point in every if is_large(point)]
    small = [(cell, point) for cell, point in every if not is_large(point)]
    yield from _ratios(
        large, "fused", f"fused over JAX where B H >= 4096, {where}",
        f"at most {FUSED:.1f}, within the interval", FUSED,
    )  # fmt: skip
    yield from _floors(small, where)
    yield from _mean(every, "fused", f"fused over JAX, geometric mean, {where}", FUSED_MEAN, "<")
    yield from _ratios(
        every, "on_jax", f"on JAX over JAX, {where}",
        f"never above {ON_JAX:.1f} beyond the interval", ON_JAX,
    )  # fmt: skip
    yield from _mean(
        every, "on_jax", f"on JAX over JAX, geometric mean, {where}", ON_JAX_MEAN, "<="
    )
    found = same([point for _, point in every])
    if found is not None:
        met = 1.0 in found and found.half_width <= SAME
        yield Limit(
            f"the same against the same, {where}",
            f"1 in the interval, half-width at most {SAME:.0%}",
            f"{_fine(found)}, half-width {found.half_width:.1%}", int(met), 1,
        )  # fmt: skip


def _ratios(
    some: Sequence[tuple[str, MeasuredPoint]], form: str, what: str, asked: str, limit: float
) -> Iterator[Limit]:
    found = [(name(cell, p), one) for cell, p in some if (one := ratio(p, form)) is not None]
    if found:
        largest = max(found, key=lambda pair: pair[1].value)
        missed = [f"{text} {between(one)}" for text, one in found if one.low > limit]
        told = f"at most {between(largest[1])}"
        yield Limit(what, asked, told, len(found) - len(missed), len(found), missed)


def _floors(some: Sequence[tuple[str, MeasuredPoint]], where: str) -> Iterator[Limit]:
    timings = [(name(cell, point), point.timing("fused")) for cell, point in some]
    for what, key in _FLOORS.items():
        found = [(text, t.seconds / one) for text, t in timings if t and (one := getattr(t, key))]
        yield from _judged(
            found, f"{what} where B H < 4096, {where}", f"at most {OVER_FLOOR:g}x",
            lambda value: value <= OVER_FLOOR, times,
        )  # fmt: skip


def _mean(
    some: Sequence[tuple[str, MeasuredPoint]], form: str, what: str, limit: float, sign: str
) -> Iterator[Limit]:
    found = mean([point for _, point in some], form)
    if found is not None:
        met = found.value < limit or (sign == "<=" and found.value == limit)
        words = "below" if sign == "<" else "at most"
        yield Limit(what, f"{words} {limit:g}", between(found), int(met), 1)


def _growth(results: Results) -> Iterator[Limit]:
    low, high = EXPONENT
    found = [(f"{g.cell} {g.form} B={g.B} H={g.H} {g.dtype}", g.exponent) for g in results.growth]
    yield from _judged(
        found, f"exponent of T from {_shortest(results)} on, {_cores(results)}",
        f"{low:g} to {high:g}", lambda value: low <= value <= high, lambda value: f"{value:.3f}",
    )  # fmt: skip


def _memory(results: Results) -> Iterator[Limit]:
    peaks = [
        (f"{p.cell} T={p.size[0]} B={p.size[1]} H={p.size[3]} {p.dtype}", p.measured / p.stated)
        for p in results.peaks
    ]
    yield from _judged(
        peaks, "peak memory of a fused layer over what it states", f"at most {PEAK:g}x",
        lambda value: value <= PEAK, times,
    )  # fmt: skip
    roots = [(f"{c.cell} T={c.T}", c.over_root) for c in results.checkpoints]
    yield from _judged(
        roots, "peak memory of checkpoints over sqrt(T) times the memory of a step",
        f"at most {ROOT:g}x", lambda value: value <= ROOT, times,
    )  # fmt: skip


def _judged(
    found: Sequence[tuple[str, float]],
    what: str,
    asked: str,
    meets: Callable[[float], bool],
    told: Callable[[float], str],
) -> Iterator[Limit]:
    if found:
        values = [value for _, value in found]
        far = sorted((pair for pair in found if not meets(pair[1])), key=lambda pair: -pair[1])
        missed = [f"{text} ({told(value)})" for text, value in far]
        measured = f"{told(min(values))} to {told(max(values))}"
        yield Limit(what, asked, measured, len(found) - len(missed), len(found), missed)


def _shortest(results: Results) -> int:
    return min((min(one.lengths) for one in results.growth), default=0)


def _cores(results: Results) -> str:
    return f"{results.cores} core{'s' if results.cores > 1 else ''}"


def _fine(found: Interval) -> str:
    return f"{found.value:.3f}x ({found.low:.3f} to {found.high:.3f})"
