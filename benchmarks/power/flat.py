"""A layer at one problem as every peer sees it: a function of flat arrays with its own backward."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Array
from bpttcheck.problems.problem import Problem


class Spent(Exception):
    """The forward evaluations that were granted are used up."""


@dataclass
class Calls:
    """Calls of the code under test.

    Args:
        forward: forward passes.
        backward: backward passes.
        granted: forward passes allowed; None: any number.
        spent: a further one was asked for.
    """

    forward: int = 0
    backward: int = 0
    granted: int | None = None
    spent: bool = False

    def count_forward(self) -> None:
        """Count a forward pass before it runs."""
        if self.granted is not None and self.forward >= self.granted:
            # Some peers turn exceptions into their own: the flag stays.
            self.spent = True
            raise Spent
        self.forward += 1


@dataclass(frozen=True)
class Flat:
    """A layer, a problem and the way in which they are shown to a peer.

    Args:
        layer: the layer under test.
        problem: where it is evaluated.
        scalar: show the loss ``<ys, d_ys> + <state_T, d_state>`` with the problem's own cotangents;
            else the outputs themselves, and the peer draws cotangents of its own.
        calls: what was called so far.
        seed: seed of a peer that draws random numbers.
    """

    layer: Any
    problem: Problem
    scalar: bool = False
    calls: Calls = field(default_factory=Calls)
    seed: int = 0

    @cached_property
    def point(self) -> list[Array]:
        """The arrays it is a function of: parameters, leaves of the initial state, inputs."""
        p = self.problem
        return [np.array(v) for v in (*p.params.values(), *trees.leaves(p.state0), p.xs)]

    @cached_property
    def names(self) -> list[str]:
        """The gradient block of each array of ``point``."""
        p = self.problem
        states = [f"d_state0{path}" for path in trees.structure(p.state0).paths]
        return [*(f"d_params[{key!r}]" for key in p.params), *states, "d_xs"]

    @cached_property
    def outputs(self) -> list[tuple[tuple[int, ...], Any]]:
        """Shape and dtype of each output."""
        if self.scalar:
            return [((), self.problem.dtype)]
        shown = [self.problem.d_ys, *trees.leaves(self.problem.d_state)]
        return [(np.shape(one), self.problem.dtype) for one in shown]

    def forward(self, *leaves: Any) -> tuple[tuple[Array, ...], Any]:
        """``(outputs, record)``; the record is what :meth:`backward` needs."""
        self.calls.count_forward()
        params, state0, xs = self._inputs(leaves)
        mask = () if self.problem.mask is None else (self.problem.mask,)
        with np.errstate(all="ignore"):
            ys, state, tape = self.layer.forward(params, xs, state0, *mask)
            if not self.scalar:
                return (np.asarray(ys), *map(np.asarray, trees.leaves(state))), tape
            p = self.problem
            loss = np.sum(ys * p.d_ys * p.real[:, :, None], dtype=p.dtype)
            for leaf, d_leaf in zip(trees.leaves(state), trees.leaves(p.d_state), strict=True):
                loss = loss + np.sum(leaf * d_leaf, dtype=p.dtype)
            return (np.asarray(loss, p.dtype),), tape

    def backward(self, leaves: Any, record: Any, cotangents: Any) -> list[Array]:
        """The gradient of ``<outputs, cotangents>`` with respect to each array of ``point``."""
        self.calls.backward += 1
        params, _, _ = self._inputs(leaves)
        p = self.problem
        with np.errstate(all="ignore"):
            if self.scalar:
                scale = np.asarray(cotangents[0], p.dtype)
                d_ys = p.d_ys * scale
                d_state = trees.map_leaves(lambda leaf: leaf * scale, p.d_state)
            else:
                d_ys = np.asarray(cotangents[0])
                d_state = trees.structure(p.state0).unflatten(list(map(np.asarray, cotangents[1:])))
            d_params, d_xs, d_state0 = self.layer.vjp(params, record, d_ys, d_state)
        found = [*(d_params[key] for key in p.params), *trees.leaves(d_state0), d_xs]
        return [np.asarray(one) for one in found]

    def _inputs(self, leaves: Any) -> tuple[dict[str, Array], Any, Array]:
        p, n = self.problem, len(self.problem.params)
        params = dict(zip(p.params, map(np.asarray, leaves[:n]), strict=True))
        state0 = trees.structure(p.state0).unflatten(list(map(np.asarray, leaves[n:-1])))
        return params, state0, np.asarray(leaves[-1])
