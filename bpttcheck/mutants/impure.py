"""The backward pass is no function: it changes, keeps or draws what it should not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Array, is_float
from bpttcheck.mutants._once import latest_only, once
from bpttcheck.mutants.base import Anatomy, Call, Change, Mutant, Pulled, change_block, planted

NOISE = 1e-3
"""The relative size of random noise."""

_DEEPEST = 5


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """Arguments written to, buffers used again, sums that never start anew, noise, one use only."""
    arguments: dict[str, Callable[[Call], Any]] = {
        "d_y": lambda call: call.d_y,
        "d_state": lambda call: call.d_state,
        "a parameter": lambda call: next(iter(call.params.values()), None),
        "the record": lambda call: call.record,
    }
    for name, argument in arguments.items():
        if first_array(argument(parts.points()[0].call)) is not None:
            yield _mutant(
                parts, f"{name} changed in place", f"step_vjp halves {name} in place",
                planted(_writes(argument)),
            )  # fmt: skip
    for block in parts.nonzero:
        yield _mutant(
            parts, f"{block} in a buffer", f"the next call overwrites {block}",
            lambda target, block=block: planted(_buffered(block))(target),
        )  # fmt: skip
    if set(parts.param_blocks) & set(parts.nonzero):
        yield _mutant(
            parts, "d_params accumulates", "d_params is added to that of all earlier calls",
            lambda target: planted(_accumulating())(target),
        )  # fmt: skip
        yield _mutant(
            parts, "random noise in d_params", f"noise of {NOISE:g} on d_params",
            lambda target: planted(_noisy())(target),
        )  # fmt: skip
    for name, sentence, plant in (
        ("a second use raises", "a record serves once, then raises", once(raises=True)),
        ("a second use gives zeros", "a record serves once, then gives zeros", once(raises=False)),
        ("record on the instance", "the latest record is read, not the given one", latest_only),
    ):
        yield _mutant(parts, name, sentence, plant)


def first_array(thing: Any, depth: int = _DEEPEST) -> Array | None:
    """The first array that is floating, writeable and not empty, inside containers and objects.

    None if there is none within ``depth`` levels.
    """
    if isinstance(thing, np.ndarray):
        usable = thing.size and is_float(thing) and thing.flags.writeable
        return thing if usable else None
    if not depth or isinstance(thing, (type, ModuleType)):
        return None
    if isinstance(thing, Mapping):
        inside = list(thing.values())
    elif isinstance(thing, (tuple, list)):
        inside = list(thing)
    else:
        inside = list(getattr(thing, "__dict__", {}).values())
    below = (first_array(one, depth - 1) for one in inside)
    return next((found for found in below if found is not None), None)


def _mutant(parts: Anatomy, name: str, sentence: str, plant: Callable[[Any], Any]) -> Mutant:
    return Mutant(name, "impure", sentence, plant, parts.kind, (), "impure")


def _writes(argument: Callable[[Call], Any]) -> Change:
    def change(call: Call) -> Pulled:
        right = call.right()
        array = first_array(argument(call))
        if array is not None:
            array *= 0.5
        return right

    return change


def _buffered(block: str) -> Change:
    kept: dict[Any, Array] = {}

    def into(gradient: Array) -> Array:
        buffer = kept.setdefault((gradient.shape, gradient.dtype), np.empty_like(gradient))
        buffer[...] = gradient
        return buffer

    def change(call: Call) -> Pulled:
        return change_block(call.right(), block, into)

    return change


def _accumulating() -> Change:
    total: dict[Any, Array] = {}

    def change(call: Call) -> Pulled:
        right = call.right()
        for key, value in right.d_params.items():
            at = key, np.shape(value), np.asarray(value).dtype
            total[at] = total.get(at, 0.0) + value
        d_params = {
            key: total[key, np.shape(value), np.asarray(value).dtype]
            for key, value in right.d_params.items()
        }
        return replace(right, d_params=d_params)

    return change


def _noisy() -> Change:
    rng = np.random.default_rng(0)

    def change(call: Call) -> Pulled:
        right = call.right()

        def noisy(gradient: Array) -> Array:
            noise = 1.0 + NOISE * rng.standard_normal(np.shape(gradient))
            return np.asarray(gradient * noise, np.asarray(gradient).dtype)

        return replace(right, d_params=trees.map_leaves(noisy, right.d_params))

    return change
