"""The smallest error of one block that a checker catches, by bisection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from benchmarks.ladder.climb import Planted
from benchmarks.power.bench import Bench, checkers, name_of
from benchmarks.power.peers import Peer, Settings
from benchmarks.power.records import Reach

RUNGS = tuple(float(f"{m}e-{k}") for k in range(15, 0, -1) for m in (1, 2, 5))
"""The relative errors, smallest first: 1e-15 to 0.5, three a decade."""


def lowest(caught: Callable[[float], bool], rungs: Sequence[float] = RUNGS) -> float | None:
    """The lowest rung caught, if whatever is above a rung that is caught is caught, too."""
    low, high = 0, len(rungs)
    while low < high:
        middle = (low + high) // 2
        if caught(rungs[middle]):
            high = middle
        else:
            low = middle + 1
    return rungs[low] if low < len(rungs) else None


def smallest_caught(
    bench: Bench, peer: Peer | None, dtype: str, index: int, settings: Settings | None = None
) -> Reach:
    """At one problem, of one block: the blocks take turns from problem to problem."""
    problem = bench.problem("ordinary", dtype, index)
    gradients = bench.run.code.run("sequence", problem).gradients
    blocks = [block for block, value in gradients.items() if value.any()]
    block = blocks[index % len(blocks)]
    layer = Planted(bench.cell, block)

    def caught(d: float) -> bool:
        layer.d = d
        return bench.ask(peer, layer, problem, settings=settings).flagged

    known = (name_of(peer), bench.name, dtype, block)
    arm = "best settings" if settings else "defaults"
    if caught(0.0):
        return Reach(arm, *known, None, alarm=True)
    return Reach(arm, *known, lowest(caught), alarm=False)


def climb(
    bench: Bench, peers: Sequence[Peer], best: dict[tuple[str, str], Settings | None],
    cases: int, dtypes: Sequence[str],
) -> Iterator[Reach]:  # fmt: skip
    """Every checker at ``cases`` problems; the peers also with their best settings."""
    for dtype in dtypes:
        for index in range(cases):
            for peer in checkers(peers):
                yield smallest_caught(bench, peer, dtype, index)
                settings = best.get((peer.name, dtype)) if peer else None
                if peer and settings:
                    yield smallest_caught(bench, peer, dtype, index, settings)


def at_power(reaches: Sequence[Reach], power: float = 0.9) -> float | None:
    """The smallest error from which on at least this share of cases is caught.

    Cases with a false alarm count as not caught: a checker that flags everything tells nothing.
    """
    for d in RUNGS:
        if reaches and share(reaches, d) >= power:
            return d
    return None


def share(reaches: Sequence[Reach], d: float) -> float:
    """The share of cases in which an error ``d`` is caught."""
    hits = sum(r.smallest is not None and r.smallest <= d for r in reaches)
    return hits / len(reaches) if reaches else 0.0
