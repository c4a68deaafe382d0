"""The output after the whole sequence, and the backward pass through its selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bpttcheck.contract import Array, Engine, Params, State, Tape
from bpttcheck.networks.composed import (
    Composed,
    InitialStateVjp,
    if_any_part_has_it,
    initial_state_vjp,
)


class FinalTape(NamedTuple):
    """The wrapped layer's tape, and where outputs are read and put."""

    inner: Tape
    read: Array
    put: Array


@dataclass(frozen=True)
class FinalOutput(Composed):
    """A layer's output after each row's whole sequence, put at the row's last real step.

    ``last[t, b]`` is true at the last real step of row ``b``, ``first[t, b]`` at the first; a row
    without a real step has neither. A forward layer is done at ``last``, a reverse one at
    ``first``: ``read`` is that step.

    Forward::

        ys   = layer(xs)                                                  (1)
        h[b] = sum over t of ys[t, b] where read[t, b]                    (2)
        out[t, b] = h[b] where last[t, b], else 0                         (3)

    Backward. ``d_v`` is the gradient of the loss with respect to ``v``::

        d_h[b]     = sum over t of d_out[t, b] where last[t, b]  from (3) (4)
        d_ys[t, b] = d_h[b] where read[t, b], else 0             from (2) (5)
        d_params, d_xs, d_state0 = vjp of layer                  from (1) (6)

    Args:
        layer: the layer whose output is read.
        reverse: True if the layer runs from the last step to the first.
    """

    layer: Any
    reverse: bool = False

    @property
    def parts(self) -> dict[str, Any]:
        """The wrapped layer."""
        return {"": self.layer}

    @property
    def splits_in_time(self) -> bool:
        """False: the first half of a sequence has an output that the whole does not have."""
        return False

    def final(self) -> FinalOutput:
        """Itself."""
        return self

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """The layer's fresh parameters."""
        return self.layer.init(rng, n_in, n_hidden)

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The layer's state before the first step."""
        return self.layer.initial_state(params, batch_size)

    @property
    def initial_state_vjp(self) -> InitialStateVjp:
        """The layer's own ``initial_state_vjp``, where it has one."""
        return if_any_part_has_it(
            [self.layer], lambda params, d_state0: initial_state_vjp(self.layer, params, d_state0)
        )

    def forward(
        self, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State, FinalTape]:
        """All steps forward, equations (1) to (3)."""
        ys, state_T, inner = self.layer.forward(params, xs, state0, mask)  # (1)
        last = last_steps(mask, ys)
        read = first_steps(mask, ys) if self.reverse else last
        return _put(_read(ys, read), last), state_T, FinalTape(inner, read, last)  # (2), (3)

    def vjp(
        self, params: Params, tape: FinalTape, d_ys: Array, d_state_T: State
    ) -> tuple[Params, Array, State]:
        """All steps backward, equations (4) to (6)."""
        d_h = _read(d_ys, tape.put)  # (4)
        d_inner = _put(d_h, tape.read)  # (5)
        return self.layer.vjp(params, tape.inner, d_inner, d_state_T)  # (6)

    def sequence(
        self, engine: Engine, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State]:
        """The forward pass in terms of an engine."""
        ys, state_T = self.layer.sequence(engine, params, xs, state0, mask)
        last = last_steps(mask, ys)
        read = first_steps(mask, ys) if self.reverse else last
        h = np.where(read[:, :, None], ys, 0.0).sum(axis=0)
        return np.where(last[:, :, None], h, 0.0), state_T


def final(layer: Any) -> Any:
    """A layer that outputs the final output of ``layer``, of each of its directions.

    A layer whose final output is not at its last real step has a method ``final``.
    """
    own = getattr(layer, "final", None)
    return own() if callable(own) else FinalOutput(layer)


def real_steps(mask: Array | None, ys: Array) -> Array:
    """``(T, B)`` bool: every step, if there is no mask."""
    return np.ones(ys.shape[:2], bool) if mask is None else mask


def first_steps(mask: Array | None, ys: Array) -> Array:
    """``(T, B)`` bool: true at each row's first real step."""
    real = real_steps(mask, ys)
    return real & (np.cumsum(real, axis=0) == 1)


def last_steps(mask: Array | None, ys: Array) -> Array:
    """``(T, B)`` bool: true at each row's last real step."""
    return first_steps(real_steps(mask, ys)[::-1], ys)[::-1]


def _read(sequence: Array, steps: Array) -> Array:
    # np.where and not a product: what is not read may be infinite.
    return np.where(steps[:, :, None], sequence, 0.0).sum(axis=0)


def _put(rows: Array, steps: Array) -> Array:
    return np.where(steps[:, :, None], rows, 0.0)
