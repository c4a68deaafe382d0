"""The page about the smallest errors that are caught."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.common import DTYPES, environment, interval, table
from benchmarks.ladder.climb import PROMISED, RUNGS, Climb, EndToEnd
from bpttcheck.calibration import BLIND, LIMIT
from bpttcheck.judge.run import SEQUENCE, STEP
from bpttcheck.problems.problem import REGIMES

_CHECKS = {STEP: "step_vjp", SEQUENCE: "sequence_vjp"}
_ASKED = (0.9, 0.95)


def page(
    singles: Sequence[Climb],
    checks: Sequence[Climb],
    planted: Sequence[EndToEnd],
    examples: int,
    seconds: float,
) -> str:
    ordinary = [c for c in singles if c.regime == "ordinary"]
    promise = "; ".join(
        f"{_d(d)} in {dtype}: {_share([c for c in ordinary if c.dtype == dtype], d)}"
        for dtype, d in PROMISED.items()
    )
    return f"""# How small an error is caught

One block of a correct gradient is multiplied by `1 + d`, and the verdict is asked again. This page
is written by `python -m benchmarks.ladder --write`. It did so for {len(singles):,} blocks of single
cases of {len(_cells(singles))} built-in cells, each gradient block in turn, for d from 1e-15 to
0.1, two values a decade. Blocks that are exactly zero are left out; blind ones (noise above
{BLIND:g} of the block) count as not caught. Brackets hold 95 % Wilson intervals. The limit is
{LIMIT:g}.

Caught in a single ordinary case, where at least 95 % is asked for: **{promise}**.

{_by_cell(ordinary)}

## The whole ladder, ordinary cases

{_ladder(ordinary)}

## Every regime

The smallest d caught in at least 90 % and in at least 95 % of single cases, and the share caught
there; a dash where blind cases leave no such d.

{_by_regime(singles)}

## One check of {examples} examples

A check asks many cases, and the sharpest one decides. Each run is a stretch of {examples} cases of
one dtype; the cases that a check judges by differences alone count as if they had caught nothing.
Smallest d caught in at least 90 % of the runs, for the least and for the most visible block of each
cell:

{_by_check(checks)}

## End to end

The ladder asks the verdict alone. Here the error is planted in one block of a layer that is then
examined as in a check: the hand-written code runs, JAX judges, and forward mode and the finite
differences are heard before anything is called wrong.

{_end_to_end(planted)}

Measured with {environment()}, in {seconds:.0f} s.
"""


def _by_cell(ordinary: Sequence[Climb]) -> str:
    rows: list[list[object]] = []
    for cell in _cells(ordinary):
        row: list[object] = [cell]
        for dtype, d in PROMISED.items():
            mine = [c for c in ordinary if c.cell == cell and c.dtype == dtype]
            row.append(_share(mine, d))
            row.append(_worst_block(mine, d))
        rows.append(row)
    header = ["cell"]
    for dtype, d in PROMISED.items():
        header += [f"{_d(d)}, {dtype}", "worst block"]
    return table(header, rows)


def _worst_block(climbs: Sequence[Climb], d: float) -> str:
    blocks = _by_block(climbs)
    if not blocks:
        return ""
    worst = min(blocks, key=lambda block: _fraction(blocks[block], d))
    return f"{worst}: {_fraction(blocks[worst], d):.1%} of {len(blocks[worst])}"


def _by_block(climbs: Sequence[Climb]) -> dict[str, list[Climb]]:
    blocks: dict[str, list[Climb]] = {}
    for c in climbs:
        blocks.setdefault(c.block, []).append(c)
    return blocks


def _ladder(ordinary: Sequence[Climb]) -> str:
    rows: list[list[str]] = []
    for d in RUNGS:
        shares = [_share([c for c in ordinary if c.dtype == dtype], d) for dtype in DTYPES]
        if not rows or shares != rows[-1][1:]:
            rows.append([_d(d), *shares])
    return (
        table(["d", *DTYPES], rows) + "\n\nRungs that say the same as the one above are left out."
    )


def _by_regime(singles: Sequence[Climb]) -> str:
    rows: list[list[object]] = []
    for regime in REGIMES:
        for dtype in DTYPES:
            mine = [c for c in singles if c.regime == regime and c.dtype == dtype]
            if mine:
                blind = sum(c.blind for c in mine) / len(mine)
                caught = [_smallest(mine, asked) for asked in _ASKED]
                promised = _share(mine, PROMISED[dtype])
                rows.append([regime, dtype, len(mine), f"{blind:.1%}", promised, *caught])
    header = ["regime", "dtype", "blocks", "blind", "caught at the promised d",
              *(f"d for {asked:.0%}" for asked in _ASKED)]  # fmt: skip
    return table(header, rows)


def _by_check(checks: Sequence[Climb]) -> str:
    rows: list[list[object]] = []
    for cell in _cells(checks):
        for mode, name in _CHECKS.items():
            row: list[object] = [cell, f"`{name}`"]
            for dtype in DTYPES:
                mine = [c for c in checks if (c.cell, c.regime, c.dtype) == (cell, mode, dtype)]
                row.append(_extremes(mine))
            rows.append(row)
    counts = Counter((c.cell, c.block, c.dtype, c.regime) for c in checks)
    runs = max(counts.values(), default=0)
    return table(["cell", "check", *DTYPES], rows) + f"\n\n{runs} runs of each kind."


def _extremes(climbs: Sequence[Climb]) -> str:
    found = {block: smallest(mine, 0.9) for block, mine in _by_block(climbs).items()}
    if not found:
        return ""
    order = sorted(found, key=lambda block: found[block] or 1.0)
    low, high = order[0], order[-1]
    return f"{_d(found[high])} ({high}), {_d(found[low])} ({low})"


def _end_to_end(planted: Sequence[EndToEnd]) -> str:
    rows = [
        [p.cell, p.block, p.dtype, _d(p.d), p.cases, p.ladder, p.examined, p.cases - p.same]
        for p in planted
    ]
    return table(
        ["cell", "block", "dtype", "d", "cases", "by the ladder", "end to end", "differ"], rows
    )


def smallest(climbs: Sequence[Climb], asked: float) -> float | None:
    """The smallest d from which on every larger one is caught in a share of ``asked``."""
    found: float | None = None
    for d in reversed(RUNGS):
        if not climbs or _fraction(climbs, d) < asked:
            return found
        found = d
    return found


def _smallest(climbs: Sequence[Climb], asked: float) -> str:
    d = smallest(climbs, asked)
    return "-" if d is None else f"{_d(d)}: {_share(climbs, d)}"


def _d(d: float | None) -> str:
    return "-" if d is None else f"{d:.0e}".replace("e-0", "e-")


def _fraction(climbs: Sequence[Climb], d: float) -> float:
    rung = RUNGS.index(d)
    return sum(c.caught[rung] for c in climbs) / max(len(climbs), 1)


def _share(climbs: Sequence[Climb], d: float) -> str:
    hits = sum(c.caught[RUNGS.index(d)] for c in climbs)
    low, high = interval(hits, len(climbs))
    return f"{hits / max(len(climbs), 1):.1%} [{low:.1%}, {high:.1%}]"


def _cells(climbs: Sequence[Climb]) -> list[str]:
    return list(dict.fromkeys(c.cell for c in climbs))
