"""Plain functions as a cell or a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bpttcheck.adapt.arguments import name_of, require_function, require_reference, signature_of
from bpttcheck.adapt.parameters import Init, parameters
from bpttcheck.adapt.subjects import AdaptedCell, AdaptedLayer


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
