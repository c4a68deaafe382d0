"""The sum over the rows of a batch is a mean or one row, or one row stands for all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.mutants._call import only_row
from bpttcheck.mutants.base import (
    Anatomy,
    Call,
    Change,
    Mutant,
    Pulled,
    change_block,
    change_blocks,
    planted,
    times,
)


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """A mean over the batch of all parameters and of each; its first row alone; a row repeated."""
    if parts.params:
        change = _mean(parts.param_blocks)
        yield _mutant(
            parts, "batch mean in d_params", "d_params is divided by B", change,
            parts.param_blocks, "batch-reduction",
        )  # fmt: skip
    for block in parts.param_blocks:
        mean, first = _mean((block,)), _first_row(block)
        sizes = parts.where_filled(block)
        if sizes is None:
            continue
        for name, sentence, change in (
            (f"batch mean in {block}", f"{block} is divided by B", mean),
            (f"first row only in {block}", f"{block} counts only row 0 of the batch", first),
        ):
            mutant = _mutant(parts, name, sentence, change, (block,), "batch-reduction")
            yield replace(mutant, sizes=sizes)
    for block in (*parts.state_blocks, "d_x"):
        change = _repeated(block, 1 if block == "d_x" and parts.kind == "layer" else 0)
        if parts.reached(change):
            yield _mutant(
                parts, f"row 0 of {block} repeated", f"every row of {block} is row 0", change,
                (block,), "broadcast-row",
            )  # fmt: skip


def _mutant(
    parts: Anatomy, name: str, sentence: str, change: Change, blocks: tuple[str, ...], code: str
) -> Mutant:
    return Mutant(
        name, "batch", sentence, planted(change), parts.kind, blocks, code, least_B=2
    )  # fmt: skip


def _mean(blocks: tuple[str, ...]) -> Change:
    def change(call: Call) -> Pulled:
        return change_blocks(call.right(), blocks, times(1.0 / max(call.rows, 1)))

    return change


def _first_row(block: str) -> Change:
    def change(call: Call) -> Pulled:
        right = call.right()
        if not call.rows:
            return right
        wrong = call.pull(*only_row(call.d_state, call.d_y, 0)).blocks()[block]
        return change_block(right, block, lambda _: wrong)

    return change


def _repeated(block: str, axis: int) -> Change:
    def repeat(gradient: Array) -> Array:
        if gradient.ndim <= axis or not gradient.shape[axis]:
            return gradient
        rows = np.zeros(gradient.shape[axis], int)
        return np.take(gradient, rows, axis)

    def change(call: Call) -> Pulled:
        return change_block(call.right(), block, repeat)

    return change
