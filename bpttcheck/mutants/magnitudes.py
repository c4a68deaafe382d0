"""A clip far out and a flush far down: no gradient of ordinary size shows them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.mutants.base import (
    Anatomy,
    Call,
    Change,
    Edit,
    Mutant,
    Pulled,
    change_blocks,
    planted,
)

FAR = 1e9
"""Entries beyond are clipped."""

NEAR = 1e-30
"""Entries below are set to zero."""


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """``d_params`` and ``d_state`` clipped at 1e9; every gradient below 1e-30 flushed to zero."""
    for what, group in (("d_params", parts.param_blocks), ("d_state", parts.state_blocks)):
        blocks = tuple(block for block in group if block in parts.nonzero)
        if blocks:
            yield Mutant(
                f"{what} clipped at 1e9", "magnitudes",
                f"entries of {what} beyond {FAR:g} are clipped", planted(_each(blocks, _clip)),
                parts.kind, blocks, "clipped", ("nonlinear",), values="huge",
            )  # fmt: skip
    blocks = parts.nonzero
    yield Mutant(
        "gradients flushed below 1e-30", "magnitudes", f"entries below {NEAR:g} are set to zero",
        planted(_each(blocks, _flush)), parts.kind, blocks, values="tiny",
    )  # fmt: skip


def _clip(gradient: Array) -> Array:
    return np.clip(gradient, -FAR, FAR)


def _flush(gradient: Array) -> Array:
    return np.where(np.abs(gradient) < NEAR, np.zeros_like(gradient), gradient)


def _each(blocks: tuple[str, ...], how: Edit) -> Change:
    def change(call: Call) -> Pulled:
        return change_blocks(call.right(), blocks, how)

    return change
