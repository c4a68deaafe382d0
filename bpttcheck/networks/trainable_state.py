"""An initial state that is learned: one row of parameters, given to every sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.cells.initialise import uniform
from bpttcheck.contract import Array, Engine, Params, State, Tape, is_float
from bpttcheck.errors import ContractError
from bpttcheck.networks.composed import Composed
from bpttcheck.networks.convert import as_layer
from bpttcheck.networks.final_output import final
from bpttcheck.networks.names import require_free, require_names, without
from bpttcheck.traits import Traits

# What the name of a row begins with; "state0" alone is the row of a state that is one array.
_HEADS = ("state0[", "state0.")


@dataclass(frozen=True)
class TrainableState(Composed):
    """A layer whose initial state is a parameter.

    Forward, for every row ``b`` of the batch::

        state0[b] = s                                                     (1)
        ys, state_T = layer(xs, state0)                                   (2)

    Backward. ``d_v`` is the gradient of the loss with respect to ``v``; ``vjp`` goes back to
    ``state0``, and ``initial_state_vjp`` from there to ``s``::

        d_params, d_xs, d_state0 = vjp of layer              from (2)     (3)
        d_s = sum over b of d_state0[b]                      from (1)     (4)

    A caller who gives a state of their own does without (1) and (4).

    Parameters: those of the layer, and for each floating leaf of its state one row, called
    ``"state0"`` and the place of the leaf: ``"state0"`` for Elman, ``"state0[0]"`` and
    ``"state0[1]"`` for ``h`` and ``c`` of an LSTM. State: that of the layer.

    Args:
        layer: a cell or a layer.

    Raises:
        ContractError: ``layer`` is neither, or has a trainable initial state already.
    """

    layer: Any

    def __post_init__(self) -> None:
        layer = as_layer(self.layer, "layer")
        if Traits.of(layer).initial_state_vjp is not None:
            raise ContractError(
                f"layer={self.layer!r} already has a trainable initial state, and a second one"
                " would replace it: wrap it once",
                item="layer",
            )
        object.__setattr__(self, "layer", layer)

    @property
    def parts(self) -> dict[str, Any]:
        """The layer."""
        return {"": self.layer}

    def final(self) -> TrainableState:
        """The layer that puts out the final output alone."""
        return replace(self, layer=final(self.layer))

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """The layer's parameters; those of the state are uniform in ``±1/sqrt(n_hidden)``."""
        own = self.layer.init(rng, n_in, n_hidden)
        rows = {name: leaf.shape[1:] for name, leaf in self._leaves(own).items()}
        require_free(own, rows, "a TrainableState")
        return own | uniform(rng, n_hidden, **rows)

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The row ``s`` for every sample, equation (1)."""
        own = self._own(params)
        like = self.layer.initial_state(own, batch_size)
        require_names(params, self._leaves(own), "a TrainableState")
        leaves, structure = trees.flatten(like)
        names = [_name(path) for path in structure.paths]
        rows = [
            np.repeat(params[name][None], batch_size, axis=0) if is_float(leaf) else leaf  # (1)
            for name, leaf in zip(names, leaves, strict=True)
        ]
        return structure.unflatten(rows)

    def initial_state_vjp(self, params: Params, d_state0: State) -> Params:
        """The way back from the initial state to its parameters, equation (4)."""
        d_params = {name: np.zeros_like(value) for name, value in params.items()}
        paths = map(_name, trees.structure(d_state0).paths)
        d_leaves = dict(zip(paths, trees.leaves(d_state0), strict=True))
        for name in self._leaves(self._own(params)):
            d_params[name] = d_leaves[name].sum(axis=0)  # (4)
        return d_params

    def forward(
        self, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State, Tape]:
        """All steps forward, equation (2)."""
        return self.layer.forward(self._own(params), xs, state0, mask)  # (2)

    def vjp(
        self, params: Params, tape: Tape, d_ys: Array, d_state_T: State
    ) -> tuple[Params, Array, State]:
        """All steps backward, equation (3); zeros for the rows, which ``forward`` does not read."""
        own = self._own(params)
        d_own, d_xs, d_state0 = self.layer.vjp(own, tape, d_ys, d_state_T)  # (3)
        rows = {name: np.zeros_like(v) for name, v in params.items() if name not in own}
        return d_own | rows, d_xs, d_state0

    def sequence(
        self, engine: Engine, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State]:
        """The forward pass in terms of an engine."""
        return self.layer.sequence(engine, self._own(params), xs, state0, mask)

    def _own(self, params: Params) -> Params:
        rows = [name for name in params if name == "state0" or name.startswith(_HEADS)]
        return without(params, rows)

    def _leaves(self, own: Params) -> dict[str, Array]:
        state = self.layer.initial_state(own, 1)
        named = zip(trees.structure(state).paths, trees.leaves(state), strict=True)
        return {_name(path): leaf for path, leaf in named if is_float(leaf)}


def _name(path: str) -> str:
    return f"state0{path}"
