"""Part of the backward pass is computed in a shorter format than the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Array, is_float
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

_FORMATS = (
    ("float32", np.float32, ("float64",), 2.0**-26),
    ("float16", np.float16, ("float64", "float32"), 2.0**-13),
)
"""The format, where it shows, and the relative error that most entries exceed."""


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """The results, each result, or the cotangents rounded to float32 and to float16."""
    for name, short, dtypes, error in _FORMATS:
        rounded = _rounded(short)
        blocks = parts.nonzero
        groups = [("every gradient", blocks, ())]
        groups += [(block, (block,), parts.where_filled(block) or ()) for block in blocks]
        for what, blocks, sizes in groups:
            yield Mutant(
                f"{what} through {name}", "precision", f"{what} is rounded to {name}",
                planted(_results(blocks, rounded)), parts.kind, blocks, "precision", ("range",),
                dtypes, sizes=sizes, error=error,
            )  # fmt: skip
        yield Mutant(
            f"cotangents through {name}", "precision", f"d_state and d_y are rounded to {name}",
            planted(_cotangents(rounded)), parts.kind, (), "precision", ("range",), dtypes,
            error=error,
        )  # fmt: skip


def _rounded(short: Any) -> Edit:
    def how(array: Array) -> Array:
        if not is_float(array):
            return array
        # A cotangent of 1e6 overflows float16: that is the bug, not worth a warning.
        with np.errstate(all="ignore"):
            return array.astype(short).astype(array.dtype)

    return how


def _results(blocks: tuple[str, ...], how: Edit) -> Change:
    def change(call: Call) -> Pulled:
        return change_blocks(call.right(), blocks, how)

    return change


def _cotangents(how: Edit) -> Change:
    def change(call: Call) -> Pulled:
        return call.pull(trees.map_leaves(how, call.d_state), how(call.d_y))

    return change
