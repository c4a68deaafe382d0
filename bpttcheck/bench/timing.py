"""Timing in interleaved rounds: every form once in a round, in an order drawn again each time."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

Action = Callable[[], object]
Clock = Callable[[], float]

# A sample lasts at least this long, so that the clock and the call of a closure do not count.
SHORTEST = 5e-3
_MOST_CALLS = 1000
# Where one round of all actions is shorter than this, there are so many times as many rounds.
SHORT_ROUND, MORE = 0.15, 5
# An action that would take longer than this in all takes part in fewer rounds.
_BUDGET, _FEWEST = 8.0, 3


@dataclass(frozen=True)
class Samples:
    """Seconds of one call in each round, and how many calls a sample is the mean of."""

    seconds: list[float]
    calls: int


def rounds(
    actions: Mapping[str, Action],
    count: int,
    fewer: Mapping[str, int] | None = None,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, Samples]:
    """Time every action ``count`` times or more, one after another in each round.

    Each is called a few times before. The garbage collector is off while anything is timed. What is
    very slow takes part in the first rounds only. Where a round takes less than ``SHORT_ROUND``
    seconds by those first calls, there are ``MORE`` times as many: how many is settled before the
    first round, whatever the rounds will say.

    Args:
        actions: what to time; each returns when its work is done.
        count: the rounds, at the least.
        fewer: actions that take part in the first rounds only, and in how many.
        seed: of the orders.
        clock: gives seconds.
    """
    fewer = fewer or {}
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    rng = np.random.default_rng(seed)
    with no_garbage_collection():
        took = {name: _warm(action, clock) for name, action in actions.items()}
        calls = {name: _calls(one) for name, one in took.items()}
        whole = sum(calls[name] * took[name] for name in actions if name not in fewer)
        number_of_rounds = MORE * count if whole < SHORT_ROUND else count
        turns = {
            name: max(
                min(_FEWEST, count), min(fewer.get(name, number_of_rounds), int(_BUDGET / one))
            )
            for name, one in took.items()
        }
        for number in range(number_of_rounds):
            taking_part = [name for name in actions if number < turns[name]]
            for index in rng.permutation(len(taking_part)):
                name = taking_part[index]
                seconds[name].append(_sample(actions[name], calls[name], clock))
    return {name: Samples(seconds[name], calls[name]) for name in actions}


def once(action: Action, clock: Clock = time.perf_counter) -> float:
    """Seconds of one call, the very first one where it matters."""
    with no_garbage_collection():
        return _sample(action, 1, clock)


@contextmanager
def no_garbage_collection() -> Generator[None]:
    """Collect once, then not until the end."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _warm(action: Action, clock: Clock) -> float:
    """Seconds of one warm call: the best of three, of two where that is long enough."""
    took = min(_sample(action, 1, clock) for _ in range(2))
    return max(took if took >= SHORTEST else min(took, _sample(action, 1, clock)), 1e-9)


def _calls(took: float) -> int:
    """How many calls make a sample long enough."""
    return min(math.ceil(SHORTEST / took), _MOST_CALLS)


def _sample(action: Action, calls: int, clock: Clock) -> float:
    start = clock()
    for _ in range(calls):
        action()
    return (clock() - start) / calls
