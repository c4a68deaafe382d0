"""The first table of the page: each constant between its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.calibration.collect import (
    BLINDS,
    COUNTS,
    DIFFERENCE_LIMITS,
    FLOORS,
    LIMITS,
    STANDING,
    View,
    contradictions,
)
from benchmarks.calibration.experiments import LAW_COUNTS, MARGINS, SHARES, Law, Measured
from benchmarks.calibration.figures import counted, inconclusive, quantile, share
from benchmarks.common import table
from bpttcheck import calibration as standing
from bpttcheck.calibration import BLIND, DIFFERENCE_LIMIT, LIMIT

Row = list[object]


def overview(m: Measured) -> str:
    """One row for each constant: its neighbours, what it trades, why it stands where it does."""
    header = ["constant", "one step smaller", "as it stands", "one step larger", "it trades", "why"]
    legend = """
Behind each value: false alarms (`LIMIT`), the ratio that 99.9 % of the blocks stay below (`COPIES`,
`BLOCK_FLOOR`), the share of blind blocks (`BLIND`), false alarms, the largest ratio and blind
blocks (`KINK_MARGIN`), differences off in their first direction (`DIFFERENCE_LIMIT`), the largest
ratio (`LAW_COPIES`), and checks of right cells that would be inconclusive (`JUDGED_SHARE`)."""
    return table(header, [*_of_the_width(m), *_of_the_evidence(m)]) + "\n" + legend


def _of_the_width(m: Measured) -> list[Row]:
    view = m.records.seen_as(STANDING)

    def large(copies: float, floor: float) -> str:
        wide = m.records.seen_as((int(copies), floor))
        return f"{quantile(wide.ratio[wide.clear()], 0.999):.3g}"

    return [
        ["`LIMIT`", *_neighbours(LIMITS, LIMIT, lambda v: counted(view.alarms(v), "alarm")),
         "false alarms against resolution, which it scales",
         _room(view)],
        ["`COPIES`", *_neighbours(COUNTS, standing.COPIES, lambda v: large(v, STANDING[1])),
         "large ratios against time",
         "fewer copies agree by luck, and the ratios grow; more cost time and change little"],
        ["`BLOCK_FLOOR`",
         *_neighbours(FLOORS, standing.BLOCK_FLOOR, lambda v: large(STANDING[0], v)),
         "large ratios against the resolution of small entries",
         "takes away most of what copies that agree by luck add, and stays well below the block's "
         "own noise"],
    ]  # fmt: skip


def _of_the_evidence(m: Measured) -> list[Row]:
    view = m.records.seen_as(STANDING)
    law = {n: _worst_law(found) for n, found in m.laws.items()}
    least = min((s.value for s in m.shares), default=1.0)
    return [
        ["`BLIND`", *_neighbours(BLINDS, BLIND, lambda v: f"{share(~view.clear(v)):.1%} blind"),
         "blind blocks against evidence that could see nothing",
         "a block that counts as judged must be able to show an error below its own size"],
        ["`KINK_MARGIN`",
         *_neighbours(MARGINS, standing.KINK_MARGIN, lambda v: f"{_at_kinks(m.margins[v])}"),
         "false alarms at kinks against blind blocks there",
         "the noise by itself frees most branches; the margin frees those that no copy happened "
         "to cross, for a few more blind blocks"],
        ["`DIFFERENCE_LIMIT`",
         *_neighbours(DIFFERENCE_LIMITS, DIFFERENCE_LIMIT,
                      lambda v: f"{contradictions(m.records.differences, v)[0]} off"),
         "contradictions against what the differences can tell apart",
         "the bars are estimates, and a few are short by a small factor"],
        ["`LAW_COPIES`", *_neighbours(LAW_COUNTS, standing.LAW_COPIES, lambda v: f"{law[v]:.3g}"),
         "largest ratio of a law against runs of the hand-written code",
         "a law breaks by far or not at all, so a coarse bar from few runs will do"],
        ["`JUDGED_SHARE`",
         *_neighbours(SHARES, standing.JUDGED_SHARE,
                      lambda v: counted(inconclusive(m.shares, v), "check")),
         "inconclusive checks of right cells against passing on little evidence",
         f"right cells reach {least:.0%} and more: what falls below it is hardly judged at all"],
    ]  # fmt: skip


def _room(view: View) -> str:
    worst, alarms = view.largest()[0], view.alarms()
    if alarms:
        return f"{counted(alarms, 'case')} of {view.cases:,} beyond it: which ones is said below"
    times = LIMIT / worst if worst else np.inf
    return (
        f"{times:.1f} times the largest ratio of a right cell: room for cells that nobody "
        "measured, at a resolution that still shows some hundred roundings"
    )


def _at_kinks(view: View) -> str:
    alarms = counted(view.alarms(), "alarm")
    return f"{alarms}, {view.largest()[0]:.3g}, {share(~view.clear()):.1%} blind"


def _worst_law(found: Sequence[Law]) -> float:
    return max((one.ratio for one in found), default=0.0)


def _neighbours(
    values: Sequence[float], here: float, say: Callable[[float], str]
) -> tuple[str, str, str]:
    """The measured text for the value below, the standing value, and the one above."""
    below = max((v for v in values if v < here), default=None)
    above = min((v for v in values if v > here), default=None)
    texts = ["" if v is None else f"{v:g}: {say(v)}" for v in (below, here, above)]
    return texts[0], f"**{texts[1]}**", texts[2]
