"""The best settings of a peer: tuned on inputs that are not used again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.power.bench import Bench
from benchmarks.power.ladder import smallest_caught
from benchmarks.power.peers import Peer, Settings

TIGHTEST = {"float64": 1e-12, "float32": 1e-7}
LOOSEST = 3.0


@dataclass(frozen=True)
class Tuned:
    """The chosen settings of one peer in one dtype.

    Args:
        peer: its name.
        dtype: the dtype.
        settings: the choice; None: with none of the steps is the right code always accepted.
        sees: the median of the smallest errors that it catches while tuned.
    """

    peer: str
    dtype: str
    settings: Settings | None
    sees: float | None


def tune(peer: Peer, dtype: str, benches: Sequence[Bench], cases: int) -> Tuned:
    """For each step the smallest tolerance without a false alarm; the sharpest of these pairs.

    Args:
        peer: the peer.
        dtype: the dtype.
        benches: the cells, with seeds of their own.
        cases: problems of right code, spread over the cells.
    """
    best, sees = None, float("inf")
    for eps in peer.steps if dtype == "float64" else peer.steps32:
        settings = _tightest(peer, eps, dtype, benches, cases)
        if settings is None:
            continue
        found = sorted(_reach(peer, settings, dtype, bench) for bench in benches)
        middle = found[len(found) // 2]
        if best is None or middle < sees:
            best, sees = settings, middle
    return Tuned(peer.name, dtype, best, sees if best else None)


def _tightest(
    peer: Peer, eps: float, dtype: str, benches: Sequence[Bench], cases: int
) -> Settings | None:
    settings = Settings(eps, TIGHTEST[dtype])
    for index in range(cases):
        bench = benches[index % len(benches)]
        problem = bench.problem("ordinary", dtype, index)
        while bench.ask(peer, bench.cell, problem, settings=settings).flagged:
            settings = Settings(eps, _looser(settings.tol))
            if settings.tol > LOOSEST:
                return None
    return settings


def _looser(tol: float) -> float:
    """The next of 1, 3, 10, 30, ..."""
    digits, exponent = f"{tol:.0e}".split("e")
    return float(f"3e{exponent}") if digits == "1" else float(f"1e{int(exponent) + 1}")


def _reach(peer: Peer, settings: Settings, dtype: str, bench: Bench) -> float:
    found = smallest_caught(bench, peer, dtype, 0, settings)
    return 1.0 if found.smallest is None else found.smallest
