"""The hand-written code of a subject, run forward and backward, with its results by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.blocks import (
    D_X,
    D_XS,
    YS,
    Block,
    Y,
    d_previous_state,
    d_state0,
    new_state,
    of_params,
    of_state,
    state_T,
)
from bpttcheck.errors import ContractError
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.filled import unfilled
from bpttcheck.subject.source import LineCoverage
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.user_code import Notes, call

Array = NDArray[Any]

STEP, SEQUENCE = "step", "sequence"

# The longest sequence of a foreign layer that is run from each of its steps on.
_SUFFIXES = 40

NAMES = {
    SEQUENCE: (d_state0(), D_XS, YS, state_T()),
    STEP: (d_previous_state(), D_X, Y, new_state()),
}
"""By mode: what the gradients of state and input are called, the output, and the state after."""


@dataclass(frozen=True)
class Hand:
    """What the hand-written code says about one problem.

    Args:
        forward: outputs by name: ``ys`` and the leaves of the final state.
        gradients: gradients by block name.
    """

    forward: Mapping[str, Array]
    gradients: Mapping[str, Array]


class HandWritten:
    """A subject's own forward and backward pass.

    Args:
        subject: what is under test.
        absent: the blocks for which it returns None.
        lines: which of its lines have run, if that is counted already; None: a new count.
    """

    def __init__(
        self, subject: Subject, absent: Iterable[str] = (), lines: LineCoverage | None = None
    ) -> None:
        self.subject, self.absent = subject, frozenset(absent)
        self.layer: Any = subject.layer
        # The names of its forward and backward methods.
        own = subject.target.methods if subject.traits.signature is not None else ("forward", "vjp")
        self.methods: tuple[str, str] = ("step", "step_vjp") if subject.kind == "cell" else own
        self.notes = Notes()
        self.lines = LineCoverage(unfilled(subject.target)) if lines is None else lines

    def unreached(self) -> tuple[str, ...]:
        """Lines of the backward pass that no judged case ran, and what guards them."""
        return tuple(map(str, self.lines.unreached())) if self.lines.available else ()

    def run(self, mode: str, problem: Problem) -> Hand:
        """Run the hand-written code forward and backward.

        Raises:
            ContractError: if it fails.
        """
        state_name, x_name, y_name, new_name = NAMES[mode]
        if mode == STEP:
            cell = self.subject.target
            state, ys, cache = call(
                "step", cell.step, problem.params, problem.state0, problem.xs[0], notes=self.notes
            )
            with self.lines.recording():
                d_params, d_state0, d_xs = call(
                    "step_vjp", cell.step_vjp, problem.params, cache, problem.d_state,
                    problem.d_ys[0], notes=self.notes,
                )  # fmt: skip
        else:
            d_params, d_xs, d_state0, ys, state = self._over_time(problem)
        blocks = params_blocks(d_params, problem.params)
        blocks.update(of_state(state_name, d_state0, problem.state0))
        blocks[x_name] = np.asarray(d_xs)
        forward: dict[str, Array] = {y_name: np.asarray(ys)}
        forward.update(of_state(new_name, state, problem.state0))
        self._require_shapes(mode, problem, blocks)
        return Hand(forward, {b: g for b, g in blocks.items() if not self.is_absent(b)})

    def methods_of(self, check: str) -> tuple[str, str]:
        """The subject's forward and backward methods that a check speaks of."""
        return ("step", "step_vjp") if check == "step_vjp" else self.methods

    def is_absent(self, block: str) -> bool:
        """True if the subject returns None for this block, in a step or in a sequence."""
        return bool(self.absent) and Block(block).in_sequence in self.absent

    def _require_shapes(self, mode: str, problem: Problem, blocks: Mapping[str, Any]) -> None:
        """A shape that is wrong at this size only would otherwise be broadcast."""
        state_name, x_name, _, _ = NAMES[mode]
        wanted = params_blocks(problem.params, problem.params)
        wanted.update(of_state(state_name, problem.state0, problem.state0))
        wanted[x_name] = problem.xs[0] if mode == STEP else problem.xs
        for name, like in wanted.items():
            if np.shape(blocks[name]) != np.shape(like):
                method = self.methods_of("step_vjp" if mode == STEP else "")[1]
                raise ContractError(
                    f"{method}: {name}.shape={np.shape(blocks[name])}, but should be "
                    f"{np.shape(like)} [{problem.case}]",
                    method=method,
                    item=name,
                )

    def _over_time(self, problem: Problem) -> tuple[Any, Array, Any, Array, Any]:
        """The whole-sequence form: ``(d_params, d_xs, d_state0, ys, state_T)``."""
        step, step_vjp = self.methods
        layer, args = self.layer, (problem.params, problem.xs, problem.state0)
        mask = () if problem.mask is None else (problem.mask,)
        with self.lines.recording():  # a tape of closures is made by the forward pass
            ys, state, tape = call(step, layer.forward, *args, *mask, notes=self.notes)
            d_params, d_xs, d_state0 = call(
                step_vjp, layer.vjp, problem.params, tape, problem.d_ys, problem.d_state,
                notes=self.notes,
            )  # fmt: skip
        return d_params, d_xs, d_state0, ys, state

    def adjoints(self, problem: Problem) -> list[Any] | None:
        """dL/dstate_t for t = 0 .. T: of a foreign layer, ``d_state0`` of calls on suffixes."""
        layer: Any = self.layer
        mask = () if problem.mask is None else (problem.mask,)
        if hasattr(layer, "adjoints"):
            args = (problem.params, problem.xs, problem.state0, *mask)
            _, _, tape = call("step", layer.forward, *args)
            return call(
                "step_vjp", layer.adjoints, problem.params, tape, problem.d_ys, problem.d_state
            )
        T, subject = len(problem.xs), self.subject
        if T > _SUFFIXES or not (subject.traits.causal and subject.traits.splits_in_time):
            return None
        found: list[Any] = []
        for t in range(T):
            state = problem.state0
            if t:
                args = (problem.params, problem.xs[:t], state, *(m[:t] for m in mask))
                _, state, _ = call("forward", layer.forward, *args)
            rest = (problem.params, problem.xs[t:], state, *(m[t:] for m in mask))
            _, _, tape = call("forward", layer.forward, *rest)
            cotangents = (problem.d_ys[t:], problem.d_state)
            found.append(call("vjp", layer.vjp, problem.params, tape, *cotangents)[2])
        return [*found, problem.d_state]


def params_blocks(gradients: Any, params: Any) -> dict[str, Any]:
    """Gradients of parameters by block.

    Raises:
        ContractError: one of them is missing.
    """
    missing = [key for key in params if key not in gradients]
    if missing:
        raise ContractError(
            f"d_params lacks {missing[0]!r}, but should have the keys of params", item="d_params"
        )
    return of_params(gradients, params)
