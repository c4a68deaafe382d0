"""Fresh parameters and a fresh state: what ``init`` and ``initial_state`` have to return."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Array, Params, State, is_float
from bpttcheck.subject.user_code import Notes, call, examining
from bpttcheck.subject.values import (
    DType,
    Expected,
    Place,
    check_finite,
    check_layout,
    describe,
    dtype_remedy,
    is_a,
    same,
)

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
        ContractError: ``init`` raised, returned something else than a dict of finite floating
            arrays, or two different results from equal seeds.
    """
    seed = int(rng.integers(2**63))
    results: list[Params] = []
    for _ in range(2):
        generator = np.random.default_rng(seed)
        result = call("init", subject.init, generator, n_in, n_hidden, notes=notes)
        with examining("init", "params"):
            _check_params(result)
            results.append({key: np.array(value) for key, value in result.items()})
    _require_equal(*results, place=Place("init", "params"), remedy="uses randomness besides rng")
    return _cast(results[0], dtype, Place("init", "params"))


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
        ContractError: ``initial_state`` raised, returned something else than arrays ``(B, ...)`` in
            tuples and dicts, or two different results.
    """
    results: list[State] = []
    for _ in range(2):
        given = trees.map_leaves(np.array, params), batch_size
        result = call("initial_state", subject.initial_state, *given, notes=notes)
        with examining("initial_state", "state"):
            for place, leaf in _walk(result, Place("initial_state", "state")):
                _check_state_leaf(leaf, place, batch_size)
            results.append(trees.map_leaves(np.array, result))
    place = Place("initial_state", "state")
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
    place = Place("init", "params")
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


def _walk(tree: Any, place: Place, depth: int = 0) -> Iterator[tuple[Place, Any]]:
    """The leaves of a state and their places; raise on a container that is no tuple or dict."""
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


def _check_state_leaf(leaf: Any, place: Place, batch: int) -> None:
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


def _require_equal(first: Any, second: Any, *, place: Place, remedy: str) -> None:
    said = f"two calls with {'equal seeds' if place.method == 'init' else 'the same arguments'}"
    if trees.structure(first) != trees.structure(second):
        raise place.error(f"{said} return different structures: {place.method} {remedy}")
    paths = trees.structure(first).paths
    for path, a, b in zip(paths, trees.leaves(first), trees.leaves(second), strict=True):
        if not same(a, b):
            at = place.at(path)
            raise at.error(f"{said} return different values of {at.item}: {place.method} {remedy}")


def _cast(tree: Any, dtype: DType, place: Place) -> Any:
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
