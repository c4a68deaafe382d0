"""A path of the chain rule is left out, or counted twice."""

from __future__ import annotations

from collections.abc import Iterator

from bpttcheck.mutants.base import (
    Anatomy,
    Call,
    Change,
    Edit,
    Mutant,
    Pulled,
    change_block,
    change_leaf,
    planted,
    times,
    zeros,
)

_HOW: tuple[tuple[str, Edit, str], ...] = (
    ("ignored", zeros, "missing-path"),
    ("doubled", times(2.0), "doubled-path"),
)


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """Each output zero; each cotangent ignored and doubled.

    A cotangent on which nothing depends, and an output that is zero anyway, give no mutant.
    """
    for block in parts.blocks:
        sizes = parts.where_filled(block)
        if sizes is not None:
            yield Mutant(
                f"{block} missing", "path", f"{block} is zero", planted(_output(block)),
                parts.kind, (block,), "missing-path", sizes=sizes,
            )  # fmt: skip
    cotangents: dict[str, tuple[str, ...]] = {"d_y": (), "d_state": parts.state_paths}
    cotangents |= {f"d_state{path}": (path,) for path in parts.state_paths}
    for cotangent, paths in cotangents.items():
        for verb, how, code in _HOW:
            change = _input(cotangent, paths, how)
            blocks = parts.reached(change)
            if blocks:
                yield Mutant(
                    f"{cotangent} {verb}", "path", f"{cotangent} is {verb}", planted(change),
                    parts.kind, blocks, code,
                )  # fmt: skip


def _output(block: str) -> Change:
    def change(call: Call) -> Pulled:
        return change_block(call.right(), block, zeros)

    return change


def _input(cotangent: str, paths: tuple[str, ...], how: Edit) -> Change:
    def change(call: Call) -> Pulled:
        if cotangent == "d_y":
            return call.pull(call.d_state, how(call.d_y))
        d_state = call.d_state
        for path in paths:
            d_state = change_leaf(d_state, path, how)
        return call.pull(d_state, call.d_y)

    return change
