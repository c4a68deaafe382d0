"""The backward pass is wrong under one condition only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bpttcheck.mutants.base import (
    Anatomy,
    Call,
    Change,
    Mutant,
    Pulled,
    Size,
    change_blocks,
    planted,
    times,
    zeros,
)

SATURATED = 8.0
"""A parameter beyond this drives most units to where their derivative is nearly zero."""

LARGE = 50.0
"""A cotangent beyond this is no ordinary one."""


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """Wrong where units saturate, for large cotangents, and at one size; in ``d_params`` and back.

    A size is told from the shapes of the parameters: sizes of one shape give no mutant.
    """
    for name, blocks in (("d_params", parts.param_blocks), ("d_state", parts.state_blocks)):
        if not set(blocks) & set(parts.nonzero):
            continue
        if parts.params:
            yield Mutant(
                f"{name} doubled where a parameter exceeds 8", "conditional",
                f"{name} is doubled where the largest parameter exceeds {SATURATED:g}",
                planted(_if(_saturates, blocks, 2.0)), parts.kind, blocks, "saturated",
                regimes=("saturated",),
            )  # fmt: skip
        if parts.reached(lambda call: call.pull(call.d_state, zeros(call.d_y))):
            yield Mutant(
                f"{name} halved where d_y exceeds 50", "conditional",
                f"{name} is halved where the largest entry of d_y exceeds {LARGE:g}",
                planted(_if(_is_large, blocks, 0.5)), parts.kind, blocks, "nonlinear",
                regimes=("large_cotangents",),
            )  # fmt: skip
        for what, sizes in _single_sizes(parts):
            yield Mutant(
                f"{name} doubled where {what}", "conditional", f"{name} is doubled where {what}",
                planted(_if(_has_size(parts, sizes), blocks, 2.0)), parts.kind, blocks,
                "one-size", sizes=sizes,
            )  # fmt: skip


def _if(test: Callable[[Call], bool], blocks: tuple[str, ...], factor: float) -> Change:
    def change(call: Call) -> Pulled:
        right = call.right()
        return change_blocks(right, blocks, times(factor)) if test(call) else right

    return change


def _saturates(call: Call) -> bool:
    return any(np.abs(value).max(initial=0.0) > SATURATED for value in call.params.values())


def _is_large(call: Call) -> bool:
    return bool(np.abs(call.d_y).max(initial=0.0) > LARGE)


def _single_sizes(parts: Anatomy) -> Iterator[tuple[str, tuple[Size, ...]]]:
    """``n_hidden`` is 5, or the largest that is allowed; ``n_in`` equals ``n_hidden``."""
    widths = {H for _, H in parts.grid}
    width = 5 if 5 in widths else max(widths)
    for what, sizes in (
        (f"n_hidden is {width}", tuple(size for size in parts.grid if size[1] == width)),
        ("n_in equals n_hidden", tuple(size for size in parts.grid if size[0] == size[1])),
    ):
        if sizes and _tells(parts, sizes):
            yield what, sizes


def _tells(parts: Anatomy, sizes: tuple[Size, ...]) -> bool:
    """True if the shapes tell these sizes from the others, and there are others."""
    others = [shapes for size, shapes in parts.grid.items() if size not in sizes]
    return bool(others) and all(parts.grid[size] not in others for size in sizes)


def _has_size(parts: Anatomy, sizes: tuple[Size, ...]) -> Callable[[Call], bool]:
    wanted: list[Any] = [parts.grid[size] for size in sizes]

    def test(call: Call) -> bool:
        return {key: np.shape(value) for key, value in call.params.items()} in wanted

    return test
