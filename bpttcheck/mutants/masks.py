"""The forward pass heeds the mask and the backward pass does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bpttcheck.mutants._stepwise import reached_by_turn, rows_only, summed
from bpttcheck.mutants.base import LIVELY, Anatomy, Loop, Mutant, Pulled, stepped, zero_state, zeros


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """Masked steps taken for real ones, wholly or in part; none where there are no masks."""
    if not parts.masks:
        return
    for name, sentence, turn in (
        ("mask ignored", "masked steps are differentiated as if they were real", _ignored),
        ("d_ys of masked steps used", "the cotangent of a masked output counts", _d_ys_used),
        ("masked steps not stopped",
         "masked steps send what they carry into parameters and inputs", _not_stopped),
        ("masked steps lose the carry", "a masked step sets d_state to zero", _carry_lost),
    ):  # fmt: skip
        if reached_by_turn(parts, turn, masked=True):
            yield Mutant(
                name, "masks", sentence, stepped(turn), "layer", (), "mask-ignored",
                regimes=LIVELY, needs_mask=True,
            )  # fmt: skip


def _ignored(loop: Loop, t: int, d_state: Any) -> Pulled:
    return loop.pull(t, d_state, masked=loop.padded(t) is None)


def _d_ys_used(loop: Loop, t: int, d_state: Any) -> Pulled:
    right, padded = loop.pull(t, d_state), loop.padded(t)
    if padded is None:
        return right
    d_y = rows_only(loop.d_ys[t], padded)
    return summed(right, loop.pull(t, zero_state(d_state), d_y=d_y, masked=False))


def _not_stopped(loop: Loop, t: int, d_state: Any) -> Pulled:
    right, padded = loop.pull(t, d_state), loop.padded(t)
    if padded is None:
        return right
    carried = rows_only(d_state, padded)
    more = loop.pull(t, carried, d_y=zeros(loop.d_ys[t]), masked=False)
    return replace(summed(right, more), d_state=right.d_state)


def _carry_lost(loop: Loop, t: int, d_state: Any) -> Pulled:
    right, padded = loop.pull(t, d_state), loop.padded(t)
    if padded is None:
        return right
    return replace(right, d_state=rows_only(right.d_state, ~padded))
