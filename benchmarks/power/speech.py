"""What the checkers cost and what they say, in tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.common import table
from benchmarks.power.arms import IDENTICAL
from benchmarks.power.records import OURS, Rate, Said
from benchmarks.power.results import Results
from benchmarks.power.words import MISSING


def speech(r: Results) -> str:
    """The part of the page."""
    return f"""Right code, one look at one ordinary float64 problem of the first arm: medians over
all cells. For bpttcheck the second number counts passes of the reference in JAX, noisy copies
included; its compilation, once for each shape, falls into the first look and not into the median.

{_costs(r)}

The same bugs to all, {_count(r)} bugs of {len(r.cells)} cells in float64: each peer's exception
at a problem of the first arm, and bpttcheck's report on a check of {r.amounts.examples} cases. The
block at fault is the one that is wrong in the step: what follows from it in a sequence does not
count, of several any will do, and the number of an argument is as good as its name. The last column
counts bugs of one time step; a flat position in the inputs counts as naming it.

{_messages(r)}

A gradient of the initial state that is missing (`{MISSING}`):

{_missing(r)}"""


def costs(r: Results, method: str) -> tuple[float, float, float, float]:
    """Forward, traced and backward passes and seconds of one look at right code: medians."""
    right = r.where(arm=IDENTICAL, method=method, dtype="float64", family="")
    if not right:
        return 0.0, 0.0, 0.0, 0.0
    return (
        median(t.forward for t in right), median(t.traced for t in right),
        median(t.backward for t in right), median(t.seconds for t in right),
    )  # fmt: skip


def characters(r: Results, method: str) -> float:
    """The median length of a message."""
    return median([s.characters for s in _of(r, method) if s.flagged] or [0])


def named(r: Results, method: str) -> Rate:
    """Messages that name the block at fault, among the bugs that were flagged and declare one."""
    told = [s.right_block for s in _of(r, method) if s.flagged and s.right_block is not None]
    return Rate(sum(map(bool, told)), len(told))


def milliseconds(seconds: float) -> str:
    """Two digits."""
    return f"{float(f'{1e3 * seconds:.2g}'):g} ms"


def _costs(r: Results) -> str:
    rows: list[list[object]] = []
    for method in r.methods:
        forward, traced, backward, seconds = costs(r, method)
        passes = f"{forward:g} + {traced:g}" if method == OURS else f"{forward:g}"
        rows.append([method, passes, f"{backward:g}", milliseconds(seconds)])
    return table(["checker", "forward passes", "backward passes", "time"], rows)


def _count(r: Results) -> int:
    return len(_of(r, OURS))


def _messages(r: Results) -> str:
    rows: list[list[object]] = []
    for method in r.methods:
        mine = _of(r, method)
        steps = [s.right_step for s in mine if s.flagged and s.right_step is not None]
        lengths = sorted(s.characters for s in mine if s.flagged)
        span = f"{lengths[0]:,} to {lengths[-1]:,}" if lengths else "-"
        flagged = Rate(sum(s.flagged for s in mine), len(mine))
        rows.append(
            [method, flagged, f"{characters(r, method):,.0f}", span, named(r, method),
             Rate(sum(map(bool, steps)), len(steps))]
        )  # fmt: skip
    header = ["checker", "flagged", "characters, median", "least to most",
              "names the block at fault", "names the step"]  # fmt: skip
    return table(header, rows)


def _missing(r: Results) -> str:
    rows: list[list[object]] = []
    for method in r.methods:
        mine = [s for s in _of(r, method) if s.mutant == MISSING]
        lengths = ", ".join(f"{s.characters:,}" if s.flagged else "not flagged" for s in mine)
        right = Rate(sum(s.block.startswith("d_state0") for s in mine), len(mine))
        rows.append([method, lengths, right])
    cells = ", ".join(dict.fromkeys(s.cell for s in r.said))
    return table(["checker", f"characters ({cells})", "names the initial state"], rows)


def _of(r: Results, method: str) -> Sequence[Said]:
    return [s for s in r.said if s.method == method]
