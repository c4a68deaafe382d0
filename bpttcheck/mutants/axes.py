"""Wrong axes: what is transposed, swapped, averaged over the batch, or right for one layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_X, d_param
from bpttcheck.contract import Array
from bpttcheck.mutants._call import only_row
from bpttcheck.mutants.base import (
    ACTIVE_REGIMES,
    Change,
    Edit,
    Mutant,
    Size,
    SubjectInfo,
    VjpCall,
    VjpResult,
    change_block,
    change_blocks,
    planted,
    times,
    zeros,
)


def transposed(parts: SubjectInfo) -> Iterator[Mutant]:
    """For each matrix.

    Transposed where it is square, which a matrix of one entry does not show; transposed whatever
    its shape, which breaks the contract; gate by gate, if it is a stack of square ones; and the
    weight itself in ``d_state`` and in ``d_x``. A stack declares no diagnosis.
    """
    for key, shape in parts.params.items():
        if len(shape) != 2:
            continue
        block = d_param(key)
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


def _stack(parts: SubjectInfo, key: str, block: str) -> Iterator[Mutant]:
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


def _gradient(
    parts: SubjectInfo, block: str, what: str, how: Edit, sizes: tuple[Size, ...]
) -> Mutant:
    def change(call: VjpCall) -> VjpResult:
        return change_block(call.right(), block, how)

    return Mutant(
        f"{block} {what}", "transposed", f"{block} is {what}", planted(change), parts.kind,
        (block,), "transposed", sizes=sizes,
    )  # fmt: skip


def _weight(
    parts: SubjectInfo, key: str, extent: str, how: Edit, sizes: tuple[Size, ...]
) -> Iterator[Mutant]:
    """The weight transposed in one backward product; none where that product does not have it."""
    shown = sizes[0] if sizes else None
    for outputs, name in ((parts.state_blocks, "d_state"), ((D_X,), "d_x")):
        change = _product(key, how, outputs)
        blocks = parts.reached(change, shown)
        if blocks:
            yield Mutant(
                f"{key} transposed{extent} in {name}", "transposed",
                f"the backward product of {name} has {key} transposed{extent}",
                planted(change), parts.kind, blocks, "transposed",
                regimes=ACTIVE_REGIMES, sizes=sizes,
            )  # fmt: skip


def _product(key: str, how: Edit, outputs: tuple[str, ...]) -> Change:
    def change(call: VjpCall) -> VjpResult:
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


def swapped(parts: SubjectInfo) -> Iterator[Mutant]:
    """The first two gates of each stacked parameter; each pair of parameters of one shape.

    Two parameters whose gradients are equal anyway give no mutant.
    """
    for key in parts.params:
        gates = parts.gates(key)
        if gates is None:
            continue
        change = _gates(key, *gates)
        sizes = parts.where_filled(d_param(key))
        if sizes is not None and parts.reached(change):
            block = d_param(key)
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
        blocks = d_param(one), d_param(other)
        yield Mutant(
            f"{blocks[0]} and {blocks[1]} swapped", "swapped",
            f"{blocks[0]} and {blocks[1]} are exchanged where they have one shape",
            planted(change), parts.kind, blocks, "swapped-gates", sizes=sizes,
        )  # fmt: skip


def _gates(key: str, axis: int, m: int) -> Change:
    def swap(gradient: Array) -> Array:
        first, second, *rest = np.split(gradient, m, axis)
        return np.concatenate([second, first, *rest], axis)

    def change(call: VjpCall) -> VjpResult:
        return change_block(call.right(), d_param(key), swap)

    return change


def _parameters(one: str, other: str) -> Change:
    def change(call: VjpCall) -> VjpResult:
        right = call.right()
        a, b = right.d_params[one], right.d_params[other]
        if np.shape(a) != np.shape(b):
            return right
        return replace(right, d_params={**right.d_params, one: b, other: a})

    return change


def batch(parts: SubjectInfo) -> Iterator[Mutant]:
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
    for block in (*parts.state_blocks, D_X):
        change = _repeated(block, 1 if block == D_X and parts.kind == "layer" else 0)
        if parts.reached(change):
            yield _mutant(
                parts, f"row 0 of {block} repeated", f"every row of {block} is row 0", change,
                (block,), "broadcast-row",
            )  # fmt: skip


def _mutant(
    parts: SubjectInfo, name: str, sentence: str, change: Change, blocks: tuple[str, ...], code: str
) -> Mutant:
    return Mutant(
        name, "batch", sentence, planted(change), parts.kind, blocks, code, least_B=2
    )  # fmt: skip


def _mean(blocks: tuple[str, ...]) -> Change:
    def change(call: VjpCall) -> VjpResult:
        return change_blocks(call.right(), blocks, times(1.0 / max(call.rows, 1)))

    return change


def _first_row(block: str) -> Change:
    def change(call: VjpCall) -> VjpResult:
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

    def change(call: VjpCall) -> VjpResult:
        return change_block(call.right(), block, repeat)

    return change


def layouts(parts: SubjectInfo) -> Iterator[Mutant]:
    """Cotangents and a parameter read in memory order; a read-only array taken for zero."""
    changes: dict[str, tuple[Change, str, int]] = {
        "d_y read as it lies in memory": (_stored_d_y, "fortran", 2),
        "d_state read as it lies in memory": (_stored_d_state, "fortran", 2),
        "a read-only d_y taken for zero": (_locked_d_y, "read_only", 1),
    }
    matrix = next((key for key, shape in parts.params.items() if _square_or_more(shape)), None)
    if matrix is not None:
        name = f"params[{matrix!r}] read as it lies in memory"
        changes[name] = _stored_param(matrix), "fortran", 1
    for name, (change, values, rows) in changes.items():
        if parts.reached(lambda call, change=change: change(_other_layout(call))):
            yield Mutant(
                name, "layouts", name, planted(change), parts.kind, least_B=rows, values=values
            )


def as_stored(array: Array) -> Array:
    """The entries in memory order, as code sees them that ignores strides."""
    array = np.asarray(array)
    return array.ravel(order="K").reshape(array.shape)


def _square_or_more(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and min(shape) > 1


def _other_layout(call: VjpCall) -> VjpCall:
    """The same call with arrays in Fortran order, read-only."""

    def turned(leaf: Array) -> Array:
        out = np.array(leaf, order="F")
        out.flags.writeable = False
        return out

    params = {key: turned(value) for key, value in call.params.items()}
    d_state = trees.map_leaves(turned, call.d_state)
    return replace(call, params=params, d_state=d_state, d_y=turned(call.d_y))


def _stored_d_y(call: VjpCall) -> VjpResult:
    return call.pull(call.d_state, as_stored(call.d_y))


def _stored_d_state(call: VjpCall) -> VjpResult:
    return call.pull(trees.map_leaves(as_stored, call.d_state), call.d_y)


def _locked_d_y(call: VjpCall) -> VjpResult:
    return call.pull(call.d_state, call.d_y if call.d_y.flags.writeable else zeros(call.d_y))


def _stored_param(key: str) -> Change:
    def change(call: VjpCall) -> VjpResult:
        params = {**call.params, key: as_stored(call.params[key])}
        return call.pull(call.d_state, call.d_y, params)

    return change
