"""Right up to some size and wrong from there on: rows, units, inputs, steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Array
from bpttcheck.mutants._anatomy import GRID
from bpttcheck.mutants._call import rows_before
from bpttcheck.mutants._points import differ, draw_point
from bpttcheck.mutants.base import (
    LIVELY,
    Anatomy,
    Call,
    Change,
    Mutant,
    Pulled,
    in_layer,
    planted,
)

ROWS = (5, 9, 17, 33)
UNITS = (8, 17, 33, 65, 128)
INPUTS = (9, 33)
STEPS = (17, 65, 513)
MULTIPLES = (16, 32)
"""Where a block, a tile, a warp or a buffer of real code ends; and the multiples of it."""


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """Each size from which on something is lost; wide ones only where any size is allowed."""
    blocks = tuple(block for block in parts.param_blocks if block in parts.nonzero)
    for rows in ROWS if blocks else ():
        yield Mutant(
            f"rows from number {rows} on lost in d_params", "sizes",
            f"d_params counts the first {rows - 1} rows of the batch",
            planted(_first_rows(rows - 1)), parts.kind, blocks, regimes=LIVELY, least_B=rows,
        )  # fmt: skip
    for steps in STEPS if blocks else ():
        yield Mutant(
            f"outputs from number {steps} on lost in d_params", "sizes",
            f"d_params counts what the first {steps - 1} outputs send back",
            in_layer(_first_outputs(steps - 1)), "layer", blocks, regimes=LIVELY, least_T=steps,
        )  # fmt: skip
    for steps in MULTIPLES:
        yield Mutant(
            f"last d_x lost where T is a multiple of {steps}", "sizes",
            f"d_x of the last step is zero where T is a multiple of {steps}",
            in_layer(_last_input(steps)), "layer", ("d_x",), regimes=LIVELY, least_T=steps,
            every_T=steps,
        )  # fmt: skip
    for units in UNITS:
        change = _first_units(units - 1)
        found = _wrong_at(parts, change, (parts.n_in, units))
        if found and not parts.reached(change):
            yield Mutant(
                f"units from number {units} on lost in d_state", "sizes",
                f"d_state of all but the first {units - 1} units is zero", planted(change),
                parts.kind, found, regimes=LIVELY, least_H=units,
            )  # fmt: skip
    for inputs in INPUTS:
        change = _first_inputs(inputs - 1)
        if _wrong_at(parts, change, (inputs, parts.n_hidden)):
            yield Mutant(
                f"inputs from number {inputs} on lost in d_x", "sizes",
                f"d_x of all but the first {inputs - 1} inputs is zero", planted(change),
                parts.kind, ("d_x",), regimes=LIVELY, least_n_in=inputs,
            )  # fmt: skip


def _wrong_at(parts: Anatomy, change: Change, size: tuple[int, int]) -> tuple[str, ...]:
    """The blocks that are wrong at a size; none where the target does not take it."""
    if len(parts.grid) < len(GRID) and size not in parts.grid:
        return ()
    try:
        point = draw_point(parts.target, size, 0)
        found, right = change(point.call).blocks(), point.right.blocks()
    except Exception:  # a size that its init takes and its step does not
        return ()
    return tuple(block for block in parts.blocks if differ(found[block], right[block]))


def _first_rows(count: int) -> Change:
    def change(call: Call) -> Pulled:
        right = call.right()
        if call.rows <= count:
            return right
        return replace(
            right, d_params=call.pull(*rows_before(call.d_state, call.d_y, count)).d_params
        )

    return change


def _first_outputs(count: int) -> Change:
    def change(call: Call) -> Pulled:
        right = call.right()
        if len(call.d_y) <= count:
            return right
        d_y = call.d_y.copy()
        d_y[count:] = 0
        return replace(right, d_params=call.pull(call.d_state, d_y).d_params)

    return change


def _last_input(steps: int) -> Change:
    def change(call: Call) -> Pulled:
        right = call.right()
        T = len(call.d_y)
        if not T or T % steps:
            return right
        d_x = right.d_x.copy()
        d_x[-1] = 0
        return replace(right, d_x=d_x)

    return change


def _first_units(count: int) -> Change:
    def cut(leaf: Any) -> Array:
        if np.ndim(leaf) < 2 or np.shape(leaf)[-1] <= count:
            return leaf
        out = np.array(leaf)
        out[..., count:] = 0
        return out

    def change(call: Call) -> Pulled:
        right = call.right()
        return replace(right, d_state=trees.map_leaves(cut, right.d_state))

    return change


def _first_inputs(count: int) -> Change:
    def change(call: Call) -> Pulled:
        right = call.right()
        if right.d_x.shape[-1] <= count:
            return right
        d_x = right.d_x.copy()
        d_x[..., count:] = 0
        return replace(right, d_x=d_x)

    return change
