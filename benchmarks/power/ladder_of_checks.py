"""The smallest error that a whole check catches: this package alone."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.common import table
from benchmarks.ladder.climb import Climb
from benchmarks.ladder.page import smallest
from benchmarks.power.bench import DTYPES
from benchmarks.power.jobs import EXAMPLES


def of_checks(climbs: Sequence[Climb], runs: int) -> str:
    """The paragraph about one check of this package."""
    rows: list[list[object]] = []
    cells = list(dict.fromkeys(c.cell for c in climbs))
    for cell in [*cells, "all"]:
        row: list[object] = [cell]
        for dtype in DTYPES:
            mine = [c for c in climbs if c.dtype == dtype and cell in (c.cell, "all")]
            d = smallest(mine, 0.9)
            row.append(f"{d:.0e} of {len(mine)}" if d else f"none of {len(mine)}")
        rows.append(row)
    return f"""A whole check of {EXAMPLES} cases (`sequence_vjp`, all regimes) has many looks, and
its sharpest case decides. Smallest d that is caught in at least 90 % of its blocks and runs; {runs}
runs of each built-in cell and dtype, two values a decade (as in [resolution](resolution.md)):

{table(["cell", *DTYPES], rows)}"""
