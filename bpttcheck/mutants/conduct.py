"""Methods that keep, share or do not write their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_X
from bpttcheck.contract import Array, is_float
from bpttcheck.mutants._once import latest_only, once, recording
from bpttcheck.mutants.base import (
    ACTIVE_REGIMES,
    Change,
    Loop,
    Mutant,
    SubjectInfo,
    VjpCall,
    VjpResult,
    change_block,
    change_blocks,
    planted,
    stepped,
    zeros,
)

NOISE = 1e-3
"""The relative size of random noise."""

_DEEPEST = 5


def impure(parts: SubjectInfo) -> Iterator[Mutant]:
    """Arguments written to, reused buffers, sums that are never reset, noise, single use."""
    arguments: dict[str, Callable[[VjpCall], Any]] = {
        "d_y": lambda call: call.d_y,
        "d_state": lambda call: call.d_state,
        "a parameter": lambda call: next(iter(call.params.values()), None),
        "the record": lambda call: call.record,
    }
    for name, argument in arguments.items():
        if first_array(argument(parts.points()[0].call)) is not None:
            yield _mutant_impure(
                parts, f"{name} changed in place", f"step_vjp halves {name} in place",
                planted(_writes(argument)),
            )  # fmt: skip
    for block in parts.nonzero:
        yield _mutant_impure(
            parts, f"{block} in a buffer", f"the next call overwrites {block}",
            lambda target, block=block: planted(_buffered(block))(target),
        )  # fmt: skip
    if set(parts.param_blocks) & set(parts.nonzero):
        yield _mutant_impure(
            parts, "d_params accumulates", "d_params is added to that of all earlier calls",
            lambda target: planted(_accumulating())(target),
        )  # fmt: skip
        yield _mutant_impure(
            parts, "random noise in d_params", f"noise of {NOISE:g} on d_params",
            lambda target: planted(_noisy())(target),
        )  # fmt: skip
    for name, sentence, plant in (
        ("a second use raises", "a record serves once, then raises", once(raises=True)),
        ("a second use gives zeros", "a record serves once, then gives zeros", once(raises=False)),
        ("record on the instance", "the latest record is read, not the given one", latest_only),
    ):
        yield _mutant_impure(parts, name, sentence, plant)


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


def _mutant_impure(
    parts: SubjectInfo, name: str, sentence: str, plant: Callable[[Any], Any]
) -> Mutant:
    return Mutant(name, "impure", sentence, plant, parts.kind, (), "impure")


def _writes(argument: Callable[[VjpCall], Any]) -> Change:
    def change(call: VjpCall) -> VjpResult:
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

    def change(call: VjpCall) -> VjpResult:
        return change_block(call.right(), block, into)

    return change


def _accumulating() -> Change:
    total: dict[Any, Array] = {}

    def change(call: VjpCall) -> VjpResult:
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

    def change(call: VjpCall) -> VjpResult:
        right = call.right()

        def noisy(gradient: Array) -> Array:
            noise = 1.0 + NOISE * rng.standard_normal(np.shape(gradient))
            return np.asarray(gradient * noise, np.asarray(gradient).dtype)

        return replace(right, d_params=trees.map_leaves(noisy, right.d_params))

    return change


RING = 8
"""The number of buffers that results use in turn."""

RECORDS = 16
"""The number of records that are kept."""

CALLS = 1000
"""The number of calls after which something is lost."""


def aliasing(parts: SubjectInfo) -> Iterator[Mutant]:
    """Results and records in ring buffers, caches keyed by identity, a late counter."""
    yield _mutant_aliasing(
        parts, f"d_x in a ring of {RING} buffers", f"d_x is overwritten {RING} calls later",
        lambda target: planted(_ring())(target),
    )  # fmt: skip
    yield _mutant_aliasing(
        parts, "results handed out again", "the same arguments return the same arrays as before",
        lambda target: planted(_memo())(target),
    )  # fmt: skip
    if parts.kind == "cell":
        yield _mutant_aliasing(
            parts, f"records in a ring of {RECORDS}", f"a record is overwritten {RECORDS} steps on",
            _ring_of_records, "", RECORDS + 1,
        )  # fmt: skip
    if parts.params and parts.reached(_other_params):
        yield _mutant_aliasing(
            parts, "parameters kept by identity",
            "step_vjp reads copies of the parameters that it made when it first saw them",
            lambda target: planted(_kept_params())(target),
        )  # fmt: skip
    if set(parts.param_blocks) & set(parts.nonzero):
        yield _mutant_aliasing(
            parts, f"d_params lost after {CALLS} calls", f"d_params is zero after {CALLS} calls",
            lambda target: planted(_tiring(parts.param_blocks))(target),
        )  # fmt: skip


def _mutant_aliasing(
    parts: SubjectInfo, name: str, sentence: str, plant: Callable[[Any], Any], code: str = "impure",
    least_T: int = 1,
) -> Mutant:  # fmt: skip
    return Mutant(name, "aliasing", sentence, plant, parts.kind, (), code, least_T=least_T)


def _ring() -> Change:
    kept: dict[Any, Array] = {}
    backward_step = [0]

    def change(call: VjpCall) -> VjpResult:
        backward_step[0] += 1

        def into(gradient: Array) -> Array:
            key = backward_step[0] % RING, gradient.shape, gradient.dtype
            buffer = kept.setdefault(key, np.zeros_like(gradient))
            buffer[...] = gradient
            return buffer

        return change_block(call.right(), D_X, into)

    return change


def _memo() -> Change:
    last: list[Any] = []

    def change(call: VjpCall) -> VjpResult:
        given = call.params, call.record, call.d_state, call.d_y
        if not last or any(a is not b for a, b in zip(last[0], given, strict=True)):
            last[:] = [given, call.right()]
        return last[1]

    return change


def _ring_of_records(target: Any) -> Any:
    holders: dict[int, list[Any]] = {}
    backward_step = [0]

    def wrap(record: Any, x: Array) -> list[Any]:
        # While the step is traced, its values are no arrays: they must not outlive the trace.
        if type(x) is not np.ndarray:
            return [record]
        backward_step[0] += 1
        holder = holders.setdefault(backward_step[0] % RECORDS, [])
        holder[:] = [record]
        return holder

    return recording(target, wrap, lambda holder, pull: pull(holder[0]))


def _other_params(call: VjpCall) -> VjpResult:
    return call.pull(call.d_state, call.d_y, {k: 1.5 * v for k, v in call.params.items()})


def _kept_params() -> Change:
    kept: dict[str, tuple[Any, Array]] = {}

    def change(call: VjpCall) -> VjpResult:
        for key, value in call.params.items():
            if key not in kept or kept[key][0] is not value:
                kept[key] = value, np.array(value)
        params = {key: kept[key][1] for key in call.params}
        return call.pull(call.d_state, call.d_y, params)

    return change


def _tiring(blocks: tuple[str, ...]) -> Change:
    calls = [0]

    def change(call: VjpCall) -> VjpResult:
        calls[0] += 1
        right = call.right()
        return change_blocks(right, blocks, zeros) if calls[0] > CALLS else right

    return change


def uninitialised(parts: SubjectInfo) -> Iterator[Mutant]:
    """The last entry of the input's and of a state's gradient; the inputs of masked steps."""
    for block in (D_X, *parts.state_blocks[:1]):
        if block in parts.nonzero:
            yield Mutant(
                f"last entry of {block} never written", "uninitialised",
                f"the last entry of {block} is what the memory held", planted(_all_but_last(block)),
                parts.kind, (block,), regimes=ACTIVE_REGIMES,
            )  # fmt: skip
    if parts.masks:
        yield Mutant(
            "d_x of masked steps never written", "uninitialised",
            "d_x of a masked step is what the memory held", stepped(_real_rows), "layer", (D_X,),
            regimes=ACTIVE_REGIMES, needs_mask=True,
        )  # fmt: skip


def _all_but_last(block: str) -> Change:
    def part(gradient: Array) -> Array:
        out = np.empty_like(gradient)
        # Written entry by entry: the array may have any strides.
        for index in list(np.ndindex(*gradient.shape))[:-1]:
            out[index] = gradient[index]
        return out

    def change(call: VjpCall) -> VjpResult:
        return change_block(call.right(), block, part)

    return change


def _real_rows(loop: Loop, t: int, d_state: Any) -> VjpResult:
    found, padded = loop.pull(t, d_state), loop.padded(t)
    if padded is None:
        return found
    out = np.empty_like(found.d_x)
    out[~padded] = found.d_x[~padded]
    return replace(found, d_x=out)
