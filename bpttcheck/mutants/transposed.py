"""A matrix is transposed: its gradient, or the weight in the backward product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

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
    Size,
    change_block,
    planted,
)


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """For each matrix.

    Transposed where it is square, which a matrix of one entry does not show; transposed whatever
    its shape, which breaks the contract; gate by gate, if it is a stack of square ones; and the
    weight itself in ``d_state`` and in ``d_x``. No code is declared for a stack.
    """
    for key, shape in parts.params.items():
        if len(shape) != 2:
            continue
        block = f"d_params[{key!r}]"
        square = parts.where(lambda _, shapes, key=key: _is_square(shapes[key]))
        if square is not None:
            yield _gradient(parts, block, "transposed where it is square", _flipped, square)
            yield from _weight(parts, key, "", _flipped, square)
        oblong = parts.where(lambda _, shapes, key=key: len(set(shapes[key])) == 2)
        if oblong is not None:
            shown = parts.where(lambda _, shapes, key=key: max(shapes[key]) > 1)
            name = "transposed, its shape too"
            note = "a contract error where the matrix is not square"
            mutant = _gradient(parts, block, name, np.transpose, shown or ())
            yield replace(mutant, note=note)
        yield from _stack(parts, key, block)


def _stack(parts: Anatomy, key: str, block: str) -> Iterator[Mutant]:
    gates = parts.gates(key)
    if gates is None or gates[0] != 0:
        return
    m = gates[1]

    def each_gate(matrix: Array) -> Array:
        H = matrix.shape[1]
        if matrix.shape[0] != m * H:
            return matrix
        return np.concatenate([np.transpose(gate) for gate in np.split(matrix, m)])

    sizes = parts.where(lambda _, shapes: shapes[key][0] == m * shapes[key][1] > m)
    if sizes is not None:
        mutant = _gradient(parts, block, "transposed gate by gate", each_gate, sizes)
        yield replace(mutant, diagnosis="", also=("transposed",))
        for one in _weight(parts, key, " gate by gate", each_gate, sizes):
            yield replace(one, diagnosis="", also=("transposed",))


def _gradient(parts: Anatomy, block: str, what: str, how: Edit, sizes: tuple[Size, ...]) -> Mutant:
    def change(call: Call) -> Pulled:
        return change_block(call.right(), block, how)

    return Mutant(
        f"{block} {what}", "transposed", f"{block} is {what}", planted(change), parts.kind,
        (block,), "transposed", sizes=sizes,
    )  # fmt: skip


def _weight(
    parts: Anatomy, key: str, extent: str, how: Edit, sizes: tuple[Size, ...]
) -> Iterator[Mutant]:
    """The weight transposed in one backward product; none where that product does not have it."""
    shown = sizes[0] if sizes else None
    for outputs, name in ((parts.state_blocks, "d_state"), (("d_x",), "d_x")):
        change = _product(key, how, outputs)
        blocks = parts.reached(change, shown)
        if blocks:
            yield Mutant(
                f"{key} transposed{extent} in {name}", "transposed",
                f"the backward product of {name} has {key} transposed{extent}",
                planted(change), parts.kind, blocks, "transposed", regimes=LIVELY, sizes=sizes,
            )  # fmt: skip


def _product(key: str, how: Edit, outputs: tuple[str, ...]) -> Change:
    def change(call: Call) -> Pulled:
        right = call.right()
        flipped = {**call.params, key: how(call.params[key])}
        wrong = call.pull(call.d_state, call.d_y, flipped).blocks()
        for block in outputs:
            right = change_block(right, block, lambda _, block=block: wrong[block])
        return right

    return change


def _is_square(shape: tuple[int, ...]) -> bool:
    return shape[0] == shape[1] > 1


def _flipped(matrix: Array) -> Array:
    return np.transpose(matrix) if matrix.shape[0] == matrix.shape[1] else matrix
