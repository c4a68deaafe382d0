"""Mistakes that were found in public code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.mutants._steps import as_layer
from bpttcheck.mutants._stepwise import (
    BackwardStep,
    StepTape,
    StepwiseLayer,
    reached_by_step,
    right_step,
)
from bpttcheck.mutants.base import (
    ACTIVE_REGIMES,
    Loop,
    Mutant,
    SubjectInfo,
    VjpCall,
    VjpResult,
    in_layer,
    stepped,
)


def public(parts: SubjectInfo) -> Iterator[Mutant]:
    """Buffers that start full; records of the wrong step in ``d_params``; the carry; ``d_ys``."""
    blocks = tuple(block for block in parts.param_blocks if block in parts.nonzero)
    if blocks:
        yield Mutant(
            "d_params starts from the parameters", "public",
            "the buffers of d_params start as copies of the parameters", in_layer(_from_params),
            "layer", parts.param_blocks, regimes=("ordinary", "tiny_gradients"),
        )  # fmt: skip
    backward_steps: dict[str, tuple[BackwardStep, tuple[str, ...], int | None]] = {
        "d_params of step t reads the record of t + 1": (_params_after, blocks, None),
        "d_params of t = 0 reads the record of T - 1": (_params_around, blocks, 0),
        "d_ys[T - 1] added at every step": (_last_added, (), None),
    }
    for name, (backward_step, wrong, step) in backward_steps.items():
        if reached_by_step(parts, backward_step):
            yield Mutant(
                name, "public", name, stepped(backward_step), "layer", wrong,
                regimes=ACTIVE_REGIMES, least_T=2, time_step=step,
            )  # fmt: skip
    if parts.recurrent:
        yield Mutant(
            "carry assigned outside the loop", "public",
            "every step gets d_state of the end; what step 0 gives is returned",
            lambda target: CarryOutside(as_layer(target), right_step), "layer", (), "truncated",
            regimes=ACTIVE_REGIMES, least_T=2,
        )  # fmt: skip


class CarryOutside(StepwiseLayer):
    """The carry is the same in every iteration: it is assigned once the loop is over."""

    def vjp(self, params: Any, tape: StepTape, d_ys: Array, d_state_T: Any) -> Any:
        """The backward loop."""
        loop = Loop(self._right, params, tape, d_ys)
        d_params = {key: np.zeros_like(value) for key, value in params.items()}
        d_xs, d_state0 = np.zeros_like(tape.xs), d_state_T
        for t in reversed(range(loop.T)):
            found = self._turn(loop, t, d_state_T)
            d_params = {key: value + found.d_params[key] for key, value in d_params.items()}
            d_xs[t], d_state0 = found.d_x, found.d_state
        return d_params, d_xs, d_state0


def _from_params(call: VjpCall) -> VjpResult:
    right = call.right()
    d_params = {
        key: np.asarray(value + call.params[key], np.asarray(value).dtype)
        for key, value in right.d_params.items()
    }
    return replace(right, d_params=d_params)


def _params_after(loop: Loop, t: int, d_state: Any) -> VjpResult:
    right = loop.pull(t, d_state)
    other = loop.pull(t, d_state, of=min(t + 1, loop.T - 1))
    return replace(right, d_params=other.d_params)


def _params_around(loop: Loop, t: int, d_state: Any) -> VjpResult:
    right = loop.pull(t, d_state)
    return right if t else replace(right, d_params=loop.pull(t, d_state, of=loop.T - 1).d_params)


def _last_added(loop: Loop, t: int, d_state: Any) -> VjpResult:
    # The last step keeps its own: a single step is right.
    d_y = loop.d_ys[t] if t == loop.T - 1 else loop.d_ys[t] + loop.d_ys[-1]
    return loop.pull(t, d_state, d_y=d_y)
