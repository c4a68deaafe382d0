"""The parts of a run, each of which one process does for one cell."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import jax

from benchmarks.ladder.climb import climb_checks
from benchmarks.power import arms, ladder, words
from benchmarks.power.arms import Amounts, Best
from benchmarks.power.bench import CELLS, DTYPES, FAMILIES, Bench
from benchmarks.power.peers import PEERS, Peer
from benchmarks.power.peers.jax_check_grads import forget
from benchmarks.power.tuning import Tuned, tune
from bpttcheck import mutants
from bpttcheck.judge.run import SEQUENCE

EXAMPLES = 100
"""Cases of a check on the ladder of whole checks."""

Part = Callable[[Bench, Sequence[Peer], Best, Amounts], list[Any]]


def _equal(bench: Bench, peers: Sequence[Peer], best: Best, amounts: Amounts) -> list[Any]:
    return list(arms.equal(bench, peers, amounts))


def _identical(bench: Bench, peers: Sequence[Peer], best: Best, amounts: Amounts) -> list[Any]:
    return list(arms.identical(bench, peers, best, amounts))


def _regimes(bench: Bench, peers: Sequence[Peer], best: Best, amounts: Amounts) -> list[Any]:
    return list(arms.regimes(bench, peers, amounts))


def _ladder(bench: Bench, peers: Sequence[Peer], best: Best, amounts: Amounts) -> list[Any]:
    return list(ladder.climb(bench, peers, best, amounts.climbs, DTYPES))


def _checks(bench: Bench, peers: Sequence[Peer], best: Best, amounts: Amounts) -> list[Any]:
    """Whole checks of this package; built-in cells alone."""
    if bench.name == CELLS[-1]:
        return []
    return [
        one
        for dtype in DTYPES
        for one in climb_checks(bench.name, SEQUENCE, dtype, EXAMPLES, amounts.checks)
    ]


def _words(bench: Bench, peers: Sequence[Peer], best: Best, amounts: Amounts) -> list[Any]:
    return list(words.words(bench, peers, amounts))


PARTS: dict[str, Part] = {
    "equal evaluations": _equal,
    "identical inputs": _identical,
    "messages": _words,
    "regimes": _regimes,
    "ladder": _ladder,
    "ladder of checks": _checks,
}
"""The longest first, so that the processes end together."""


def measure(
    part: str, cell: str, seed: int, names: Sequence[str], best: Best, amounts: Amounts
) -> list[Any]:
    """One part for one cell: its records."""
    try:
        return PARTS[part](Bench(cell, seed), _peers(names), best, amounts)
    finally:
        _release()


def tune_one(name: str, dtype: str, cells: Sequence[str], seed: int, cases: int) -> Tuned:
    """The best settings of one peer."""
    try:
        return tune(_peers([name])[0], dtype, [Bench(cell, seed) for cell in cells], cases)
    finally:
        _release()


def catalogue_size(cell: str) -> int:
    """How many mutants the catalogue has for a cell."""
    return len(mutants.catalogue(Bench(cell, 0).cell, families=FAMILIES))


def _peers(names: Sequence[str]) -> list[Peer]:
    return [peer for peer in PEERS if peer.name in names]


def _release() -> None:
    """Drop the compiled programs: a process can hold only so many of them."""
    forget()
    gc.collect()
    jax.clear_caches()
