"""One output of the backward pass has the wrong sign."""

from __future__ import annotations

from collections.abc import Iterator

from bpttcheck.mutants.base import Anatomy, Call, Mutant, Pulled, change_block, planted, times


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """One for each output that is not always zero."""
    for block in parts.blocks:

        def change(call: Call, block: str = block) -> Pulled:
            return change_block(call.right(), block, times(-1.0))

        sizes = parts.where_filled(block)
        if sizes is None:
            continue
        yield Mutant(
            f"sign of {block}", "sign", f"{block} has the wrong sign", planted(change),
            parts.kind, (block,), "sign", sizes=sizes, error=2.0,
        )  # fmt: skip
