"""A cell or a layer as a JAX function whose backward pass is the hand-derived one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from bpttcheck.bptt.layer import CellLayer
from bpttcheck.contract import CELL_METHODS, LAYER_METHODS, is_cell, is_layer
from bpttcheck.errors import ContractError
from bpttcheck.on_jax.arguments import require_form, require_sequence
from bpttcheck.on_jax.loops import HostLoops, NativeLoops, warn_of_the_cost
from bpttcheck.on_jax.native import form_of


def layer(subject: Any) -> Callable[..., tuple[Any, Any]]:
    """The JAX function ``f(params, xs, state0, mask=None) -> (ys, state_T)`` of a cell or a layer.

    ``jax.grad`` of it runs a hand-derived backward pass, under ``jax.jit``, ``jax.vmap`` and
    ``lax.scan`` as well. The built-in cells, and the layers of the house that fuse them, have a
    form in ``jax.numpy``. Any other subject is called back on the host, in NumPy.

    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from bpttcheck.cells import LSTM
    >>> cell, f = LSTM(), layer(LSTM())
    >>> params = cell.init(np.random.default_rng(0), n_in=2, n_hidden=3)
    >>> state0 = cell.initial_state(params, batch_size=4)
    >>> d = jax.grad(lambda params: jnp.sum(f(params, jnp.ones((5, 4, 2)), state0)[0]))(params)
    >>> d["W_hh"].shape
    (12, 3)

    What ``f`` takes, all of one dtype, float32, or float64 where JAX's 64-bit mode is on:

    - ``params``: the dict that the subject's ``init`` draws;
    - ``xs (T, B, n_in)``;
    - ``state0``: the state before the first step; a native form has no default for it;
    - ``mask (T, B)``: bool, true where the step is real. A masked step carries the state through,
      puts out zero and sends no gradient anywhere, whatever stands in the padding.

    There is no forward-mode derivative of ``f`` (``jax.jvp``, ``jax.jacfwd``): JAX has none for a
    ``custom_vjp``.

    Args:
        subject: a :class:`bpttcheck.Cell` or a :class:`bpttcheck.Layer`.

    Returns:
        ``f``. It raises ``ContractError`` if a shape or a dtype is wrong, or if a gradient comes
        back from the host in another shape than what it is the gradient of.

    Raises:
        ContractError: ``subject`` is neither a cell nor a layer, or runs JAX itself.

    Warns:
        HostCallbackWarning: ``subject`` has no native form.
    """
    _require_subject(subject)
    form = form_of(subject)
    if form is None:
        warn_of_the_cost(subject)
        loops = HostLoops(CellLayer(subject) if is_cell(subject) else subject)
    else:
        loops = NativeLoops(form)
    sequence = with_rule(loops)

    def f(params: Any, xs: Any, state0: Any, mask: Any = None) -> tuple[Any, Any]:
        params, xs, state0, mask = require_sequence(params, xs, state0, mask)
        if form is not None:
            require_form(form, params, xs, state0)
        return sequence(params, xs, state0, mask)

    f.__name__ = f.__qualname__ = f"{type(subject).__name__}_on_jax"
    return f


def with_rule(loops: NativeLoops | HostLoops) -> Callable[..., tuple[Any, Any]]:
    """``f(params, xs, state0, mask) -> (ys, state_T)``, differentiated by ``loops.backward``."""

    @jax.custom_vjp
    def sequence(params: Any, xs: Any, state0: Any, mask: Any) -> tuple[Any, Any]:
        ys, state_T, _ = loops.forward(params, xs, state0, mask)
        return ys, state_T

    def forward(params: Any, xs: Any, state0: Any, mask: Any) -> tuple[Any, Any]:
        ys, state_T, tape = loops.forward(params, xs, state0, mask)
        return (ys, state_T), tape

    def backward(tape: Any, cotangents: Any) -> tuple[Any, ...]:
        return *loops.backward(tape, *cotangents), None

    sequence.defvjp(forward, backward)
    return sequence


def _require_subject(subject: Any) -> None:
    if isinstance(subject, type) or not (is_cell(subject) or is_layer(subject)):
        hint = "; give an instance" if isinstance(subject, type) else ""
        raise ContractError(
            f"subject={subject!r} (type={type(subject).__name__}) is neither a cell with"
            f" {', '.join(CELL_METHODS)} nor a layer with {', '.join(LAYER_METHODS)}{hint}",
            item="subject",
        )
    if getattr(subject, "source", None) == "from_custom_vjp":
        raise ContractError(
            f"subject={subject!r} runs JAX itself, expected NumPy: JAX inside a callback of JAX can"
            " wait for itself forever; call the function that was given to from_custom_vjp",
            item="subject",
        )
