"""A whole network from a few options, and the gradient of its loss on a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bpttcheck import losses, trees
from bpttcheck.activations import Activation
from bpttcheck.bptt.unroll import require_mask, require_sequence
from bpttcheck.contract import Array, Engine, Params, State, Tape, is_float
from bpttcheck.errors import ContractError
from bpttcheck.losses.base import Loss
from bpttcheck.networks.composed import (
    Composed,
    InitialStateVjp,
    if_any_part_has_it,
    initial_state_vjp,
    require_cells,
)
from bpttcheck.networks.direction import Direction, TrainableState
from bpttcheck.networks.final_output import final, last_steps
from bpttcheck.networks.output_feedback import OutputFeedback
from bpttcheck.networks.readout import Readout, require_n_out
from bpttcheck.networks.stack import Bidirectional, Stack, require_merge


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
        merge: how two directions are merged, ``"concat"`` or ``"sum"``.
        readout: ``"every"`` or ``"last"``: a :class:`Readout` there; ``"fed_back"``:
            :class:`OutputFeedback`; None: what the last layer outputs.
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
        _ = self.layer  # validates the rest

    @property
    def layer(self) -> Any:
        """The composition that the options describe."""
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
        """The layer that outputs the final output alone."""
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


READOUTS = ("every", "last", "fed_back", None)


def require_options(network: Any) -> None:
    """Reject options of a :class:`bpttcheck.networks.Network` that are unknown or contradict.

    Raises:
        ContractError: an option is unknown, or two contradict each other.
    """
    readout, directions = network.readout, network.directions
    if readout not in READOUTS:
        raise ContractError(
            f"readout={readout!r} is unknown, expected one of {', '.join(map(repr, READOUTS))}",
            item="readout",
        )
    if directions not in (1, 2):
        raise ContractError(f"directions={directions!r}, but expected 1 or 2", item="directions")
    require_merge(network.merge)
    if readout is not None:
        require_n_out(network.n_out, f"a Network with readout={readout!r}")
    elif network.n_out is not None:
        raise ContractError(
            f"n_out={network.n_out} with readout=None, but without a readout the last layer puts"
            " out n_hidden: set n_out=None, or readout='every'",
            item="n_out",
        )
    if readout == "fed_back" and directions == 2:
        raise ContractError(
            "directions=2 with readout='fed_back', but an output cannot be fed back to steps that"
            " came before it: use directions=1",
            item="directions",
        )
    if readout != "fed_back" and (
        network.teacher_forced or network.output_activation != "identity"
    ):
        item = "teacher_forced" if network.teacher_forced else "output_activation"
        raise ContractError(
            f"{item}={getattr(network, item)!r} with readout={readout!r}, but only an output that"
            " is fed back has it: use readout='fed_back'",
            item=item,
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences with their targets.

    Args:
        xs: the inputs ``(T, B, n_in)``, floating.
        targets: what the loss compares the outputs with. With a readout at every step, integer
            labels ``(T, B)`` or numbers ``(T, B, n_out)``; with one at the last step, ``(B,)`` or
            ``(B, n_out)``.
        mask: ``(T, B)`` bool, true where the step is real; None: every step is.
        lengths: the number of real steps of each row, ``(B,)`` integers in ``0 .. T``, instead of a
            mask.
        state0: the state before the first step; None: the network's own.

    Raises:
        ContractError: ``xs`` is not a floating array of three axes or has no step, there are both a
            mask and lengths, one of them has the wrong shape, dtype or values, or no step is real.
    """

    xs: Array
    targets: Array
    mask: Array | None = None
    lengths: Any = None
    state0: State | None = None

    def __post_init__(self) -> None:
        _require_steps(self.xs)
        if not isinstance(self.targets, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ContractError(
                f"targets of type {type(self.targets).__name__}, but expected a NumPy array",
                item="targets",
            )
        if self.mask is not None and self.lengths is not None:
            raise ContractError(
                "both mask and lengths are given, but they say the same: give one of them, the"
                " other None",
                item="mask",
            )
        if self.mask is not None:
            require_mask(self.mask, *self.xs.shape[:2])
        if self.lengths is not None:
            object.__setattr__(self, "lengths", _checked_lengths(self.lengths, self.xs))
        real = self.real
        if real is not None and not real.any():
            given = f"lengths={self.lengths}" if self.mask is None else "a mask that is false"
            raise ContractError(
                f"{given}: no step is real, but a loss needs at least one",
                item="lengths" if self.mask is None else "mask",
            )

    @property
    def real(self) -> Array | None:
        """The mask ``(T, B)``, made of the lengths if these are given; None: every step is real."""
        if self.lengths is None:
            return self.mask
        return np.arange(len(self.xs))[:, None] < self.lengths


def _require_steps(xs: Array) -> None:
    require_sequence(xs)
    if xs.shape[0] * xs.shape[1] == 0:
        raise ContractError(
            f"xs.shape={xs.shape}: the batch is empty, but a loss needs at least one step (T > 0)"
            " of at least one row (B > 0)",
            item="xs",
        )


def _checked_lengths(given: Any, xs: Array) -> Array:
    T, B = xs.shape[:2]
    lengths = np.asarray(given)
    if lengths.shape != (B,) or lengths.dtype.kind not in "iu":
        raise ContractError(
            f"lengths.shape={lengths.shape}, lengths.dtype={lengths.dtype}, but expected (B,) ="
            f" ({B},) integers, one for each row of xs",
            item="lengths",
        )
    bad = np.flatnonzero((lengths < 0) | (lengths > T))
    if bad.size:
        raise ContractError(
            f"lengths[{bad[0]}]={lengths[bad[0]]}, but expected a number of steps in 0..{T},"
            f" because xs has T={T}",
            item="lengths",
        )
    return lengths
