"""The backward loop stops early, or loses what it carries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bpttcheck.mutants._stepwise import Turn
from bpttcheck.mutants.base import LIVELY, Anatomy, Loop, Mutant, Pulled, stepped, zero_state

STEPS = (1, 2, 4, 10, 16, 35, 70, 200)
WINDOWS = (4, 16)
LONGEST_ORDINARY = 12
"""A sequence of an ordinary problem has at most so many steps."""


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """Only the last ``k`` steps; no gradient across the borders of windows; no carry at all.

    A target that sends nothing back in time has no carry to lose.
    """
    for k in STEPS:
        steps = "step" if k == 1 else f"{k} steps"
        yield _mutant(
            f"only the last {steps}", f"the backward loop stops after {steps}", _last(k), k
        )
    if not parts.recurrent:
        return
    for k in WINDOWS:
        sentence = f"d_state is set to zero wherever t is a multiple of {k}"
        yield _mutant(f"windows of {k} steps", sentence, _windows(k), k)
    yield _mutant("carry lost", "d_state is not carried from step to step", _windows(1), 1)


def _mutant(name: str, sentence: str, turn: Turn, k: int) -> Mutant:
    regimes = LIVELY if k < LONGEST_ORDINARY else ("long",)
    return Mutant(
        name, "truncated", sentence, stepped(turn), "layer", (), "truncated", regimes=regimes,
        least_T=k + 1,
    )  # fmt: skip


def _last(k: int) -> Turn:
    def turn(loop: Loop, t: int, d_state: Any) -> Pulled:
        return loop.pull(t, d_state) if t >= loop.T - k else loop.nothing(d_state)

    return turn


def _windows(k: int) -> Turn:
    def turn(loop: Loop, t: int, d_state: Any) -> Pulled:
        found = loop.pull(t, d_state)
        # What comes out of step 0 is no carry, but the gradient of the initial state.
        border = t > 0 and t % k == 0
        return replace(found, d_state=zero_state(found.d_state)) if border else found

    return turn
