"""Where a peer does better than this package, read off the records."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.power.arms import BEST, EQUAL_FIXED, EQUAL_OURS, IDENTICAL, REGIME
from benchmarks.power.ladder import at_power
from benchmarks.power.records import OURS, Trial, told_apart
from benchmarks.power.results import Results
from benchmarks.power.speech import characters, costs, milliseconds, named
from bpttcheck.problems.problem import REGIMES

_ARMS = {
    IDENTICAL: "identical inputs, defaults",
    BEST: "identical inputs, best settings",
    EQUAL_FIXED: "equal evaluations, fixed inputs",
    EQUAL_OURS: "equal evaluations, our strategies",
}


def winners(r: Results) -> str:
    """Every place where a peer told more bugs apart, needs less or says it better."""
    lines = [*_detection(r), *_ladder(r), *_price(r)]
    if not lines:
        return "Nowhere in this run."
    return "\n".join(f"- {line}" for line in lines)


def _detection(r: Results) -> Iterator[str]:
    for arm, what in _ARMS.items():
        dtypes = r.dtypes if arm in (IDENTICAL, BEST) else ("float64",)
        for dtype in dtypes:
            for family in r.families:
                picked = {m: r.where(arm=arm, dtype=dtype, family=family, method=m)
                          for m in r.methods}  # fmt: skip
                yield from _better(picked, f"{family} ({what}, {dtype})")
    for regime in REGIMES:
        for dtype in r.dtypes:
            picked = {
                m: r.where(arm=REGIME, dtype=dtype, regime=regime, method=m) for m in r.methods
            }
            yield from _better(picked, f"regime {regime} (one look, {dtype})")


def _better(picked: dict[str, list[Trial]], where: str) -> Iterator[str]:
    rates = {method: told_apart(trials) for method, trials in picked.items()}
    mine = rates[OURS]
    better = [f"{m} {rate.hits}/{rate.trials}" for m, rate in rates.items()
              if rate.share > mine.share]  # fmt: skip
    if better:
        yield f"{where}: {', '.join(better)}; bpttcheck {mine.hits}/{mine.trials}."


def _ladder(r: Results) -> Iterator[str]:
    for dtype in r.dtypes:
        mine = at_power(r.climbs(arm="defaults", method=OURS, dtype=dtype)) or 1.0
        for arm in ("defaults", "best settings"):
            for method in r.peers:
                theirs = at_power(r.climbs(arm=arm, method=method, dtype=dtype))
                if theirs is not None and theirs < mine:
                    yield f"Smallest error in {dtype}: {method}, {arm}, {theirs:.0e}."


def _price(r: Results) -> Iterator[str]:
    forward, traced, backward, seconds = costs(r, OURS)
    cheaper = {m: costs(r, m) for m in r.peers}
    fewer = [f"{m} {c[0]:g}" for m, c in cheaper.items() if c[0] < forward + traced]
    if fewer:
        yield (
            f"Fewer forward passes in one look: {', '.join(fewer)}; bpttcheck {forward:g} and "
            f"{traced:g} in JAX."
        )
    faster = [f"{m} {milliseconds(c[3])}" for m, c in cheaper.items() if c[3] < seconds]
    if faster:
        yield f"Faster in one look: {', '.join(faster)}; bpttcheck {milliseconds(seconds)}."
    less = [f"{m} {c[2]:g}" for m, c in cheaper.items() if c[2] < backward]
    if less:
        yield f"Fewer backward passes: {', '.join(less)}; bpttcheck {backward:g}."
    mine = characters(r, OURS)
    shorter = [
        f"{m} {characters(r, m):,.0f} (names the block at fault in {named(r, m).share:.0%})"
        for m in r.peers if 0 < characters(r, m) < mine
    ]  # fmt: skip
    if shorter:
        yield (
            f"Shorter messages, median characters: {', '.join(shorter)}; bpttcheck {mine:,.0f} "
            f"({named(r, OURS).share:.0%})."
        )
    better = [m for m in r.peers if named(r, m).share > named(r, OURS).share]
    if better:
        yield f"Names the block at fault more often: {', '.join(better)}."
