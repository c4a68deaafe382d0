"""The inputs of a problem as a flat list of float leaves, for the oracles that perturb them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_XS, Block, d_state0, of_params, of_state
from bpttcheck.contract import Array, is_float
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.user_code import call


@dataclass(frozen=True)
class Leaves:
    """A problem's inputs as a flat list of float leaves, the form in which they are perturbed."""

    problem: Problem

    def _named(self) -> list[tuple[str, Any]]:
        """Every input leaf under the name of its gradient, in the order params, state0, xs."""
        p = self.problem
        names = [*of_params(p.params)]
        state = [*of_state(d_state0(), p.state0)]
        values = [*p.params.values(), *trees.leaves(p.state0), p.xs]
        return list(zip([*names, *state, D_XS], values, strict=True))

    def _rebuild(self, leaves: Sequence[Any]) -> tuple[Any, Any, Any]:
        p, n = self.problem, len(self.problem.params)
        params = dict(zip(p.params, leaves[:n], strict=True))
        return params, trees.structure(p.state0).unflatten(leaves[n:-1]), leaves[-1]

    def direction(self, along: Mapping[str, Array]) -> tuple[Any, Any, Any]:
        """``along`` as trees of params, state0 and xs, zero where it has no entry."""
        wanted: dict[str, Array] = {Block(name).in_sequence: value for name, value in along.items()}
        leaves = [
            np.zeros(np.shape(v)) if name not in wanted else np.reshape(wanted[name], np.shape(v))
            for name, v in self._named()
        ]
        return self._rebuild(leaves)

    def difference_arguments(
        self, along: Mapping[str, Array], name: str, forward: Callable[..., Any]
    ) -> tuple[Callable[[list[Array]], Any], list[Array], list[Array], list[Array]]:
        """``(function, point, direction, weights)`` for the difference oracles.

        Args:
            along: block name -> direction.
            name: of the forward method, for errors.
            forward: ``forward(params, xs, state0[, mask])`` of a layer.
        """
        moved = self.direction(along)
        flat = [*moved[0].values(), *trees.leaves(moved[1]), moved[2]]
        named = self._named()
        floats = [i for i, (_, v) in enumerate(named) if is_float(v)]
        point = [np.asarray(named[i][1]) for i in floats]
        p = self.problem
        weights = [
            p.d_ys * p.real[:, :, None],
            *(
                np.asarray(c)
                for c, s in zip(trees.leaves(p.d_state), trees.leaves(p.state0), strict=True)
                if is_float(s)
            ),
        ]
        direction = [np.asarray(flat[i]) for i in floats]
        return self._function(name, forward), point, direction, weights

    def _function(self, name: str, forward: Callable[..., Any]) -> Callable[[list[Array]], Any]:
        """From the float leaves to ``ys`` and the float leaves of the final state."""
        named, p = self._named(), self.problem
        mask = () if p.mask is None else (p.mask,)

        def outputs(leaves: list[Array]) -> list[Array]:
            supply = iter(leaves)
            whole = [next(supply) if is_float(v) else v for _, v in named]
            params, state0, xs = self._rebuild(whole)
            ys, state, *_ = call(name, forward, params, xs, state0, *mask)
            # In the order of the initial state: a step may return its parts in another.
            ordered = trees.map_leaves(lambda _, leaf: leaf, p.state0, state)
            last = zip(trees.leaves(ordered), trees.leaves(p.state0), strict=True)
            return [ys, *(leaf for leaf, first in last if is_float(first))]

        return outputs
