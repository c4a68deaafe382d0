"""The backward loop reads what another step recorded, or another step's cotangent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bpttcheck.mutants._stepwise import Turn, reached_by_turn
from bpttcheck.mutants.base import LIVELY, Anatomy, Loop, Mutant, Pulled, stepped


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """An index off by one in the records and in ``d_ys``; one step's used for all."""
    turns: dict[str, Turn] = {
        "step t reads the record of t - 1": _record_before,
        "step t reads the record of t + 1": _record_after,
        "every step reads the record of t = 0": _record_first,
        "step t reads d_ys[t + 1]": _d_y_after,
        "every step reads d_ys[T - 1]": _d_y_last,
    }
    for name, turn in turns.items():
        if reached_by_turn(parts, turn):
            yield Mutant(
                name, "records", name, stepped(turn), "layer", regimes=LIVELY, least_T=2
            )  # fmt: skip


def _record_before(loop: Loop, t: int, d_state: Any) -> Pulled:
    return loop.pull(t, d_state, of=max(t - 1, 0))


def _record_after(loop: Loop, t: int, d_state: Any) -> Pulled:
    return loop.pull(t, d_state, of=min(t + 1, loop.T - 1))


def _record_first(loop: Loop, t: int, d_state: Any) -> Pulled:
    return loop.pull(t, d_state, of=0)


def _d_y_after(loop: Loop, t: int, d_state: Any) -> Pulled:
    # The last step keeps its own: a single step is right.
    return loop.pull(t, d_state, d_y=loop.d_ys[min(t + 1, loop.T - 1)])


def _d_y_last(loop: Loop, t: int, d_state: Any) -> Pulled:
    return loop.pull(t, d_state, d_y=loop.d_ys[-1])
