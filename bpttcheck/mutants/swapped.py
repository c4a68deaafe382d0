"""The gradients of two gates, or of two parameters of one shape, are exchanged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.mutants.base import Anatomy, Call, Change, Mutant, Pulled, change_block, planted


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """The first two gates of each stacked parameter; each pair of parameters of one shape.

    Two parameters whose gradients are equal anyway give no mutant.
    """
    for key in parts.params:
        gates = parts.gates(key)
        if gates is None:
            continue
        change = _gates(key, *gates)
        sizes = parts.where_filled(f"d_params[{key!r}]")
        if sizes is not None and parts.reached(change):
            block = f"d_params[{key!r}]"
            yield Mutant(
                f"gates 0 and 1 of {block} swapped", "swapped",
                f"gates 0 and 1 of {block} are exchanged", planted(change), parts.kind,
                (block,), "swapped-gates", sizes=sizes,
            )  # fmt: skip
    for one, other in combinations(parts.params, 2):
        sizes = parts.where(
            lambda _, shapes, a=one, b=other: shapes[a] == shapes[b] and 0 not in shapes[a]
        )
        change = _parameters(one, other)
        if sizes is None or not parts.reached(change, sizes[0] if sizes else None):
            continue
        blocks = f"d_params[{one!r}]", f"d_params[{other!r}]"
        yield Mutant(
            f"{blocks[0]} and {blocks[1]} swapped", "swapped",
            f"{blocks[0]} and {blocks[1]} are exchanged where they have one shape",
            planted(change), parts.kind, blocks, "swapped-gates", sizes=sizes,
        )  # fmt: skip


def _gates(key: str, axis: int, m: int) -> Change:
    def swap(gradient: Array) -> Array:
        first, second, *rest = np.split(gradient, m, axis)
        return np.concatenate([second, first, *rest], axis)

    def change(call: Call) -> Pulled:
        return change_block(call.right(), f"d_params[{key!r}]", swap)

    return change


def _parameters(one: str, other: str) -> Change:
    def change(call: Call) -> Pulled:
        right = call.right()
        a, b = right.d_params[one], right.d_params[other]
        if np.shape(a) != np.shape(b):
            return right
        return replace(right, d_params={**right.d_params, one: b, other: a})

    return change
