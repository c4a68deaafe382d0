"""A ``torch.autograd.Function`` as a cell or a layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bpttcheck import trees
from bpttcheck.adapt.arguments import given, name_of, require_function, require_reference
from bpttcheck.adapt.parameters import Init, parameters
from bpttcheck.adapt.subjects import AdaptedCell, AdaptedLayer
from bpttcheck.adapt.torch_gradients import to_array
from bpttcheck.adapt.torch_rule import TorchRule
from bpttcheck.errors import ContractError


def from_autograd_function(
    F: Any,
    *,
    init: Init,
    initial_state: Callable[..., Any] | None = None,
    arguments: Callable[..., tuple[Any, ...]] | None = None,
    reference: Any = None,
    sequence: bool = False,
    name: str | None = None,
) -> AdaptedCell | AdaptedLayer:
    """A cell or a layer whose backward pass is the ``backward`` of a ``torch.autograd.Function``.

    It is run as in training. A result whose cotangent is exactly zero is left out of the loss, so
    that ``backward`` meets what torch hands in there: zeros, or None after
    ``ctx.set_materialize_grads(False)``. Every backward pass runs twice over its graph, as with
    ``retain_graph=True``, and the second must agree; one that refuses to run again is no mistake. A
    gradient that ``backward`` returns as None is not checked, and neither is a final state that
    ``ctx.mark_non_differentiable`` marks: the report names them.

    Args:
        F: the subclass itself. ``F.apply(*arguments)`` returns ``(y, *leaves of the new state)``,
            or one tensor that is both; with ``sequence``, ``(ys, *leaves of state_T)``, or ``ys``
            alone, whose last step is the final state.
        init: ``init(rng, n_in, n_hidden) -> params``, or a table of shapes such as
            ``{"W": ("n_hidden", "n_in"), "b": ((4, "n_hidden"),)}``, drawn as ``normal /
            sqrt(last size)``.
        initial_state: ``initial_state(params, batch_size) -> state``. The default, zeros
            ``(B, n_hidden)``, needs a table of shapes that names ``"n_hidden"``.
        arguments: ``(params, state, x) -> tuple`` of what ``F.apply`` takes, from torch tensors; it
            is the place for a ``.cuda()``, a transpose or a constant. The default is
            ``(x, *leaves of state, *parameters)``, these in the order of the names of ``init``.
        reference: what to compare with: a JAX function ``step(params, state, x) -> (state, y)`` or
            a cell. Without one the finite differences decide.
        sequence: True for a layer; ``x`` is then ``xs (T, B, n_in)``.
        name: how reports call it; the default is the name of ``F``.

    Returns:
        A cell, or a layer with ``sequence``.

    Raises:
        ContractError: torch is missing, or ``F`` is no subclass with a ``backward``.
    """
    fresh, start = parameters(init, initial_state)
    function = _require_subclass(F)
    if arguments is not None:
        require_function("arguments", arguments, ("params", "state", "x"))
    engine = TorchRule(function, arguments, sequence)
    return (AdaptedLayer if sequence else AdaptedCell)(
        name_of(name, function),
        "from_autograd_function",
        partial(engine.init, _on_numpy(fresh)),
        _on_numpy(start),
        engine.forward if sequence else engine.step,
        engine.vjp if sequence else engine.step_vjp,
        require_reference(reference),
        state_gradient=engine.final_state_gradient,
    )


def _require_subclass(F: Any) -> Any:
    try:
        from torch.autograd import Function
    except ImportError as error:
        raise ContractError(
            "from_autograd_function needs torch, which is not installed; run: pip install torch"
        ) from error
    expected = "expected a subclass of torch.autograd.Function"
    if not isinstance(F, type):
        advice = "give the class itself, not an instance and not F.apply"
        raise ContractError(f"{given('F', F)}, {expected}; {advice}", item="F")
    if not issubclass(F, Function):
        raise ContractError(f"F={F!r}, {expected}", item="F")
    if F.backward is Function.backward and F.vjp is Function.vjp:
        raise ContractError(
            f"F={F!r} has no backward, expected one to test; write a static method "
            "backward(ctx, *gradients)",
            item="F",
        )
    return F


def _on_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        return trees.map_leaves(_numpy, function(*arguments))

    return run


def _numpy(leaf: Any) -> Any:
    import torch

    return to_array(leaf) if isinstance(leaf, torch.Tensor) else leaf
