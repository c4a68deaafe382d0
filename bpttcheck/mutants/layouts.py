"""Arrays are taken to lie in memory row by row, or to be writeable, without being asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Array
from bpttcheck.mutants.base import Anatomy, Call, Change, Mutant, Pulled, planted, zeros


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """Cotangents and a parameter read as they lie in memory; a read-only one taken for zero."""
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
    """What code sees that walks through the memory of an array from its start."""
    array = np.asarray(array)
    return array.ravel(order="K").reshape(array.shape)


def _square_or_more(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and min(shape) > 1


def _other_layout(call: Call) -> Call:
    """The same call with arrays in Fortran order, read-only."""

    def turned(leaf: Array) -> Array:
        out = np.array(leaf, order="F")
        out.flags.writeable = False
        return out

    params = {key: turned(value) for key, value in call.params.items()}
    d_state = trees.map_leaves(turned, call.d_state)
    return replace(call, params=params, d_state=d_state, d_y=turned(call.d_y))


def _stored_d_y(call: Call) -> Pulled:
    return call.pull(call.d_state, as_stored(call.d_y))


def _stored_d_state(call: Call) -> Pulled:
    return call.pull(trees.map_leaves(as_stored, call.d_state), call.d_y)


def _locked_d_y(call: Call) -> Pulled:
    return call.pull(call.d_state, call.d_y if call.d_y.flags.writeable else zeros(call.d_y))


def _stored_param(key: str) -> Change:
    def change(call: Call) -> Pulled:
        params = {**call.params, key: as_stored(call.params[key])}
        return call.pull(call.d_state, call.d_y, params)

    return change
