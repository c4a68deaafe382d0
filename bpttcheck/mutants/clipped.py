"""A clip was left on: the backward pass is no longer linear in the cotangents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.mutants.base import (
    Anatomy,
    Call,
    Change,
    Mutant,
    Pulled,
    change_blocks,
    in_layer,
    planted,
    times,
)

BOUNDS = (5.0, 1.0)


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """Every block, the parameters' or the carry clipped entry by entry, or by their joint norm.

    Of a cell each step is clipped; the sum over the steps of a whole sequence is, too.
    """
    groups = {"everything": parts.blocks, "d_params": parts.param_blocks,
              "d_state": parts.state_blocks}  # fmt: skip
    for name, blocks in groups.items():
        if not set(blocks) & set(parts.nonzero):
            continue
        for bound in BOUNDS:
            yield _mutant(parts, f"{name} clipped at {bound:g}", _clip(blocks, bound), blocks)
    if not set(parts.param_blocks) & set(parts.nonzero):
        return
    blocks = parts.param_blocks
    yield _mutant(parts, "joint norm of d_params clipped at 1", _clip_norm(blocks, 1.0), blocks)
    if parts.kind == "layer":
        return
    for name, change in (
        ("d_params of the sequence clipped at 5", _clip(blocks, 5.0)),
        ("joint norm of d_params of the sequence clipped at 1", _clip_norm(blocks, 1.0)),
    ):
        yield Mutant(
            name, "clipped", f"{name}, once the loop is over", in_layer(change), "layer", blocks,
            "clipped", regimes=("large_cotangents",),
        )  # fmt: skip


def _mutant(parts: Anatomy, name: str, change: Change, blocks: tuple[str, ...]) -> Mutant:
    return Mutant(
        name, "clipped", name, planted(change), parts.kind, blocks, "clipped",
        regimes=("large_cotangents",),
    )  # fmt: skip


def _clip(blocks: tuple[str, ...], bound: float) -> Change:
    def clip(gradient: Array) -> Array:
        return np.clip(gradient, -bound, bound)

    def change(call: Call) -> Pulled:
        return change_blocks(call.right(), blocks, clip)

    return change


def _clip_norm(blocks: tuple[str, ...], bound: float) -> Change:
    def change(call: Call) -> Pulled:
        right = call.right()
        named = right.blocks()
        # In float64: the square of a float32 gradient may overflow.
        norm = np.sqrt(sum(float(np.sum(np.square(named[b], dtype=np.float64))) for b in blocks))
        return change_blocks(right, blocks, times(float(bound / norm))) if norm > bound else right

    return change
