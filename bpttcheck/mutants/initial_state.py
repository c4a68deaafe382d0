"""The gradient of the initial state is wrong while all else is right."""

from __future__ import annotations

from collections.abc import Iterator

from bpttcheck.mutants.base import (
    LIVELY,
    Anatomy,
    Call,
    Change,
    Edit,
    Mutant,
    Pulled,
    change_blocks,
    in_layer,
    times,
    zeros,
)

_HOW = (
    (zeros, "missing", "is zero", "missing-path"),
    (times(2.0), "times 2", "is 2 times the right one", "scale"),
)


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """The whole gradient of the initial state, and each leaf of it, zero or doubled."""
    leaves = parts.state_blocks
    groups = {"d_state0": leaves}
    if len(leaves) > 1:
        groups |= {f"d_state0{path}": (f"d_previous_state{path}",) for path in parts.state_paths}
    for name, blocks in groups.items():
        for how, verb, what, plain in _HOW:
            change = _wrong(blocks, how)
            if parts.reached(change):
                yield Mutant(
                    f"{name} {verb}", "initial_state", f"{name} {what}", in_layer(change),
                    "layer", blocks, "initial-state", (plain,), regimes=LIVELY,
                )  # fmt: skip


def _wrong(blocks: tuple[str, ...], how: Edit) -> Change:
    def change(call: Call) -> Pulled:
        return change_blocks(call.right(), blocks, how)

    return change
