"""One entry of a block is zero, or rows of a parameter's gradient repeat another row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.mutants.base import (
    LIVELY,
    Anatomy,
    Call,
    Change,
    Edit,
    Mutant,
    Pulled,
    change_block,
    planted,
)


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """The first and the last entry of each block zero; the first row of a parameter repeated.

    A block of a single entry is all zero then.
    """
    for block in parts.blocks:
        for which, name in ((0, "first"), (-1, "last")):
            change = _changed(block, _zeroed(which))
            sizes = parts.where_filled(block)
            if sizes is not None and parts.reached(change):
                yield Mutant(
                    f"{name} entry of {block} zeroed", "entry",
                    f"the {name} entry of {block} is zero", planted(change), parts.kind, (block,),
                    "zeroed-entry", ("missing-path",), regimes=LIVELY, sizes=sizes,
                )  # fmt: skip
    for key, block in zip(parts.params, parts.param_blocks, strict=True):
        sizes = parts.where(
            lambda _, shapes, key=key: shapes[key][:1] > (1,) and 0 not in shapes[key]
        )
        if sizes is None:
            continue
        for name, sentence, how in (
            ("row 1 is row 0", "row 1 is row 0", _copied),
            ("every row is row 0", "every row is row 0", _broadcast),
        ):
            change = _changed(block, how)
            if parts.reached(change, sizes[0] if sizes else None):
                yield Mutant(
                    f"{block}: {name}", "entry", f"of {block}, {sentence}", planted(change),
                    parts.kind, (block,), "broadcast-row", regimes=LIVELY, sizes=sizes,
                )  # fmt: skip


def _changed(block: str, how: Edit) -> Change:
    def change(call: Call) -> Pulled:
        return change_block(call.right(), block, how)

    return change


def _zeroed(which: int) -> Edit:
    def how(gradient: Array) -> Array:
        out = np.array(gradient)
        if out.size:
            out.flat[which] = 0
        return out

    return how


def _copied(gradient: Array) -> Array:
    out = np.array(gradient)
    if out.ndim and len(out) > 1:
        out[1] = out[0]
    return out


def _broadcast(gradient: Array) -> Array:
    out = np.array(gradient)
    if out.ndim and len(out):
        out[:] = out[0].copy()
    return out
