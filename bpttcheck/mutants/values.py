"""Right for ordinary values and wrong for rare ones: of the inputs, and of the cotangents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Array
from bpttcheck.mutants._once import recording
from bpttcheck.mutants._points import differ
from bpttcheck.mutants.base import (
    VALUES,
    Anatomy,
    Call,
    Change,
    Mutant,
    Pulled,
    change_blocks,
    planted,
    times,
    zeros,
)


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """``d_params`` doubled under each condition; ``d_x`` where there are no parameters."""
    blocks = tuple(block for block in parts.param_blocks if block in parts.nonzero) or ("d_x",)
    what = "d_x" if blocks == ("d_x",) else "d_params"
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


def _shows(parts: Anatomy, change: Change, example: Callable[[Call], Call]) -> bool:
    """True if the change makes something wrong in a call that fulfils its condition."""
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


def _one_sign(call: Call) -> bool:
    return bool(call.d_y.size) and bool((call.d_y >= 0).all() and call.d_y.any())


def _no_d_y(call: Call) -> bool:
    return not call.d_y.any() and _any(call.d_state)


def _no_d_state(call: Call) -> bool:
    return bool(call.d_y.any()) and not _any(call.d_state)


def _one_output(call: Call) -> bool:
    live = np.count_nonzero(call.d_y.reshape(-1, call.d_y.shape[-1]), axis=0) > 0
    return call.d_y.shape[-1] > 1 and int(live.sum()) == 1 and not _any(call.d_state)


def _with(call: Call, d_state: Any, d_y: Array) -> Call:
    return Call(call.params, call.record, d_state, d_y, call.pull)


def _nothing(d_state: Any) -> Any:
    return trees.map_leaves(np.zeros_like, d_state)


def _first_output(d_y: Array) -> Array:
    out = zeros(d_y)
    out[..., 0] = d_y[..., 0]
    return out


_COTANGENTS: dict[str, tuple[Callable[[Call], bool], Callable[[Call], Call]]] = {
    "one_sign": (_one_sign, lambda call: _with(call, call.d_state, np.abs(call.d_y))),
    "no_d_y": (_no_d_y, lambda call: _with(call, call.d_state, zeros(call.d_y))),
    "no_d_state": (_no_d_state, lambda call: _with(call, _nothing(call.d_state), call.d_y)),
    "one_output": (
        _one_output, lambda call: _with(call, _nothing(call.d_state), _first_output(call.d_y))
    ),
}  # fmt: skip
"""For each condition: whether a call fulfils it, and a call that does."""


def _by_cotangent(test: Callable[[Call], bool], blocks: tuple[str, ...]) -> Change:
    def change(call: Call) -> Pulled:
        right = call.right()
        return change_blocks(right, blocks, times(2.0)) if test(call) else right

    return change


def _by_input(test: Callable[[Array], bool], blocks: tuple[str, ...]) -> Callable[[Any], Any]:
    """``plant``: a record remembers the inputs, which a backward pass is not given."""

    def read(kept: tuple[Any, Any], pull: Callable[[Any], Pulled]) -> Pulled:
        record, x = kept
        right = pull(record)
        return change_blocks(right, blocks, times(2.0)) if test(np.asarray(x)) else right

    return lambda target: recording(target, lambda record, x: (record, x), read)
