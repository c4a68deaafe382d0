"""The cell and the layer that every adapter returns, and plain functions as one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bpttcheck.adapt.arguments import name_of, require_function, require_reference, signature_of
from bpttcheck.adapt.parameters import Init, parameters
from bpttcheck.errors import ContractError

if TYPE_CHECKING:
    import numpy as np

    from bpttcheck.contract import Array, Cache, Params, State, Tape


def _always() -> bool:
    return True


@dataclass(frozen=True, repr=False)
class AdaptedCell:
    """A cell made of functions.

    Args:
        name: how reports call it.
        source: the adapter that made it, such as ``"from_custom_vjp"``.
        init_function: ``(rng, n_in, n_hidden) -> params``.
        initial_state_function: ``(params, batch_size) -> state``.
        step_function: ``(params, state, x) -> (state, y, cache)``.
        step_vjp_function: ``(params, cache, d_state, d_y) -> (d_params, d_state, d_x)``.
        reference: what the rule is compared with: a JAX function ``step(params, state, x) ->
            (state, y)``, a cell, or None (then the cell's own step, or the differences alone).
        fixed_sizes: True if each new shape costs a compilation, so that few shapes should be used.
        rules_inside: a function that returns the names of the custom rules that were met inside the
            reference; none is known before the first call of ``step``.
        state_gradient: a function that returns False once a call of ``step`` has shown that the
            state is marked as not differentiable.
        adapter_notes: a function that returns what the report is to say of it.
    """

    name: str
    source: str
    init_function: Callable[..., Params]
    initial_state_function: Callable[..., State]
    step_function: Callable[..., tuple[State, Array, Cache]]
    step_vjp_function: Callable[..., tuple[Params, State, Array]]
    reference: Any = None
    fixed_sizes: bool = False
    rules_inside: Callable[[], tuple[str, ...]] = tuple
    state_gradient: Callable[[], bool] = _always
    adapter_notes: Callable[[], tuple[str, ...]] = tuple

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Fresh parameters for the given sizes."""
        return self.init_function(rng, n_in, n_hidden)

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The state before the first step."""
        return self.initial_state_function(params, batch_size)

    def step(self, params: Params, state: State, x: Array) -> tuple[State, Array, Cache]:
        """One step forward: ``(new_state, y, cache)``."""
        return self.step_function(params, state, x)

    def step_vjp(
        self, params: Params, cache: Cache, d_state: State, d_y: Array
    ) -> tuple[Params, State, Array]:
        """One step backward by the rule under test: ``(d_params, d_previous_state, d_x)``."""
        return self.step_vjp_function(params, cache, d_state, d_y)

    @property
    def nested_rules(self) -> tuple[str, ...]:
        """Names of the custom rules inside the reference; autodiff must use their primals."""
        return self.rules_inside()

    @property
    def final_state_gradient(self) -> bool:
        """False once a forward run has shown that no gradient flows through the final state."""
        return self.state_gradient()

    def __repr__(self) -> str:
        return f"<cell {self.name!r} {self.source}, reference={_short(self.reference)}>"


@dataclass(frozen=True, repr=False)
class AdaptedLayer:
    """A layer made of functions.

    Args:
        name: how reports call it.
        source: the adapter that made it, such as ``"from_custom_vjp"``.
        init_function: ``(rng, n_in, n_hidden) -> params``.
        initial_state_function: ``(params, batch_size) -> state``.
        forward_function: ``(params, xs, state0) -> (ys, state_T, tape)``, with ``mask=`` if
            masks are supported.
        vjp_function: ``(params, tape, d_ys, d_state_T) -> (d_params, d_xs, d_state0)``.
        reference: what the rule is compared with: a JAX function ``step(params, state, x) ->
            (state, y)``, a cell, or None (then the differences alone).
        supports_mask: whether ``forward_function`` takes a mask.
        fixed_sizes: True if each new shape costs a compilation, so that few shapes should be used.
        rules_inside: a function that returns the names of the custom rules that were met inside the
            reference; none is known before the first call of ``forward``.
        state_gradient: a function that returns False once a call of ``forward`` has shown that the
            state is marked as not differentiable.
        adapter_notes: a function that returns what the report is to say of it.
    """

    name: str
    source: str
    init_function: Callable[..., Params]
    initial_state_function: Callable[..., State]
    forward_function: Callable[..., tuple[Array, State, Tape]]
    vjp_function: Callable[..., tuple[Params, Array, State]]
    reference: Any = None
    supports_mask: bool = False
    fixed_sizes: bool = False
    rules_inside: Callable[[], tuple[str, ...]] = tuple
    state_gradient: Callable[[], bool] = _always
    adapter_notes: Callable[[], tuple[str, ...]] = tuple

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Fresh parameters for the given sizes."""
        return self.init_function(rng, n_in, n_hidden)

    def initial_state(self, params: Params, batch_size: int) -> State:
        """The state before the first step."""
        return self.initial_state_function(params, batch_size)

    def forward(
        self, params: Params, xs: Array, state0: State, mask: Array | None = None
    ) -> tuple[Array, State, Tape]:
        """All steps forward: ``(ys, state_T, tape)``.

        Raises:
            ContractError: a mask is given and the layer takes none.
        """
        if self.supports_mask:
            return self.forward_function(params, xs, state0, mask=mask)
        if mask is not None:
            raise ContractError(
                f"{self!r} was given a mask, expected none: its forward has no argument `mask` "
                "(supports_mask is False)",
                method="forward",
                item="mask",
            )
        return self.forward_function(params, xs, state0)

    def vjp(
        self, params: Params, tape: Tape, d_ys: Array, d_state_T: State
    ) -> tuple[Params, Array, State]:
        """All steps backward by the rule under test: ``(d_params, d_xs, d_state0)``."""
        return self.vjp_function(params, tape, d_ys, d_state_T)

    @property
    def nested_rules(self) -> tuple[str, ...]:
        """Names of the custom rules inside the reference; autodiff must use their primals."""
        return self.rules_inside()

    @property
    def final_state_gradient(self) -> bool:
        """False once a forward run has shown that no gradient flows through the final state."""
        return self.state_gradient()

    def __repr__(self) -> str:
        return f"<layer {self.name!r} {self.source}, reference={_short(self.reference)}>"


def _short(reference: object) -> str:
    own = getattr(reference, "__name__", None)
    return repr(reference) if own is None else own


def from_callables(
    forward: Callable[..., Any],
    vjp: Callable[..., Any],
    *,
    init: Init,
    initial_state: Callable[..., Any] | None = None,
    sequence: bool = False,
    reference: Any = None,
    name: str | None = None,
) -> AdaptedCell | AdaptedLayer:
    """A cell made of a step and its hand-derived backward pass, or a layer of the same.

    Args:
        forward: ``step(params, state, x) -> (state, y, cache)``; with ``sequence``,
            ``forward(params, xs, state0[, mask=None]) -> (ys, state_T, tape)``. A layer supports
            masks if an argument is named ``mask``.
        vjp: ``step_vjp(params, cache, d_state, d_y) -> (d_params, d_state, d_x)``; with
            ``sequence``, ``vjp(params, tape, d_ys, d_state_T) -> (d_params, d_xs, d_state0)``.
        init: ``init(rng, n_in, n_hidden) -> params``, or a table of shapes such as
            ``{"W": ("n_hidden", "n_in"), "b": ((4, "n_hidden"),)}``, drawn as ``normal /
            sqrt(last size)``.
        initial_state: ``initial_state(params, batch_size) -> state``. The default, zeros
            ``(B, n_hidden)``, needs a table of shapes that names ``"n_hidden"``.
        sequence: True for a layer.
        reference: what to compare with if ``forward`` cannot be traced: a JAX function
            ``step(params, state, x) -> (state, y)`` or a cell. For a layer, the cell that it fuses.
        name: how reports call it; the default is the name of ``forward``.

    Returns:
        A cell, or a layer with ``sequence``.

    Raises:
        ContractError: an argument is not a function, or takes other arguments than these.
    """
    fresh, start = parameters(init, initial_state)
    checked = require_reference(reference)
    title = name_of(name, forward)
    if not sequence:
        return AdaptedCell(
            title,
            "from_callables",
            fresh,
            start,
            require_function("forward", forward, ("params", "state", "x")),
            require_function("vjp", vjp, ("params", "cache", "d_state", "d_y")),
            checked,
        )
    signature = signature_of(forward) if callable(forward) else None
    supports_mask = signature is not None and "mask" in signature.parameters
    keywords = ("mask",) if supports_mask else ()
    return AdaptedLayer(
        title,
        "from_callables",
        fresh,
        start,
        require_function("forward", forward, ("params", "xs", "state0"), keywords),
        require_function("vjp", vjp, ("params", "tape", "d_ys", "d_state_T")),
        checked,
        supports_mask=supports_mask,
    )
