"""A linear readout of a layer's output, at every step or after the whole sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bpttcheck.cells.initialise import uniform
from bpttcheck.contract import Array, Engine, Params, State, Tape
from bpttcheck.errors import ContractError
from bpttcheck.networks.composed import (
    Composed,
    InitialStateVjp,
    if_any_part_has_it,
    initial_state_vjp,
    output_width,
    require_free,
    require_names,
    without,
)
from bpttcheck.networks.direction import as_layer
from bpttcheck.networks.final_output import final, last_steps, real_steps

PLACES = ("every", "last")
V, C = NAMES = ("readout.V", "readout.c")


class ReadoutTape(NamedTuple):
    """The wrapped layer's tape and output, and the steps at which it is read."""

    inner: Tape
    hs: Array
    steps: Array


@dataclass(frozen=True)
class Readout(Composed):
    """A layer and a linear readout ``o = V h + c`` of what it outputs.

    ``steps[t, b]`` is true where there is an output: at every real step, or at each row's last real
    step. At ``"last"``, ``hs`` there holds each direction's own final output (of the forward
    direction that of the row's last real step, of the backward one that of its first).

    Forward, for every ``t``, with ``hs (T, B, H)``::

        hs    = layer(xs)                                                 (1)
        os[t] = hs[t] @ V.T + c      where steps[t], else 0               (2)

    Backward. ``d_v`` is the gradient of the loss with respect to ``v``::

        d_os    = d_ys               where steps, else 0   from (2)       (3)
        d_V     = sum over t of d_os[t].T @ hs[t]          from (2)       (4)
        d_c     = sum of d_os over steps and batch         from (2)       (5)
        d_hs[t] = d_os[t] @ V                              from (2)       (6)
        d_params, d_xs, d_state0 = vjp of layer            from (1)       (7)

    Parameters: those of the layer, ``readout.V (n_out, H)`` and ``readout.c (n_out,)``. State: that
    of the layer.

    Args:
        layer: a cell or a layer.
        n_out: the number of outputs.
        at: ``"every"`` or ``"last"``.

    Raises:
        ContractError: ``layer`` is neither a cell nor a layer, ``n_out`` is not positive, or ``at``
            is unknown.
    """

    layer: Any
    n_out: int
    at: str = "every"

    def __post_init__(self) -> None:
        require_n_out(self.n_out, "a Readout")
        if self.at not in PLACES:
            raise ContractError(
                f"at={self.at!r} is unknown, expected one of {', '.join(map(repr, PLACES))}",
                item="at",
            )
        object.__setattr__(self, "layer", as_layer(self.layer, "layer"))

    @property
    def parts(self) -> dict[str, Any]:
        """The layer that is read."""
        return {"": final(self.layer) if self.at == "last" else self.layer}

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """The layer's parameters; those of the readout are uniform in ``±1/sqrt(H)``."""
        own = self._read.init(rng, n_in, n_hidden)
        require_free(own, NAMES, "a Readout")
        H = output_width(self._read, own, n_in)
        return own | uniform(rng, H, **{V: (self.n_out, H), C: (self.n_out,)})

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The layer's state before the first step."""
        return self._read.initial_state(without(params, NAMES), batch_size)

    @property
    def initial_state_vjp(self) -> InitialStateVjp:
        """The layer's own ``initial_state_vjp``, where it has one; zeros for ``V`` and ``c``."""
        return if_any_part_has_it([self._read], self._initial_state_vjp)

    def _initial_state_vjp(self, params: Params, d_state0: State) -> Params:
        zeros = {name: np.zeros_like(params[name]) for name in NAMES}
        return initial_state_vjp(self._read, without(params, NAMES), d_state0) | zeros

    def forward(
        self, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State, ReadoutTape]:
        """All steps forward, equations (1) and (2)."""
        require_names(params, NAMES, "a Readout")
        inner = without(params, NAMES)
        hs, state_T, tape = self._read.forward(inner, xs, state0, mask)  # (1)
        steps = self._steps(mask, hs)
        return self._outputs(params, hs, steps), state_T, ReadoutTape(tape, hs, steps)

    def vjp(
        self, params: Params, tape: ReadoutTape, d_ys: Array, d_state_T: State
    ) -> tuple[Params, Array, State]:
        """All steps backward, equations (3) to (7)."""
        hs = tape.hs
        d_os = np.where(tape.steps[:, :, None], d_ys, 0.0)  # (3)
        d_readout = {
            V: np.tensordot(d_os, hs, axes=((0, 1), (0, 1))),  # (4)
            C: d_os.sum(axis=(0, 1)),  # (5)
        }
        d_hs = d_os @ params[V]  # (6)
        inner = without(params, NAMES)
        d_inner, d_xs, d_state0 = self._read.vjp(inner, tape.inner, d_hs, d_state_T)  # (7)
        return d_inner | d_readout, d_xs, d_state0

    def sequence(
        self, engine: Engine, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State]:
        """The forward pass in terms of an engine."""
        hs, state_T = self._read.sequence(engine, without(params, NAMES), xs, state0, mask)
        return self._outputs(params, hs, self._steps(mask, hs)), state_T

    @property
    def _read(self) -> Any:
        return self.parts[""]

    def _steps(self, mask: Array | None, hs: Array) -> Array:
        return last_steps(mask, hs) if self.at == "last" else real_steps(mask, hs)

    def _outputs(self, params: Params, hs: Array, steps: Array) -> Array:
        return np.where(steps[:, :, None], hs @ params[V].T + params[C], 0.0)  # (2)


def require_n_out(n_out: Any, whole: str) -> None:
    """Reject an invalid number of outputs.

    Raises:
        ContractError: it is not a positive integer.
    """
    if isinstance(n_out, bool) or not isinstance(n_out, (int, np.integer)) or n_out < 1:
        raise ContractError(
            f"n_out={n_out!r} of {whole}, but expected the number of outputs, 1 or more",
            item="n_out",
        )
