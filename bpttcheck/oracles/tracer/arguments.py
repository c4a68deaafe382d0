"""The arguments of a NumPy call: which are traced, and what NumPy and JAX get instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bpttcheck.oracles.tracer.memory import (
    ArrayProxy,
    Selection,
    dummy,
    fill_with_dummies,
    owner_of,
)
from bpttcheck.oracles.tracer.run import TracingRun, decline, is_active


def collect(*trees: Any) -> list[ArrayProxy]:
    """Every traced or known array in nested arguments."""
    found: list[ArrayProxy] = []

    def visit(item: Any) -> Any:
        if isinstance(item, Selection):
            decline(
                "z[mask] for a mask that depends on values, used other than entry by entry",
                "np.where(mask, a, b)",
            )
        if isinstance(item, ArrayProxy):
            if not item.known and not is_active(item.buffer.run):
                what = "a traced array was kept from an earlier call of the step"
                decline(what, "keep nothing outside the step")
            found.append(item)
        return item

    replace(trees, visit)
    return found


def replace(tree: Any, swap: Callable[[Any], Any]) -> Any:
    """``tree`` with ``swap`` applied to everything that is no list, tuple, dict or slice."""
    if type(tree) in (list, tuple):
        return type(tree)(replace(item, swap) for item in tree)
    if isinstance(tree, tuple):
        return type(tree)(*(replace(item, swap) for item in tree))
    if type(tree) is dict:
        return {key: replace(item, swap) for key, item in tree.items()}
    if type(tree) is slice:
        return slice(*(replace(item, swap) for item in (tree.start, tree.stop, tree.step)))
    return swap(tree)


def shadows(tree: Any) -> Any:
    """``tree`` with each array replaced by its shadow: NumPy's own arguments."""
    return replace(tree, lambda item: item.shadow if isinstance(item, ArrayProxy) else item)


def stand_ins(tree: Any) -> Any:
    """The same with copies, so that the call cannot change or alias the shadows."""
    return replace(tree, lambda item: stand_in(item) if isinstance(item, ArrayProxy) else item)


def stand_in(held: ArrayProxy, *, regular: bool = False) -> Any:
    """A copy of a shadow in the same layout; exact if known, else with dummy values."""
    if not isinstance(held.shadow, np.ndarray):
        return dummy(held.shadow.dtype)
    copy = np.empty_like(held.shadow)
    if held.known:
        copy[...] = held.shadow
    else:
        fill_with_dummies(copy, regular=regular)
    return copy


def values(tree: Any, result: np.dtype[Any] | None = None) -> Any:
    """``tree`` with each array replaced by its JAX value.

    A narrow dtype becomes ``result``, the wider one of its kind that NumPy then computes in.
    """

    def value(item: Any) -> Any:
        if isinstance(item, ArrayProxy):
            # Constants stay NumPy arrays: JAX needs them for indices and repeats.
            item = np.array(item.shadow) if item.known else item.read()
        elif isinstance(item, np.ndarray):
            item = np.array(item)
        own = getattr(item, "dtype", None)
        if result is None or not isinstance(own, np.dtype) or own.kind != result.kind:
            return item
        return item.astype(result) if own.itemsize < result.itemsize else item

    return replace(tree, value)


def foreign_owners(run: TracingRun, *trees: Any) -> set[int]:
    """``id`` of the owners of all arrays in nested arguments that were not made in this run."""
    found: set[int] = set()

    def visit(item: Any) -> Any:
        if isinstance(item, ArrayProxy):
            item = item.shadow
        if isinstance(item, np.ndarray) and id(owner_of(item)) not in run.buffers:
            found.add(id(owner_of(item)))
        return item

    replace(trees, visit)
    return found


def is_traced(*trees: Any) -> bool:
    """True if an argument depends on the inputs of the step."""
    return any(not item.known for item in collect(trees))
