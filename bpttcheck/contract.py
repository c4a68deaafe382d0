"""The protocols of a cell and a layer.

Neither is subclassed: any object with these methods will do.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Params = dict[str, Array]
State = Any
Cache = Any
Tape = Any

CELL_METHODS = ("init", "initial_state", "step", "step_vjp")
LAYER_METHODS = ("init", "initial_state", "forward", "vjp")


@runtime_checkable
class Cell(Protocol):
    """One step of a recurrent network and its hand-derived vector-Jacobian product.

    ``state', y = step(params, state, x)`` with ``x (B, n_in)``, ``y (B, n_out)`` and a state that
    is an array ``(B, ...)`` or a tuple, NamedTuple or dict of such. For a scalar loss ``L``::

        d_state = dL/dstate'        d_y = dL/dy
        step_vjp -> (dL/dparams, dL/dstate, dL/dx)      this step's contribution only

    No method mutates what it is given, keeps anything on ``self``, or is random. Sizes come from
    the parameters; whatever else a cell needs is an attribute of the instance.
    """

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Fresh parameters for the given sizes."""
        ...

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The state before the first step, for ``batch_size`` rows."""
        ...

    def step(self, params: Params, state: State, x: Array) -> tuple[State, Array, Cache]:
        """One step forward: ``(new_state, y, cache)``."""
        ...

    def step_vjp(
        self, params: Params, cache: Cache, d_state: State, d_y: Array
    ) -> tuple[Params, State, Array]:
        """One step backward: ``(d_params, d_previous_state, d_x)``."""
        ...


@runtime_checkable
class Layer(Protocol):
    """A whole sequence forward and backward: the form of fused implementations and kernels.

    Arrays are time-major: ``xs (T, B, n_in)``, ``ys (T, B, n_out)``, ``mask (T, B)`` bool and true
    where the step is real. A masked step carries the state through, outputs zero, ignores ``d_y``
    and sends no gradient into parameters or ``xs``. A layer without masks sets
    ``supports_mask = False``.
    """

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Fresh parameters for the given sizes."""
        ...

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The state before the first step, for ``batch_size`` rows."""
        ...

    def forward(
        self, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State, Tape]:
        """All steps forward: ``(ys, state_T, tape)``."""
        ...

    def vjp(
        self, params: Params, tape: Tape, d_ys: Array, d_state_T: State
    ) -> tuple[Params, Array, State]:
        """All steps backward: ``(d_params, d_xs, d_state0)``."""
        ...


class Engine(Protocol):
    """The interface that a layer's optional ``sequence(engine, params, xs, state0, mask)`` uses.

    ``sequence`` is the layer's forward pass in plain NumPy and in terms of these two methods. Run
    natively it loops; differentiated by JAX, :meth:`scan` becomes one ``lax.scan``. So a layer that
    is not a single loop (both directions, a stack, windows) is checked in the same way as a cell.
    """

    def scan(
        self,
        cell: Any,
        params: Params,
        xs: Array,
        state0: State,
        mask: Array | None = None,
        reverse: bool = False,
    ) -> tuple[Array, State]:
        """One cell over a sequence: ``(ys, state_T)``.

        Args:
            cell: the cell.
            params: its own parameters.
            xs: inputs ``(T, B, n_in)``.
            state0: the state before the first step taken.
            mask: ``(T, B)`` bool, true where the step is real; None: every step is.
            reverse: True for the steps ``T-1 .. 0``; ``ys[t]`` still belongs to ``xs[t]``, and
                ``state_T`` is the state after the step ``0``.
        """
        ...

    def states(
        self, cell: Any, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> State:
        """Every state of :meth:`scan`, the first one included: leaves ``(T + 1, B, ...)``."""
        ...

    def freeze(self, tree: Any) -> Any:
        """``tree`` as a constant: no gradient flows through it."""
        ...


def is_cell(candidate: Any) -> bool:
    """True if ``candidate`` has the four methods of a :class:`Cell`."""
    return all(callable(getattr(candidate, name, None)) for name in CELL_METHODS)


def is_layer(candidate: Any) -> bool:
    """True if ``candidate`` has the four methods of a :class:`Layer`."""
    return all(callable(getattr(candidate, name, None)) for name in LAYER_METHODS)


def is_float(leaf: Any) -> bool:
    """True if a leaf is differentiated; integer and boolean leaves are only carried."""
    dtype = leaf.dtype if isinstance(leaf, np.ndarray) else np.asarray(leaf).dtype
    return dtype.kind == "f"
