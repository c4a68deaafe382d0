"""One output of the backward pass is a constant times the right one."""

from __future__ import annotations

from collections.abc import Iterator

from bpttcheck.mutants.base import Anatomy, Call, Mutant, Pulled, change_block, planted, times

LADDER = tuple(range(1, 13))
"""The exponents ``k`` of the factors ``1 + 10**-k``."""

FINEST_IN_FLOAT32 = 4
"""The last of them that says anything about float32, whose own rounding is 6e-8."""


def mutants(parts: Anatomy) -> Iterator[Mutant]:
    """For each output the factors 2 and 1/2, and a ladder of factors near 1."""
    for block in parts.blocks:
        sizes = parts.where_filled(block)
        if sizes is None:
            continue
        for text, factor, error, dtypes in _factors():
            yield Mutant(
                f"{block} times {text}", "scale", f"{block} is {text} times the right gradient",
                planted(_scaled(block, factor)), parts.kind, (block,), "scale", dtypes=dtypes,
                sizes=sizes, error=error,
            )  # fmt: skip


def _factors() -> Iterator[tuple[str, float, float, tuple[str, ...]]]:
    both = ("float64", "float32")
    yield "2", 2.0, 1.0, both
    yield "0.5", 0.5, 0.5, both
    for k in LADDER:
        # The power of a float is off in its last digit; its text is not.
        error = float(f"1e-{k}")
        yield f"(1 + 1e-{k})", 1.0 + error, error, both if k <= FINEST_IN_FLOAT32 else both[:1]


def _scaled(block: str, factor: float):
    def change(call: Call) -> Pulled:
        return change_block(call.right(), block, times(factor))

    return change
