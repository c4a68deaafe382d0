"""One step's contribution is missing or counted twice, or the sum over time is a mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bpttcheck.mutants._stepwise import Turn, reached_by_turn
from bpttcheck.mutants.base import (
    LIVELY,
    Anatomy,
    Call,
    Loop,
    Mutant,
    Pulled,
    change_blocks,
    in_layer,
    stepped,
    times,
)

_WHICH = ((0, "t = 0"), (-1, "t = T-1"))
_HOW = ((0.0, "missing", "missing-term"), (2.0, "doubled", "doubled-term"))


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """The first and the last term, of the parameters and of the input; a mean over time."""
    for blocks, name in ((parts.param_blocks, "d_params"), (("d_x",), "d_x")):
        for t, when in _WHICH:
            for factor, verb, code in _HOW:
                turn = _term(t, blocks, factor)
                if reached_by_turn(parts, turn):
                    yield Mutant(
                        f"{when} {verb} in {name}", "terms",
                        f"the term {when} of {name} is {verb}", stepped(turn), "layer", blocks,
                        code, regimes=LIVELY, least_T=2, time_step=t,
                    )  # fmt: skip
    if parts.params:
        mean = in_layer(_mean(parts.param_blocks))
        yield Mutant(
            "mean over time", "terms", "d_params is divided by T", mean, "layer",
            parts.param_blocks, "time-reduction", least_T=2,
        )  # fmt: skip


def _term(which: int, blocks: tuple[str, ...], factor: float) -> Turn:
    def turn(loop: Loop, t: int, d_state: Any) -> Pulled:
        found = loop.pull(t, d_state)
        wrong = t == which % loop.T
        return change_blocks(found, blocks, times(factor)) if wrong else found

    return turn


def _mean(blocks: tuple[str, ...]):
    def change(call: Call) -> Pulled:
        T = len(call.d_y)
        # T = 0: nothing to divide.
        return change_blocks(call.right(), blocks, times(1.0 / max(T, 1)))

    return change
