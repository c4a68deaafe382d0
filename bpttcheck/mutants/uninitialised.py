"""A result starts as ``np.empty_like`` and a part of it is never written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.mutants.base import (
    LIVELY,
    Anatomy,
    Call,
    Change,
    Loop,
    Mutant,
    Pulled,
    change_block,
    planted,
    stepped,
)


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """The last entry of the input's and of a state's gradient; the inputs of masked steps."""
    for block in ("d_x", *parts.state_blocks[:1]):
        if block in parts.nonzero:
            yield Mutant(
                f"last entry of {block} never written", "uninitialised",
                f"the last entry of {block} is what the memory held", planted(_all_but_last(block)),
                parts.kind, (block,), regimes=LIVELY,
            )  # fmt: skip
    if parts.masks:
        yield Mutant(
            "d_x of masked steps never written", "uninitialised",
            "d_x of a masked step is what the memory held", stepped(_real_rows), "layer", ("d_x",),
            regimes=LIVELY, needs_mask=True,
        )  # fmt: skip


def _all_but_last(block: str) -> Change:
    def part(gradient: Array) -> Array:
        out = np.empty_like(gradient)
        # Written entry by entry: the array may have any strides.
        for index in list(np.ndindex(*gradient.shape))[:-1]:
            out[index] = gradient[index]
        return out

    def change(call: Call) -> Pulled:
        return change_block(call.right(), block, part)

    return change


def _real_rows(loop: Loop, t: int, d_state: Any) -> Pulled:
    found, padded = loop.pull(t, d_state), loop.padded(t)
    if padded is None:
        return found
    out = np.empty_like(found.d_x)
    out[~padded] = found.d_x[~padded]
    return replace(found, d_x=out)
