"""Runs every method of a cell or a layer once and reports the first violation of the contract.

It checks kinds, keys, structures, shapes, dtypes and finite values, not mathematics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from bpttcheck import trees
from bpttcheck.contract import Array, Cell, Layer, Params, State, is_float
from bpttcheck.subject.items import (
    InputGradient,
    Items,
    Opaque,
    Output,
    ParamsGradient,
    StateLike,
    check_result,
)
from bpttcheck.subject.surrogate import validate_surrogate_sequence, validate_surrogate_step
from bpttcheck.subject.user_code import Notes, call, guarded_inspection
from bpttcheck.subject.values import (
    DType,
    Expected,
    Location,
    check_finite,
    check_layout,
    describe,
    dtype_remedy,
    is_a,
    same,
)
from bpttcheck.traits import trait


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
        cell: an object that :func:`bpttcheck.subject.subject.validate_subject` calls a cell.
        n_in: width of ``x``.
        n_hidden: the size handed to ``init``.
        batch_size: rows B.
        dtype: float64 or float32; parameters, state and ``x`` are cast to it.
        rng: source of the parameters' seed and of the inputs.
        notes: receives the warnings of the cell.

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
        layer: an object that :func:`bpttcheck.subject.subject.validate_subject` calls a layer.
        n_in: width of ``xs``.
        n_hidden: the size handed to ``init``.
        T: time steps.
        batch_size: rows B.
        dtype: float64 or float32; parameters, state and ``xs`` are cast to it.
        rng: source of the parameters' seed and of the inputs.
        notes: receives the warnings of the layer.
        masks: the kinds of mask that it supports; None: those of its traits.

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
        return new_state, Output("y", x.shape[:1], x.dtype), Opaque("cache")
    state_T = StateLike("state_T", state, "state0", steps=len(x))
    return Output("ys", x.shape[:2], x.dtype), state_T, Opaque("tape")


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
    """A copy for user code: a method that changes it must not mislead the next check."""
    return trees.map_leaves(np.array, tree)


def _supports_mask(layer: Any) -> bool:
    with guarded_inspection("forward", "supports_mask"):
        supported = getattr(layer, "supports_mask", True)
    if type(supported) not in (bool, np.bool_):
        raise Location("forward", "supports_mask").error(
            f"supports_mask is {describe(supported)}, but should be True or False"
        )
    return bool(supported)


def _validate_initial_state_vjp(
    subject: Any, params: Params, state: State, rng: np.random.Generator, notes: Notes | None
) -> None:
    with guarded_inspection("initial_state_vjp"):
        method = trait(subject, "initial_state_vjp")
    if method is None:
        return
    name = "initial_state_vjp"
    result = call(name, method, _copy(params), _cotangent(state, rng), notes=notes)
    item = ParamsGradient("d_params", params, batch=_rows(state), partial=True)
    with guarded_inspection(name, item.name):
        item.layout(result, Location(name, item.name))
        item.content(result, Location(name, item.name))


def _rows(state: State) -> int:
    return next((leaf.shape[0] for leaf in trees.leaves(state)), 0)


_DEEPEST = 16


def fresh_params(
    subject: Any,
    n_in: int,
    n_hidden: int,
    dtype: DType,
    rng: np.random.Generator,
    notes: Notes | None = None,
) -> Params:
    """Call ``init`` twice with equal seeds, check both results, and cast one to ``dtype``.

    Args:
        subject: a cell or a layer.
        n_in: width of ``x``.
        n_hidden: the hidden size.
        dtype: the checked dtype.
        rng: source of the seed.
        notes: where warnings go.

    Returns:
        The parameters, copies of ``dtype``.

    Raises:
        ContractError: ``init`` raised, returned anything but a dict of finite floating arrays, or
            two different results from equal seeds.
    """
    seed = int(rng.integers(2**63))
    results: list[Params] = []
    for _ in range(2):
        generator = np.random.default_rng(seed)
        result = call("init", subject.init, generator, n_in, n_hidden, notes=notes)
        with guarded_inspection("init", "params"):
            _check_params(result)
            results.append({key: np.array(value) for key, value in result.items()})
    _require_equal(*results, place=Location("init", "params"), remedy="uses randomness besides rng")
    return _cast(results[0], dtype, Location("init", "params"))


def fresh_state(
    subject: Any, params: Params, batch_size: int, dtype: DType, notes: Notes | None = None
) -> State:
    """Call ``initial_state`` twice, check both results, and cast one to ``dtype``.

    Args:
        subject: a cell or a layer.
        params: its parameters.
        batch_size: rows B.
        dtype: the checked dtype; integer and boolean leaves keep their own.
        notes: where warnings go.

    Returns:
        The state, made of copies.

    Raises:
        ContractError: ``initial_state`` raised, returned anything but arrays ``(B, ...)`` in tuples
            and dicts, or two different results.
    """
    results: list[State] = []
    for _ in range(2):
        given = trees.map_leaves(np.array, params), batch_size
        result = call("initial_state", subject.initial_state, *given, notes=notes)
        with guarded_inspection("initial_state", "state"):
            for place, leaf in _walk(result, Location("initial_state", "state")):
                _check_state_leaf(leaf, place, batch_size)
            results.append(trees.map_leaves(np.array, result))
    place = Location("initial_state", "state")
    _require_equal(*results, place=place, remedy="is random or keeps state")
    if notes is not None and dtype == np.float32:
        wide = [leaf for leaf in trees.leaves(results[0]) if leaf.dtype == np.float64]
        if wide:
            notes.add(
                "initial_state gives float64 for float32 parameters; it was cast: write "
                "np.zeros(shape, dtype=params[...].dtype)"
            )
    return _cast(results[0], dtype, place)


def _check_params(result: Any) -> None:
    place = Location("init", "params")
    if not is_a(result, dict):
        remedy = "forgot to return it?" if result is None else "return {'W': W, 'b': b}"
        raise place.error(f"params is {describe(result)}, but should be a dict of arrays: {remedy}")
    for key, value in result.items():
        if not is_a(key, str):
            raise place.error(f"params has {describe(key)} as a key, but keys should be strings")
        at = place.at(f"[{key!r}]")
        check_layout(value, at, Expected(None))
        if value.dtype.kind != "f":
            remedy = (
                "parameters are differentiated; write array.astype(float), or keep the number as "
                "an attribute of the cell"
            )
            raise at.error(f"{at.item}.dtype={value.dtype}, but should be floating: {remedy}")
        check_finite(value, at)


def _walk(tree: Any, place: Location, depth: int = 0) -> Iterator[tuple[Location, Any]]:
    """The leaves of a state and their places; raise on a container other than a tuple or dict."""
    if depth > _DEEPEST:
        raise place.error("state is nested without end: does a container hold itself?")
    if is_a(tree, dict):
        for key, item in tree.items():
            if not is_a(key, (str, int)):
                raise place.error(f"{place.item} has {describe(key)} as a key; use strings")
            yield from _walk(item, place.at(f"[{key!r}]"), depth + 1)
    elif is_a(tree, tuple):
        names = getattr(tree, "_fields", None)
        for i, item in enumerate(tree):
            path = f".{names[i]}" if names else f"[{i}]"
            yield from _walk(item, place.at(path), depth + 1)
    elif is_a(tree, list):
        raise place.error(
            f"{place.item} is {describe(tree)}, but should be an array, a tuple or a dict: "
            "use a tuple"
        )
    else:
        yield place, tree


def _check_state_leaf(leaf: Any, place: Location, batch: int) -> None:
    if is_a(leaf, (bool, int, float, np.generic)):
        raise place.error(
            f"{place.item} is {describe(leaf)}, but should be an array of shape (B, ...): write "
            f"np.full(batch_size, {leaf})"
        )
    check_layout(leaf, place, Expected(None))
    shape = leaf.shape
    if not shape or shape[0] != batch:
        raise place.error(
            f"{place.item}.shape={shape}, but should be ({batch}, ...) for batch_size={batch}: "
            + _batch_hint(shape, batch)
        )
    if leaf.dtype.kind not in "fiub":
        raise place.error(
            f"{place.item}.dtype={leaf.dtype}, but should be floating (or integer or bool for a "
            f"leaf that is only carried): {dtype_remedy(leaf.dtype, np.dtype(float))}"
        )
    # A running maximum and a log-probability start at -inf.
    check_finite(np.where(np.isinf(leaf), 0, leaf), place)


def _batch_hint(shape: tuple[int, ...], batch: int) -> str:
    if not shape:
        return "it needs the batch as its first axis"
    if batch in shape:
        return "the batch is the first axis; transposed?"
    if shape[0] == 1:
        return "one row for all? write np.repeat(row, batch_size, axis=0)"
    if len(shape) == 1:
        return "one row for all? write np.zeros((batch_size, n_hidden))"
    return "is the batch size fixed somewhere? use the argument batch_size"


def _require_equal(first: Any, second: Any, *, place: Location, remedy: str) -> None:
    said = f"two calls with {'equal seeds' if place.method == 'init' else 'the same arguments'}"
    if trees.structure(first) != trees.structure(second):
        raise place.error(f"{said} return different structures: {place.method} {remedy}")
    paths = trees.structure(first).paths
    for path, a, b in zip(paths, trees.leaves(first), trees.leaves(second), strict=True):
        if not same(a, b):
            at = place.at(path)
            raise at.error(f"{said} return different values of {at.item}: {place.method} {remedy}")


def _cast(tree: Any, dtype: DType, place: Location) -> Any:
    """Copies of ``dtype`` of the floating leaves; the others keep theirs."""

    def cast(leaf: Array) -> Array:
        return np.array(leaf, dtype=dtype if is_float(leaf) else leaf.dtype, order="C")

    with np.errstate(all="ignore"):
        out = trees.map_leaves(cast, tree)
    paths = trees.structure(out).paths
    given = trees.leaves(tree)
    for path, leaf, before in zip(paths, trees.leaves(out), given, strict=True):
        at = place.at(path)
        if not np.isfinite(leaf[np.isfinite(before)]).all():
            raise at.error(f"{at.item} overflows when it is cast to {dtype}")
    return out
