"""An implementation to time: it computes all gradients of a problem, with results as blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Array, is_float
from bpttcheck.problems.problem import Problem

Blocks = dict[str, Array]


@dataclass(frozen=True)
class PreparedRun:
    """One implementation, ready to run on one problem.

    Args:
        run: computes ``ys``, ``state_T`` and the gradients of parameters, inputs and initial state,
            all of them, and returns when they are computed.
        blocks: the gradients in what ``run`` returned, by name, as NumPy arrays.
        compiled: True if the first call compiles.
        at: the gradients of another problem of the same sizes.
        floor: the call overhead: seconds of its NumPy calls on arrays of one number, and on arrays
            of their actual sizes, or raises :class:`bpttcheck.errors.Declined`.
    """

    run: Callable[[], Any]
    blocks: Callable[[Any], Blocks]
    compiled: bool = False
    at: Callable[[Problem], Blocks] | None = None
    floor: Callable[[], tuple[float, float]] | None = None


def by_name(problem: Problem, d_params: Mapping[str, Any], d_xs: Any, d_state0: Any) -> Blocks:
    """Gradients as blocks, without leaves that are only carried and what has no gradient."""
    found = {
        f"d_params[{key!r}]": np.asarray(d_params[key])
        for key, value in problem.params.items()
        if is_float(value) and d_params.get(key) is not None
    }
    found["d_xs"] = np.asarray(d_xs)
    paths = trees.structure(problem.state0).paths
    given = trees.leaves(trees.map_leaves(lambda _, leaf: leaf, problem.state0, d_state0))
    for path, own, leaf in zip(paths, trees.leaves(problem.state0), given, strict=True):
        if is_float(own):
            found[f"d_state0{path}"] = np.asarray(leaf)
    return found
