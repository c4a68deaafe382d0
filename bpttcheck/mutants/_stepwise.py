"""A loop over time that can go wrong: any right layer, run backward one step at a time.

A bug of the loop is a function that replaces one of its steps, :data:`BackwardStep`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Array, is_float
from bpttcheck.mutants._anatomy import SubjectInfo
from bpttcheck.mutants._call import Change, VjpResult, zero_state
from bpttcheck.mutants._planted import Mutated, MutatedLayer, layer_call
from bpttcheck.mutants._points import differ
from bpttcheck.mutants._steps import as_layer


@dataclass(frozen=True)
class StepTape:
    """What each step was given and recorded.

    Args:
        records: the layer's tape of each step alone.
        states: the state before each step.
        xs: the inputs ``(T, B, n_in)``.
        mask: ``(T, B)``, or None if every step is real.
    """

    records: list[Any]
    states: list[Any]
    xs: Array
    mask: Array | None


@dataclass(frozen=True)
class Loop:
    """The backward pass of a right layer over a whole sequence, step by step.

    Args:
        layer: a right layer.
        params: its parameters.
        tape: the record of the forward pass.
        d_ys: cotangent of the outputs, ``(T, B, n_out)``.
    """

    layer: Any
    params: dict[str, Array]
    tape: StepTape
    d_ys: Array

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.tape.xs)

    def pull(
        self,
        t: int,
        d_state: Any,
        *,
        d_y: Array | None = None,
        of: int | None = None,
        masked: bool = True,
    ) -> VjpResult:
        """Step ``t`` backward: right unless an option says otherwise.

        Args:
            t: the step.
            d_state: cotangent of the state after it.
            d_y: another cotangent of its output, ``(B, n_out)``.
            of: read what this step recorded instead.
            masked: False: treat every row as real.
        """
        record = self.tape.records[t if of is None else of]
        if not masked:
            record = self._unmasked(t)
        d_ys = self.d_ys[t : t + 1] if d_y is None else d_y[None]
        d_params, d_xs, d_before = self.layer.vjp(self.params, record, d_ys, d_state)
        return VjpResult(d_params, d_before, d_xs[0])

    def nothing(self, d_state: Any) -> VjpResult:
        """The contribution of a step that the loop never reaches."""
        d_params = {key: np.zeros_like(value) for key, value in self.params.items()}
        return VjpResult(d_params, zero_state(d_state), np.zeros_like(self.tape.xs[0]))

    def padded(self, t: int) -> Array | None:
        """``(B,)``, true for the rows of step ``t`` that are not real; None if all are."""
        if self.tape.mask is None or self.tape.mask[t].all():
            return None
        return ~self.tape.mask[t]

    def _unmasked(self, t: int) -> Any:
        return self.layer.forward(
            self.params, self.tape.xs[t : t + 1], self.tape.states[t]
        )[2]  # fmt: skip


BackwardStep = Callable[[Loop, int, Any], VjpResult]
"""One step of a wrong backward loop: ``(loop, t, d_state) -> contributions of step t``."""


class StepwiseLayer(Mutated):
    """A layer that runs a right one step by step, with a wrong step of the backward loop.

    Args:
        right: a right layer.
        backward_step: what is done at each step.
    """

    def __init__(self, right: Any, backward_step: BackwardStep) -> None:
        self._right = right
        self._turn = backward_step

    def forward(self, params: Any, xs: Array, state0: Any = None, mask: Any = None) -> Any:
        """The right forward pass, a step at a time."""
        right, T = self._right, len(xs)
        state = right.initial_state(params, xs.shape[1]) if state0 is None else state0
        if not T:
            ys, state, _ = right.forward(params, xs, state)
            return ys, state, StepTape([], [], xs, mask)
        tape, ys = StepTape([], [], xs, mask), []
        for t in range(T):
            tape.states.append(state)
            given = () if mask is None else (mask[t : t + 1],)
            y, state, record = right.forward(params, xs[t : t + 1], state, *given)
            tape.records.append(record)
            ys.append(y)
        return np.concatenate(ys), state, tape

    def vjp(self, params: Any, tape: StepTape, d_ys: Array, d_state_T: Any) -> Any:
        """The backward loop; every step is ``backward_step``."""
        loop = Loop(self._right, params, tape, d_ys)
        d_params = {key: np.zeros_like(value) for key, value in params.items()}
        d_xs, d_state = np.zeros_like(tape.xs), d_state_T
        for t in reversed(range(loop.T)):
            found = self._turn(loop, t, d_state)
            d_params = {key: value + found.d_params[key] for key, value in d_params.items()}
            d_xs[t], d_state = found.d_x, found.d_state
        return d_params, d_xs, d_state


def right_step(loop: Loop, t: int, d_state: Any) -> VjpResult:
    """The step that makes the loop right."""
    return loop.pull(t, d_state)


def stepped(backward_step: BackwardStep) -> Callable[[Any], Any]:
    """``plant`` for a mutant whose loop over time is wrong; a cell is made a layer first."""

    def plant(target: Any) -> Any:
        return StepwiseLayer(as_layer(target), backward_step)

    return plant


def in_layer(change: Change) -> Callable[[Any], Any]:
    """``plant`` for a wrong whole-sequence gradient; a cell is made a layer first."""

    def plant(target: Any) -> Any:
        return MutatedLayer(as_layer(target), change)

    return plant


def reached_by_step(
    parts: SubjectInfo, backward_step: BackwardStep, *, masked: bool = False
) -> tuple[str, ...]:
    """The blocks that ``backward_step`` makes wrong in a sequence of three steps.

    Args:
        parts: what the step is planted in.
        backward_step: the wrong step.
        masked: whether some rows of each step are masked.
    """
    layer = as_layer(parts.target)
    rng = np.random.default_rng(0)
    params = parts.points()[0].call.params
    dtype = next((value.dtype for value in params.values()), np.dtype(np.float64))
    xs = rng.standard_normal((3, 3, parts.n_in)).astype(dtype)
    mask = ~np.eye(3, dtype=bool) if masked else None

    def cotangent(leaf: Array) -> Array:
        return rng.standard_normal(np.shape(leaf)).astype(dtype) * float(is_float(leaf))

    with np.errstate(all="ignore"):
        ys, state, tape = StepwiseLayer(layer, backward_step).forward(params, xs, None, mask)
        cotangents = cotangent(ys), trees.map_leaves(cotangent, state)
        found, right = (
            layer_call(StepwiseLayer(layer, one), params, tape, *reversed(cotangents))
            .right()
            .blocks()
            for one in (backward_step, right_step)
        )
    return tuple(block for block in parts.blocks if differ(found[block], right[block]))


def rows_only(tree: Any, rows: Array) -> Any:
    """A cotangent with zeros in every row of the batch that ``rows`` does not name."""

    def one(leaf: Array) -> Array:
        if not np.ndim(leaf):
            return leaf
        out = np.zeros_like(leaf)
        out[rows] = leaf[rows]
        return out

    return trees.map_leaves(one, tree)


def summed(first: VjpResult, second: VjpResult) -> VjpResult:
    """The contributions of both to the parameters, the state and the input."""
    d_params = {key: value + second.d_params[key] for key, value in first.d_params.items()}
    d_state = trees.map_leaves(np.add, first.d_state, second.d_state)
    return replace(first, d_params=d_params, d_state=d_state, d_x=first.d_x + second.d_x)
