"""Gradients that are wrong only at rare values and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_X
from bpttcheck.contract import Array
from bpttcheck.mutants._anatomy import GRID
from bpttcheck.mutants._call import rows_before
from bpttcheck.mutants._once import recording
from bpttcheck.mutants._points import differ, draw_point
from bpttcheck.mutants.base import (
    ACTIVE_REGIMES,
    VALUES,
    Change,
    Edit,
    Mutant,
    Size,
    SubjectInfo,
    VjpCall,
    VjpResult,
    change_blocks,
    in_layer,
    planted,
    times,
    zeros,
)

SATURATED = 8.0
"""A parameter beyond this drives most units to where their derivative is nearly zero."""

LARGE = 50.0
"""A cotangent beyond this is no ordinary one."""


def conditional(parts: SubjectInfo) -> Iterator[Mutant]:
    """Wrong where units saturate, for large cotangents, and at one size; in ``d_params`` and back.

    A size is recognised by the shapes of the parameters: sizes with equal shapes give no mutant.
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


def _if(test: Callable[[VjpCall], bool], blocks: tuple[str, ...], factor: float) -> Change:
    def change(call: VjpCall) -> VjpResult:
        right = call.right()
        return change_blocks(right, blocks, times(factor)) if test(call) else right

    return change


def _saturates(call: VjpCall) -> bool:
    return any(np.abs(value).max(initial=0.0) > SATURATED for value in call.params.values())


def _is_large(call: VjpCall) -> bool:
    return bool(np.abs(call.d_y).max(initial=0.0) > LARGE)


def _single_sizes(parts: SubjectInfo) -> Iterator[tuple[str, tuple[Size, ...]]]:
    """``n_hidden`` is 5, or the largest that is allowed; ``n_in`` equals ``n_hidden``."""
    widths = {H for _, H in parts.grid}
    width = 5 if 5 in widths else max(widths)
    for what, sizes in (
        (f"n_hidden is {width}", tuple(size for size in parts.grid if size[1] == width)),
        ("n_in equals n_hidden", tuple(size for size in parts.grid if size[0] == size[1])),
    ):
        if sizes and _tells(parts, sizes):
            yield what, sizes


def _tells(parts: SubjectInfo, sizes: tuple[Size, ...]) -> bool:
    """True if the shapes distinguish these sizes from the others, and there are others."""
    others = [shapes for size, shapes in parts.grid.items() if size not in sizes]
    return bool(others) and all(parts.grid[size] not in others for size in sizes)


def _has_size(parts: SubjectInfo, sizes: tuple[Size, ...]) -> Callable[[VjpCall], bool]:
    wanted: list[Any] = [parts.grid[size] for size in sizes]

    def test(call: VjpCall) -> bool:
        return {key: np.shape(value) for key, value in call.params.items()} in wanted

    return test


ROWS = (5, 9, 17, 33)
UNITS = (8, 17, 33, 65, 128)
INPUTS = (9, 33)
STEPS = (17, 65, 513)
MULTIPLES = (16, 32)
"""The size of a block, a tile, a warp or a buffer in real code, and its multiples."""


def sizes(parts: SubjectInfo) -> Iterator[Mutant]:
    """Contributions lost from a size on; wide ones only where any size is allowed."""
    blocks = tuple(block for block in parts.param_blocks if block in parts.nonzero)
    for rows in ROWS if blocks else ():
        yield Mutant(
            f"rows from number {rows} on lost in d_params", "sizes",
            f"d_params counts the first {rows - 1} rows of the batch",
            planted(_first_rows(rows - 1)), parts.kind, blocks,
            regimes=ACTIVE_REGIMES, least_B=rows,
        )  # fmt: skip
    for steps in STEPS if blocks else ():
        yield Mutant(
            f"outputs from number {steps} on lost in d_params", "sizes",
            f"d_params counts what the first {steps - 1} outputs send back",
            in_layer(_first_outputs(steps - 1)), "layer", blocks,
            regimes=ACTIVE_REGIMES, least_T=steps,
        )  # fmt: skip
    for steps in MULTIPLES:
        yield Mutant(
            f"last d_x lost where T is a multiple of {steps}", "sizes",
            f"d_x of the last step is zero where T is a multiple of {steps}",
            in_layer(_last_input(steps)), "layer", (D_X,), regimes=ACTIVE_REGIMES, least_T=steps,
            every_T=steps,
        )  # fmt: skip
    for units in UNITS:
        change = _first_units(units - 1)
        found = _wrong_at(parts, change, (parts.n_in, units))
        if found and not parts.reached(change):
            yield Mutant(
                f"units from number {units} on lost in d_state", "sizes",
                f"d_state of all but the first {units - 1} units is zero", planted(change),
                parts.kind, found, regimes=ACTIVE_REGIMES, least_H=units,
            )  # fmt: skip
    for inputs in INPUTS:
        change = _first_inputs(inputs - 1)
        if _wrong_at(parts, change, (inputs, parts.n_hidden)):
            yield Mutant(
                f"inputs from number {inputs} on lost in d_x", "sizes",
                f"d_x of all but the first {inputs - 1} inputs is zero", planted(change),
                parts.kind, (D_X,), regimes=ACTIVE_REGIMES, least_n_in=inputs,
            )  # fmt: skip


def _wrong_at(parts: SubjectInfo, change: Change, size: tuple[int, int]) -> tuple[str, ...]:
    """The blocks that are wrong at a size; none where the target does not accept it."""
    if len(parts.grid) < len(GRID) and size not in parts.grid:
        return ()
    try:
        point = draw_point(parts.target, size, 0)
        found, right = change(point.call).blocks(), point.right.blocks()
    except Exception:  # a size that its init accepts and its step does not
        return ()
    return tuple(block for block in parts.blocks if differ(found[block], right[block]))


def _first_rows(count: int) -> Change:
    def change(call: VjpCall) -> VjpResult:
        right = call.right()
        if call.rows <= count:
            return right
        return replace(
            right, d_params=call.pull(*rows_before(call.d_state, call.d_y, count)).d_params
        )

    return change


def _first_outputs(count: int) -> Change:
    def change(call: VjpCall) -> VjpResult:
        right = call.right()
        if len(call.d_y) <= count:
            return right
        d_y = call.d_y.copy()
        d_y[count:] = 0
        return replace(right, d_params=call.pull(call.d_state, d_y).d_params)

    return change


def _last_input(steps: int) -> Change:
    def change(call: VjpCall) -> VjpResult:
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

    def change(call: VjpCall) -> VjpResult:
        right = call.right()
        return replace(right, d_state=trees.map_leaves(cut, right.d_state))

    return change


def _first_inputs(count: int) -> Change:
    def change(call: VjpCall) -> VjpResult:
        right = call.right()
        if right.d_x.shape[-1] <= count:
            return right
        d_x = right.d_x.copy()
        d_x[..., count:] = 0
        return replace(right, d_x=d_x)

    return change


def values(parts: SubjectInfo) -> Iterator[Mutant]:
    """``d_params`` doubled under each condition; ``d_x`` where there are no parameters."""
    blocks = tuple(block for block in parts.param_blocks if block in parts.nonzero) or (D_X,)
    what = "d_x" if blocks == (D_X,) else "d_params"
    for key, of_inputs in _INPUTS.items():
        yield Mutant(
            f"{what} doubled where {VALUES[key]}", "values",
            f"{what} is doubled where {VALUES[key]}", _by_input(of_inputs, blocks), parts.kind,
            blocks, least_B=2 if key == "equal_rows" else 1, values=key,
        )  # fmt: skip
    for key, (of_cotangents, example) in _COTANGENTS.items():
        change = _by_cotangent(of_cotangents, blocks)
        if key == "one_output" and parts.n_out < 2:
            continue
        if _shows(parts, change, example):
            yield Mutant(
                f"{what} doubled where {VALUES[key]}", "values",
                f"{what} is doubled where {VALUES[key]}", planted(change), parts.kind, blocks,
                values=key,
            )  # fmt: skip


def _shows(parts: SubjectInfo, change: Change, example: Callable[[VjpCall], VjpCall]) -> bool:
    """True if the change makes a block wrong in a call that meets its condition."""
    for point in parts.points():
        call = example(point.call)
        found, right = change(call).blocks(), call.right().blocks()
        if any(differ(found[block], right[block]) for block in parts.blocks):
            return True
    return False


def zero_row(x: Array) -> bool:
    """True if a row is zero."""
    return bool((x == 0).all(-1).any()) if x.size else False


def large(bound: float) -> Callable[[Array], bool]:
    """True if an entry exceeds ``bound``."""
    return lambda x: bool(np.abs(x).max(initial=0.0) > bound)


def one_hot(x: Array) -> bool:
    """True if every row is a token."""
    return bool(x.size) and bool(((x == 0) | (x == 1)).all() and (x.sum(-1) == 1).all())


def equal_rows(x: Array) -> bool:
    """True if two rows of a step are equal."""
    if x.ndim < 2 or x.shape[-2] < 2 or not x.size:
        return False
    steps = x.reshape(-1, *x.shape[-2:])
    return any(len(np.unique(step, axis=0)) < len(step) for step in steps)


_INPUTS: dict[str, Callable[[Array], bool]] = {
    "zero_row": zero_row,
    "large_x": large(5.0),
    "far_x": large(10.0),
    "one_hot": one_hot,
    "equal_rows": equal_rows,
}


def _any(d_state: Any) -> bool:
    return any(np.any(leaf) for leaf in trees.leaves(d_state))


def _one_sign(call: VjpCall) -> bool:
    return bool(call.d_y.size) and bool((call.d_y >= 0).all() and call.d_y.any())


def _no_d_y(call: VjpCall) -> bool:
    return not call.d_y.any() and _any(call.d_state)


def _no_d_state(call: VjpCall) -> bool:
    return bool(call.d_y.any()) and not _any(call.d_state)


def _one_output(call: VjpCall) -> bool:
    live = np.count_nonzero(call.d_y.reshape(-1, call.d_y.shape[-1]), axis=0) > 0
    return call.d_y.shape[-1] > 1 and int(live.sum()) == 1 and not _any(call.d_state)


def _with(call: VjpCall, d_state: Any, d_y: Array) -> VjpCall:
    return VjpCall(call.params, call.record, d_state, d_y, call.pull)


def _nothing(d_state: Any) -> Any:
    return trees.map_leaves(np.zeros_like, d_state)


def _first_output(d_y: Array) -> Array:
    out = zeros(d_y)
    out[..., 0] = d_y[..., 0]
    return out


_COTANGENTS: dict[str, tuple[Callable[[VjpCall], bool], Callable[[VjpCall], VjpCall]]] = {
    "one_sign": (_one_sign, lambda call: _with(call, call.d_state, np.abs(call.d_y))),
    "no_d_y": (_no_d_y, lambda call: _with(call, call.d_state, zeros(call.d_y))),
    "no_d_state": (_no_d_state, lambda call: _with(call, _nothing(call.d_state), call.d_y)),
    "one_output": (
        _one_output, lambda call: _with(call, _nothing(call.d_state), _first_output(call.d_y))
    ),
}  # fmt: skip
"""For each condition: whether a call meets it, and a call that does."""


def _by_cotangent(test: Callable[[VjpCall], bool], blocks: tuple[str, ...]) -> Change:
    def change(call: VjpCall) -> VjpResult:
        right = call.right()
        return change_blocks(right, blocks, times(2.0)) if test(call) else right

    return change


def _by_input(test: Callable[[Array], bool], blocks: tuple[str, ...]) -> Callable[[Any], Any]:
    """``plant``: the record keeps the inputs, which a backward pass does not receive."""

    def read(kept: tuple[Any, Any], pull: Callable[[Any], VjpResult]) -> VjpResult:
        record, x = kept
        right = pull(record)
        return change_blocks(right, blocks, times(2.0)) if test(np.asarray(x)) else right

    return lambda target: recording(target, lambda record, x: (record, x), read)


FAR = 1e9
"""Entries beyond are clipped."""

NEAR = 1e-30
"""Entries below are set to zero."""


def magnitudes(parts: SubjectInfo) -> Iterator[Mutant]:
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
    def change(call: VjpCall) -> VjpResult:
        return change_blocks(call.right(), blocks, how)

    return change
