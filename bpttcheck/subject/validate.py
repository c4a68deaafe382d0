"""Runs every method of a cell or a layer once and turns whatever is wrong into one clear error.

Nothing here is mathematics: kinds, keys, structures, shapes, dtypes and finite values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from bpttcheck import trees
from bpttcheck.contract import Array, Cell, Layer, Params, State, is_float
from bpttcheck.subject.declared_surrogate import (
    validate_surrogate_sequence,
    validate_surrogate_step,
)
from bpttcheck.subject.initial import fresh_params, fresh_state
from bpttcheck.subject.items import (
    Anything,
    InputGradient,
    Items,
    Output,
    ParamsGradient,
    StateLike,
    check_result,
)
from bpttcheck.subject.kind import validate_subject
from bpttcheck.subject.options import Options, validate_options
from bpttcheck.subject.user_code import Notes, call, examining
from bpttcheck.subject.values import Expected, Place, describe
from bpttcheck.traits import Traits

__all__ = [
    "Options",
    "backward_items",
    "forward_items",
    "validate_cell",
    "validate_layer",
    "validate_options",
    "validate_subject",
]


def validate_cell(
    cell: Cell,
    *,
    n_in: int,
    n_hidden: int,
    batch_size: int,
    dtype: DTypeLike,
    rng: np.random.Generator,
    notes: Notes | None = None,
) -> None:
    """Run ``init``, ``initial_state``, ``step`` and ``step_vjp`` once and check what they return.

    Choose ``batch_size``, ``n_in`` and ``n_hidden`` all different: equal sizes hide transpositions.

    Args:
        cell: an object that :func:`validate_subject` calls a cell.
        n_in: width of ``x``.
        n_hidden: the size handed to ``init``.
        batch_size: rows B.
        dtype: float64 or float32; parameters, state and ``x`` are cast to it.
        rng: source of the parameters' seed and of the inputs.
        notes: where warnings of the cell go.

    Raises:
        ContractError: the first violation, with ``.method`` and ``.item``.
    """
    number = np.dtype(dtype)
    params = fresh_params(cell, n_in, n_hidden, number, rng, notes)
    state = fresh_state(cell, params, batch_size, number, notes)
    x = rng.standard_normal((batch_size, n_in)).astype(number)
    result = call("step", cell.step, _copy(params), _copy(state), _copy(x), notes=notes)
    new, y, cache = check_result(result, "step", forward_items("cell", state, x))
    validate_surrogate_step(cell, _copy(params), _copy(state), _copy(x), (new, y), notes)
    d_state, d_y = _cotangent(state, rng), rng.standard_normal(y.shape).astype(number)
    result = call("step_vjp", cell.step_vjp, _copy(params), cache, d_state, d_y, notes=notes)
    check_result(result, "step_vjp", backward_items("cell", params, state, x))
    _validate_initial_state_vjp(cell, params, state, rng, notes)


def validate_layer(
    layer: Layer,
    *,
    n_in: int,
    n_hidden: int,
    T: int,
    batch_size: int,
    dtype: DTypeLike,
    rng: np.random.Generator,
    notes: Notes | None = None,
    masks: tuple[str, ...] | None = None,
) -> None:
    """Run ``init``, ``initial_state``, ``forward`` and ``vjp`` and check what they return.

    A layer that supports masks runs a second time with one.

    Args:
        layer: an object that :func:`validate_subject` calls a layer.
        n_in: width of ``xs``.
        n_hidden: the size handed to ``init``.
        T: time steps.
        batch_size: rows B.
        dtype: float64 or float32; parameters, state and ``xs`` are cast to it.
        rng: source of the parameters' seed and of the inputs.
        notes: where warnings of the layer go.
        masks: the kinds of mask that it takes; None: what it says of itself.

    Raises:
        ContractError: the first violation, with ``.method`` and ``.item``.
    """
    number = np.dtype(dtype)
    params = fresh_params(layer, n_in, n_hidden, number, rng, notes)
    state = fresh_state(layer, params, batch_size, number, notes)
    xs = rng.standard_normal((T, batch_size, n_in)).astype(number)
    given_masks: list[tuple[Array, ...]] = [()]
    if _supports_mask(layer) if masks is None else "holes" in masks:
        given_masks.append((rng.random((T, batch_size)) < 0.7,))
    for mask in given_masks:
        given = _copy(params), _copy(xs), _copy(state)
        result = call("forward", layer.forward, *given, *mask, notes=notes)
        ys, _, tape = check_result(result, "forward", forward_items("layer", state, xs))
        d_state, d_ys = _cotangent(state, rng), rng.standard_normal(ys.shape).astype(number)
        result = call("vjp", layer.vjp, _copy(params), tape, d_ys, d_state, notes=notes)
        check_result(result, "vjp", backward_items("layer", params, state, xs))
    validate_surrogate_sequence(layer)
    _validate_initial_state_vjp(layer, params, state, rng, notes)


def forward_items(kind: str, state: State, x: Array) -> Items:
    """What ``step(params, state, x)`` or ``forward(params, x, state)`` has to return."""
    if kind == "cell":
        new_state = StateLike("new_state", state, "state")
        return new_state, Output("y", x.shape[:1], x.dtype), Anything("cache")
    state_T = StateLike("state_T", state, "state0", steps=len(x))
    return Output("ys", x.shape[:2], x.dtype), state_T, Anything("tape")


def backward_items(kind: str, params: Params, state: State, x: Array) -> Items:
    """What ``step_vjp`` or ``vjp`` has to return for the forward call at ``params, state, x``."""
    if kind == "cell":
        (batch,) = x.shape[:1]
        return (
            ParamsGradient("d_params", params, batch),
            StateLike("d_previous_state", state, "state", cotangent=True),
            InputGradient("d_x", Expected(x.shape, "x.shape"), x.dtype),
        )
    steps, batch = x.shape[:2]
    return (
        ParamsGradient("d_params", params, batch, steps),
        InputGradient("d_xs", Expected(x.shape, "xs.shape", steps=steps), x.dtype),
        StateLike("d_state0", state, "state0", cotangent=True, steps=steps),
    )


def _cotangent(state: State, rng: np.random.Generator) -> State:
    """Random numbers for the floating leaves, zeros for those that are only carried."""

    def draw(leaf: Array) -> Array:
        if is_float(leaf):
            return rng.standard_normal(leaf.shape).astype(leaf.dtype)
        return np.zeros_like(leaf)

    return trees.map_leaves(draw, state)


def _copy(tree: Any) -> Any:
    """What is handed to user code: a method that changes it must not mislead the next check."""
    return trees.map_leaves(np.array, tree)


def _supports_mask(layer: Any) -> bool:
    with examining("forward", "supports_mask"):
        supported = getattr(layer, "supports_mask", True)
    if type(supported) not in (bool, np.bool_):
        raise Place("forward", "supports_mask").error(
            f"supports_mask is {describe(supported)}, but should be True or False"
        )
    return bool(supported)


def _validate_initial_state_vjp(
    subject: Any, params: Params, state: State, rng: np.random.Generator, notes: Notes | None
) -> None:
    with examining("initial_state_vjp"):
        method = Traits.of(subject).initial_state_vjp
    if method is None:
        return
    name = "initial_state_vjp"
    result = call(name, method, _copy(params), _cotangent(state, rng), notes=notes)
    item = ParamsGradient("d_params", params, batch=_rows(state), partial=True)
    with examining(name, item.name):
        item.layout(result, Place(name, item.name))
        item.content(result, Place(name, item.name))


def _rows(state: State) -> int:
    return next((leaf.shape[0] for leaf in trees.leaves(state)), 0)
