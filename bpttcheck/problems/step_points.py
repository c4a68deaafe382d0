"""Parameters, state and input of a step at several sizes that can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.errors import ContractError
from bpttcheck.problems.sizes import collect
from bpttcheck.subject.user_code import call
from bpttcheck.traits import trait

_SIZES = ((4, 7), (9, 5), (6, 11))
_BATCHES = (3, 2, 13)
_SEED = 0

StepPoint = tuple[dict[str, Any], Any, Any]
"""``(params, state, x)``."""


def step_points(cell: Any) -> list[StepPoint]:
    """The arguments of ``step`` at three sizes, those that the cell declares if it does.

    Args:
        cell: the cell.

    Raises:
        ContractError: its ``init`` or ``initial_state`` raises, or returns no arrays.
    """
    return [_point(cell, *pair, rows) for pair, rows in zip(_pairs(cell), _BATCHES, strict=True)]


def _pairs(cell: Any) -> Sequence[tuple[int, int]]:
    declared = trait(cell, "sizes")
    if declared is None:
        return _SIZES
    known = sorted(collect(declared, _SEED), key=lambda p: (min(p) > 1, p[0] != p[1], sum(p)))
    return (known[-3:] * 3)[:3] if len(known) < 3 else known[-3:]


def _point(cell: Any, n_in: int, n_hidden: int, rows: int) -> StepPoint:
    params = call("init", cell.init, np.random.default_rng(_SEED), n_in, n_hidden)
    if not isinstance(params, dict):
        raise ContractError(f"init returned {type(params).__name__}, expected a dict of arrays")
    state = call("initial_state", cell.initial_state, params, rows)
    for what, leaf in [*params.items(), *(("the state", leaf) for leaf in trees.leaves(state))]:
        if not isinstance(leaf, np.ndarray):
            raise ContractError(f"{what} is {type(leaf).__name__}, expected an array", item=what)
    return params, state, np.zeros((rows, n_in))
