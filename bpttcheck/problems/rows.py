"""The rows of the batch of a problem, of a layer and of a function alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_XS, YS, Block
from bpttcheck.problems import function_rows
from bpttcheck.problems.problem import Problem
from bpttcheck.signature import Signature


def some(problem: Problem, chosen: slice) -> Problem:
    """Some rows of a layer's problem."""

    def state(tree: Any) -> Any:
        return trees.map_leaves(lambda leaf: np.asarray(leaf)[chosen], tree)

    return replace(
        problem,
        case=replace(problem.case, B=chosen.stop - chosen.start),
        xs=problem.xs[:, chosen],
        state0=state(problem.state0),
        mask=None if problem.mask is None else problem.mask[:, chosen],
        d_ys=problem.d_ys[:, chosen],
        d_state=state(problem.d_state),
    )


def single(signature: Signature | None, problem: Problem) -> list[Problem]:
    """Every row as a problem of its own.

    Args:
        signature: of a function; None: the problem is a layer's.
        problem: the problem.
    """
    if signature is not None:
        return function_rows.rows_of(signature, problem)
    return [some(problem, slice(row, row + 1)) for row in range(problem.case.B)]


def joined(
    signature: Signature | None,
    problem: Problem,
    parts: Sequence[Problem],
    block: str,
    values: list[Any],
) -> Any:
    """One block of a batch from those of its rows: side by side, or their sum.

    Args:
        signature: of a function; None: the problem is a layer's.
        problem: the batch.
        parts: its rows.
        block: the block.
        values: the block of each row.
    """
    if signature is not None:
        return function_rows.joined(signature, problem, parts, block, values)
    if Block(block).kind == "params":
        return sum(values)
    return np.concatenate(values, axis=1 if block in (D_XS, YS) else 0)
