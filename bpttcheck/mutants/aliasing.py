"""What is kept between calls is handed out again: rings of buffers, memos by identity, counters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.mutants._once import recording
from bpttcheck.mutants.base import (
    Anatomy,
    Call,
    Change,
    Mutant,
    Pulled,
    change_block,
    change_blocks,
    planted,
    zeros,
)

RING = 8
"""Buffers that results take in turns."""

RECORDS = 16
"""Records that are kept at a time."""

CALLS = 1000
"""Calls after which something is lost."""


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """Results and records in rings, parameters and results by identity, a late counter."""
    yield _mutant(
        parts, f"d_x in a ring of {RING} buffers", f"d_x is overwritten {RING} calls later",
        lambda target: planted(_ring())(target),
    )  # fmt: skip
    yield _mutant(
        parts, "results handed out again", "the same arguments give the very arrays given before",
        lambda target: planted(_memo())(target),
    )  # fmt: skip
    if parts.kind == "cell":
        yield _mutant(
            parts, f"records in a ring of {RECORDS}", f"a record is overwritten {RECORDS} steps on",
            _ring_of_records, "", RECORDS + 1,
        )  # fmt: skip
    if parts.params and parts.reached(_other_params):
        yield _mutant(
            parts, "parameters kept by identity",
            "step_vjp reads copies of the parameters that it made when it first saw them",
            lambda target: planted(_kept_params())(target),
        )  # fmt: skip
    if set(parts.param_blocks) & set(parts.nonzero):
        yield _mutant(
            parts, f"d_params lost after {CALLS} calls", f"d_params is zero after {CALLS} calls",
            lambda target: planted(_tiring(parts.param_blocks))(target),
        )  # fmt: skip


def _mutant(
    parts: Anatomy, name: str, sentence: str, plant: Callable[[Any], Any], code: str = "impure",
    least_T: int = 1,
) -> Mutant:  # fmt: skip
    return Mutant(name, "aliasing", sentence, plant, parts.kind, (), code, least_T=least_T)


def _ring() -> Change:
    kept: dict[Any, Array] = {}
    turn = [0]

    def change(call: Call) -> Pulled:
        turn[0] += 1

        def into(gradient: Array) -> Array:
            key = turn[0] % RING, gradient.shape, gradient.dtype
            buffer = kept.setdefault(key, np.zeros_like(gradient))
            buffer[...] = gradient
            return buffer

        return change_block(call.right(), "d_x", into)

    return change


def _memo() -> Change:
    last: list[Any] = []

    def change(call: Call) -> Pulled:
        given = call.params, call.record, call.d_state, call.d_y
        if not last or any(a is not b for a, b in zip(last[0], given, strict=True)):
            last[:] = [given, call.right()]
        return last[1]

    return change


def _ring_of_records(target: Any) -> Any:
    holders: dict[int, list[Any]] = {}
    turn = [0]

    def wrap(record: Any, x: Array) -> list[Any]:
        # While the step is traced, its values are no arrays: they must not outlive the trace.
        if type(x) is not np.ndarray:
            return [record]
        turn[0] += 1
        holder = holders.setdefault(turn[0] % RECORDS, [])
        holder[:] = [record]
        return holder

    return recording(target, wrap, lambda holder, pull: pull(holder[0]))


def _other_params(call: Call) -> Pulled:
    return call.pull(call.d_state, call.d_y, {k: 1.5 * v for k, v in call.params.items()})


def _kept_params() -> Change:
    kept: dict[str, tuple[Any, Array]] = {}

    def change(call: Call) -> Pulled:
        for key, value in call.params.items():
            if key not in kept or kept[key][0] is not value:
                kept[key] = value, np.array(value)
        params = {key: kept[key][1] for key in call.params}
        return call.pull(call.d_state, call.d_y, params)

    return change


def _tiring(blocks: tuple[str, ...]) -> Change:
    calls = [0]

    def change(call: Call) -> Pulled:
        calls[0] += 1
        right = call.right()
        return change_blocks(right, blocks, zeros) if calls[0] > CALLS else right

    return change
