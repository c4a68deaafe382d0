"""The front door: a whole network from a few options, its loss, and the gradient of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bpttcheck import losses, trees
from bpttcheck.activations import Activation
from bpttcheck.contract import Array, Engine, Params, State, Tape, is_float
from bpttcheck.errors import ContractError
from bpttcheck.losses.base import Loss
from bpttcheck.networks.batch import Batch
from bpttcheck.networks.bidirectional import Bidirectional
from bpttcheck.networks.composed import (
    Composed,
    InitialStateVjp,
    if_any_part_has_it,
    initial_state_vjp,
    require_cells,
)
from bpttcheck.networks.direction import Direction
from bpttcheck.networks.final_output import final, last_steps
from bpttcheck.networks.options import require_options
from bpttcheck.networks.output_feedback import OutputFeedback
from bpttcheck.networks.readout import Readout
from bpttcheck.networks.stack import Stack
from bpttcheck.networks.trainable_state import TrainableState


class NetworkGradients(NamedTuple):
    """The gradient of a loss with respect to everything that entered a network.

    ``d_params`` has the names and shapes of the parameters, ``d_xs (T, B, n_in)`` the shape of the
    batch's ``xs``, and ``d_state0`` the structure of the state before the first step.
    """

    d_params: Params
    d_xs: Array
    d_state0: State


class LossAndGradient(NamedTuple):
    """A loss and its gradients."""

    loss: Any
    gradients: NetworkGradients


@dataclass(frozen=True)
class Network(Composed):
    """Cells on top of each other, in one or both directions, read out, with a loss.

    >>> import numpy as np
    >>> from bpttcheck.cells import LSTM
    >>> network = Network([LSTM(), LSTM()], directions=2, readout="last", n_out=3)
    >>> params = network.init(np.random.default_rng(0), n_in=4, n_hidden=5)
    >>> batch = Batch(np.ones((6, 2, 4)), np.array([0, 2]), lengths=[6, 3])
    >>> loss, gradients = network.loss_and_gradient(params, batch)
    >>> gradients.d_xs.shape
    (6, 2, 4)

    It is the composition :attr:`layer`, and a layer itself. Forward, backward, and the gradient of
    a loss ``L``::

        ys, state_T = layer(xs, state0)                                   (1)
        loss = L(outputs, targets)                                        (2)
        d_outputs = dL/d_outputs                         from (2)         (3)
        d_params, d_xs, d_state0 = vjp of layer at d_ys  from (1)         (4)
        d_params += initial_state_vjp(d_state0)                           (5)

    ``outputs`` is ``ys``, or with ``readout="last"`` the last real step of each row, ``(B,
    n_out)``; ``d_ys`` is ``d_outputs`` there and zero elsewhere. (5) only if the state is the
    network's own.

    Teacher forced, the network takes ``xs`` of ``n_in`` columns of which the last ``n_out`` are the
    target: give ``init`` that ``n_in``. For a batch, ``loss_and_gradient`` joins the targets to its
    narrower ``xs`` itself, integer labels as one-hot rows; the gradient of the targets is dropped.

    Args:
        cells: the cells from the first layer to the last.
        directions: 1, or 2 for :class:`Bidirectional` layers with the same cell both ways.
        merge: what becomes of two directions, ``"concat"`` or ``"sum"``.
        readout: ``"every"`` or ``"last"``: a :class:`Readout` there; ``"fed_back"``:
            :class:`OutputFeedback`; None: what the last layer puts out.
        n_out: the number of outputs; None without a readout.
        teacher_forced: only ``"fed_back"``: True to feed back the target.
        output_activation: only ``"fed_back"``: the activation of the output.
        trainable_state: True for initial states that are parameters.
        loss: a name in :data:`bpttcheck.losses.LOSSES`, or a loss.

    Raises:
        ContractError: an option is unknown, or two of them contradict each other.
    """

    cells: Any
    directions: int = 1
    merge: str = "concat"
    readout: str | None = "every"
    n_out: int | None = None
    teacher_forced: bool = False
    output_activation: str | Activation = "identity"
    trainable_state: bool = False
    loss: str | Loss = "softmax_cross_entropy"

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", require_cells(self.cells, "a Network"))
        require_options(self)
        losses.get(self.loss)
        _ = self.layer  # complains of what else is wrong

    @property
    def layer(self) -> Any:
        """The composition that the options stand for."""
        if self.readout == "fed_back":
            fed_back = OutputFeedback(
                self.cells, self.n_out or 0, self.teacher_forced, self.output_activation
            )
            return TrainableState(fed_back) if self.trainable_state else Direction(fed_back)
        layers = [
            Bidirectional(cell, merge=self.merge) if self.directions == 2 else Direction(cell)
            for cell in self.cells
        ]
        stack = Stack([TrainableState(one) for one in layers] if self.trainable_state else layers)
        return stack if self.readout is None else Readout(stack, self.n_out or 0, self.readout)

    @property
    def parts(self) -> dict[str, Any]:
        """The composition."""
        return {"": self.layer}

    def final(self) -> Any:
        """The layer that puts out the final output alone."""
        return final(self.layer)

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Fresh parameters, every layer ``n_hidden`` wide."""
        return self.layer.init(rng, n_in, n_hidden)

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The states before the first step."""
        return self.layer.initial_state(params, batch_size)

    @property
    def initial_state_vjp(self) -> InitialStateVjp:
        """The gradient of what the initial state reads, where it reads something."""
        layer = self.layer
        return if_any_part_has_it(
            [layer], lambda params, d_state0: initial_state_vjp(layer, params, d_state0)
        )

    def forward(
        self, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State, Tape]:
        """All steps forward, equation (1)."""
        return self.layer.forward(params, xs, state0, mask)  # (1)

    def vjp(
        self, params: Params, tape: Tape, d_ys: Array, d_state_T: State
    ) -> tuple[Params, Array, State]:
        """All steps backward, equation (4)."""
        return self.layer.vjp(params, tape, d_ys, d_state_T)  # (4)

    def sequence(
        self, engine: Engine, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State]:
        """The forward pass in terms of an engine."""
        return self.layer.sequence(engine, params, xs, state0, mask)

    def loss_and_gradient(self, params: Params, batch: Batch) -> LossAndGradient:
        """The loss of a batch, and its gradient with respect to parameters, inputs and state.

        Args:
            params: the parameters, as ``init`` returns them.
            batch: the sequences and their targets.

        Returns:
            ``(loss, gradients)``, the latter a :class:`NetworkGradients`. With a mean, the loss is
            that over the real steps, or with ``readout="last"`` over the rows that have one. With a
            trainable state, its gradient is in ``d_params``, unless the batch brings a state.

        Raises:
            ContractError: the parameters, the state or the targets do not fit.
        """
        loss = losses.get(self.loss)
        xs = self._joined(batch, loss) if self.teacher_forced else batch.xs
        own = self.initial_state(params, batch.xs.shape[1])
        state0 = own if batch.state0 is None else _fitting(batch.state0, own)
        ys, state_T, tape = self.forward(params, xs, state0, batch.real)  # (1)
        outputs, mask = self._read(ys, batch.real)
        value = loss.value(outputs, batch.targets, mask)  # (2)
        d_outputs = loss.gradient(outputs, batch.targets, mask)  # (3)
        d_ys = self._put(d_outputs, ys, batch.real)
        d_state_T = trees.map_leaves(lambda leaf: _zeros(leaf, ys), state_T)
        d_params, d_xs, d_state0 = self.vjp(params, tape, d_ys, d_state_T)  # (4)
        if batch.state0 is None:
            d_start = initial_state_vjp(self, params, d_state0)
            d_params = {name: d + d_start[name] for name, d in d_params.items()}  # (5)
        d_xs = d_xs[:, :, : batch.xs.shape[2]]
        return LossAndGradient(value, NetworkGradients(d_params, d_xs, d_state0))

    def _joined(self, batch: Batch, loss: Loss) -> Array:
        """``[xs, targets]``, labels as one-hot rows."""
        T, B = batch.xs.shape[:2]
        targets, n_out = batch.targets, self.n_out or 0
        loss.validate(np.zeros((T, B, n_out), batch.xs.dtype), targets, batch.real)
        if targets.ndim == 2:
            targets = targets[:, :, None] == np.arange(n_out)
        return np.concatenate([batch.xs, targets.astype(batch.xs.dtype)], axis=-1)

    def _read(self, ys: Array, real: Array | None) -> tuple[Array, Array | None]:
        if self.readout != "last":
            return ys, real
        # Zero elsewhere: the sum over the steps is the last real one.
        return ys.sum(axis=0), None if real is None else np.any(real, axis=0)

    def _put(self, d_outputs: Array, ys: Array, real: Array | None) -> Array:
        if self.readout != "last":
            return d_outputs
        return np.where(last_steps(real, ys)[:, :, None], d_outputs, 0.0)


def _zeros(leaf: Array, ys: Array) -> Array:
    return np.zeros(leaf.shape, leaf.dtype if is_float(leaf) else ys.dtype)


def _fitting(state0: State, own: State) -> State:
    """``state0``, if it has the structure and the shapes of the network's own state."""
    given, expected = trees.structure(state0), trees.structure(own)
    shapes = [np.shape(leaf) for leaf in trees.leaves(state0)]
    wanted = [np.shape(leaf) for leaf in trees.leaves(own)]
    if given != expected or shapes != wanted:
        raise ContractError(
            f"state0 is {given.describe()} with the shapes {shapes}, but expected that of"
            f" initial_state(params, B), {expected.describe()} with the shapes {wanted}",
            item="state0",
        )
    return state0
