"""The page: one row for each constant, then the tables behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.calibration.collect import (
    BLINDS,
    COUNTS,
    DIFFERENCE_LIMITS,
    FLOORS,
    LIMITS,
    STANDING,
    Records,
    View,
    contradictions,
)
from benchmarks.calibration.experiments import INGREDIENTS, LAW_COUNTS, MARGINS, SHARES, Law, Share
from benchmarks.common import DTYPES, environment, table, upper_bound
from bpttcheck import calibration as standing
from bpttcheck.calibration import BLIND, DIFFERENCE_LIMIT, LIMIT


@dataclass(frozen=True)
class Measured:
    """Everything that the page prints.

    Args:
        records: the blocks of correct cells.
        milliseconds: time of one case for each number of copies.
        margins: cells with kinks for each margin.
        ingredients: cells under a noise with something taken out.
        laws: for each number of perturbed runs.
        shares: how often each check judges each block.
        seconds: how long it all took.
    """

    records: Records
    milliseconds: Mapping[int, float]
    margins: Mapping[float, View]
    ingredients: Mapping[str, View]
    laws: Mapping[int, Sequence[Law]]
    shares: Sequence[Share]
    seconds: float


def page(m: Measured) -> str:
    view = m.records.seen_as(STANDING)
    return f"""# The constants and what they rest on

The error model has eight constants, all in `bpttcheck/calibration.py`; no problem, cell or test has
a tolerance of its own. This page is written by `python -m benchmarks.calibration --write`. It
measures correct cells only, so that whatever is called wrong here is a false alarm: the built-in
ones, which are careful with rounding, and cells as users write them, with `1 - h^2` and
`s (1 - s)`, `np.maximum` and `np.clip`, softmax and normalised units. {view.cases:,} cases of
{len(_cells(view))} cells with {len(view.ratio):,} blocks, over every regime and both dtypes, stand
behind most rows. How small an error is caught is on [another page](resolution.md).

{_overview(m)}

*Resolution* is the smallest relative error of the worst block of an ordinary case that would have
been caught: median, and below which 90 % of the cases lie. A block is *blind* where its noise
exceeds {BLIND:g} of its largest entry; blind blocks are evidence for nothing and alarm nobody.

## LIMIT

{_limits(view)}

The largest ratio was {_where(view)}.

## COPIES

{_widths(m, [(k, STANDING[1]) for k in COUNTS], "copies", lambda w: w[0], m.milliseconds)}

The time is that of one case of an LSTM, compilation left out.

## BLOCK_FLOOR

{_widths(m, [(STANDING[0], f) for f in FLOORS], "floor", lambda w: f"{w[1]:g}")}

## BLIND

{_blinds(view)}

Each threshold adds blocks to those of the one before: what could have been seen in them?

## KINK_MARGIN

Cells with kinks, with values on or a few rounding errors beside them.

{_margins(m.margins)}

## DIFFERENCE_LIMIT

The distance of the finite difference from `<r, v>`, in widths of its bar, for JAX's gradient `r`
and a random direction `v` in one block. A check calls it a contradiction only if a second direction
says the same. {_silent(m)}

{_differences(m)}

## LAW_COPIES

{_laws(m.laws)}

## JUDGED_SHARE

Each block of each cell that is not zero throughout, in each dtype: the share of a check's cases in
which it was judged.

{_shares(m.shares)}

## The ingredients of the noise

The same verdict with something taken out of the noise, or put in.

{_ingredients(m.ingredients)}

Measured with {environment()}, in {m.seconds:.0f} s.
"""


def _overview(m: Measured) -> str:
    view = m.records.seen_as(STANDING)
    worst, law = view.largest()[0], {n: _worst_law(found) for n, found in m.laws.items()}

    def quantile(floor: float) -> str:
        wide = m.records.seen_as((STANDING[0], floor))
        return f"{_quantile(wide.ratio[wide.clear()], 0.999):.3g}"

    rows = [
        ["`LIMIT`", *_neighbours(LIMITS, LIMIT, lambda v: _count(view.alarms(v), "alarm")),
         "false alarms against resolution, which it scales",
         f"{LIMIT / worst if worst else 0:.1f} times the largest ratio of a right cell: room for "
         "cells that nobody measured, at a resolution that still shows an error of a few hundred "
         "roundings"],
        ["`COPIES`",
         *_neighbours(COUNTS, standing.COPIES,
                      lambda v: f"{m.records.seen_as((int(v), STANDING[1])).largest()[0]:.3g}"),
         "largest ratio against time",
         "fewer copies agree by luck, and the ratios grow; more cost time and change little"],
        ["`BLOCK_FLOOR`", *_neighbours(FLOORS, standing.BLOCK_FLOOR, quantile),
         "large ratios against the resolution of small entries",
         "takes away most of what copies that agree by luck add, and stays well below the block's "
         "own noise"],
        ["`BLIND`",
         *_neighbours(BLINDS, BLIND, lambda v: f"{_share(~view.clear(v)):.1%} blind"),
         "blind blocks against evidence that could see nothing",
         "a block that counts as judged must be able to show an error below its own size"],
        ["`KINK_MARGIN`",
         *_neighbours(MARGINS, standing.KINK_MARGIN, lambda v: f"{_at_kinks(m.margins[v])}"),
         "false alarms at kinks against blind blocks there",
         "wide enough for a pre-activation that another order of summation moves; still wider "
         "changes little"],
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
                      lambda v: _count(_short(m.shares, v), "check")),
         "inconclusive checks of right cells against passing on little evidence",
         f"right cells reach {min((s.value for s in m.shares), default=1.0):.0%} and more: what "
         "falls below it is hardly judged at all"],
    ]  # fmt: skip
    header = ["constant", "one step smaller", "as it stands", "one step larger", "it trades", "why"]
    unit = """
Behind each value: false alarms (`LIMIT`), the largest ratio (`COPIES`, `LAW_COPIES`), the ratio
that 99.9 % of the blocks stay below (`BLOCK_FLOOR`), the share of blind blocks (`BLIND`), false
alarms, the largest ratio and blind blocks (`KINK_MARGIN`), differences off in their first direction
(`DIFFERENCE_LIMIT`), and checks of right cells that would be inconclusive (`JUDGED_SHARE`)."""
    return table(header, rows) + "\n" + unit


def _at_kinks(view: View) -> str:
    alarms = _count(view.alarms(), "alarm")
    return f"{alarms}, {view.largest()[0]:.3g}, {_share(~view.clear()):.1%} blind"


def _worst_law(found: Sequence[Law]) -> float:
    return max((one.ratio for one in found), default=0.0)


def _cells(view: View) -> set[str]:
    return {case[0] for case in view.case}


def _share(rows: Any) -> float:
    return float(np.mean(rows)) if len(rows) else 0.0


def _quantile(values: Any, share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else 0.0


def _neighbours(
    values: Sequence[float], here: float, say: Callable[[float], str]
) -> tuple[str, str, str]:
    """The measured text for the value below, the standing value, and the one above."""
    below = max((v for v in values if v < here), default=None)
    above = min((v for v in values if v > here), default=None)
    texts = ["" if v is None else f"{v:g}: {say(v)}" for v in (below, here, above)]
    return texts[0], f"**{texts[1]}**", texts[2]


def _limits(view: View) -> str:
    rows = [
        [_bold(limit, LIMIT), view.alarms(limit), _rate(view.alarms(limit), view.cases),
         *_resolutions(view, limit)]
        for limit in LIMITS
    ]  # fmt: skip
    return table(["limit", "false alarms", "rate (95 % below)", *_RESOLUTIONS], rows)


def _widths(
    m: Measured,
    widths: Iterable[tuple[int, float]],
    name: str,
    label: Callable[[tuple[int, float]], object],
    times: Mapping[int, float] | None = None,
) -> str:
    rows: list[list[object]] = []
    for width in widths:
        view = m.records.seen_as(width)
        clear = view.ratio[view.clear()]
        rows.append([
            _mark(label(width), width == STANDING), f"{view.largest()[0]:.3g}",
            f"{_quantile(clear, 0.999):.3g}", view.alarms(),
            f"{_share(~view.clear()):.1%}", *_resolutions(view, LIMIT),
            *([f"{times[width[0]]:.1f} ms"] if times else []),
        ])  # fmt: skip
    header = [name, "largest ratio", "99.9 % below", "false alarms", "blind", *_RESOLUTIONS]
    return table([*header, "time"] if times else header, rows)


def _blinds(view: View) -> str:
    rows: list[list[object]] = []
    before = np.zeros(len(view.ratio), bool)
    for blind in BLINDS:
        clear = view.clear(blind)
        added = LIMIT * view.seen[clear & ~before & ~view.null]
        rows.append([
            _bold(blind, BLIND), f"{_share(~clear):.1%}", view.alarms(blind=blind),
            f"{view.largest(blind)[0]:.3g}", len(added), f"{_quantile(added, 0.5):.1e}",
            f"{_quantile(added, 1.0):.1e}",
        ])  # fmt: skip
        before = clear
    header = ["threshold", "blind", "false alarms", "largest ratio", "blocks that it adds",
              "their resolution, median", "worst"]  # fmt: skip
    return table(header, rows)


def _margins(margins: Mapping[float, View]) -> str:
    rows = [
        [_bold(margin, standing.KINK_MARGIN), view.cases, view.alarms(),
         f"{view.largest()[0]:.3g}", f"{_share(~view.clear()):.1%}"]
        for margin, view in margins.items()
    ]  # fmt: skip
    return table(["margin", "cases", "false alarms", "largest ratio", "blind blocks"], rows)


def _silent(m: Measured) -> str:
    found = m.records.differences
    silent = sum(np.isnan(d.distance) for d in found)
    return f"{len(found):,} differences were asked for; {silent:,} abstained."


def _differences(m: Measured) -> str:
    spoke = [d for d in m.records.differences if not np.isnan(d.distance)]
    rows: list[list[object]] = []
    for limit in DIFFERENCE_LIMITS:
        bars = [
            [limit * d.bar for d in spoke if d.dtype == dtype and np.isfinite(d.bar)]
            for dtype in DTYPES
        ]
        told = [f"{np.median(b):.1e}" if b else "" for b in bars]
        rows.append([_bold(limit, DIFFERENCE_LIMIT), *contradictions(spoke, limit), *told])
    header = ["limit", "off in one direction", "off in both",
              *(f"tells apart, {dtype}" for dtype in DTYPES)]  # fmt: skip
    quantiles = [
        f"{share:.1%}: {np.quantile([d.first for d in spoke], share):.2g}"
        for share in (0.5, 0.9, 0.99, 0.999)
        if spoke
    ]
    return (
        table(header, rows)
        + "\n\nDistances of the first directions, in widths: "
        + ", ".join(quantiles)
        + f", largest {max((d.first for d in spoke), default=0.0):.3g}."
    )


def _laws(laws: Mapping[int, Sequence[Law]]) -> str:
    names = list(dict.fromkeys(one.law for found in laws.values() for one in found))
    rows: list[list[object]] = []
    for count, found in laws.items():
        worst = {n: max(one.ratio for one in found if one.law == n) for n in names}
        failures, cases = sum(one.failures for one in found), sum(one.cases for one in found)
        label = _bold(count, standing.LAW_COPIES)
        rows.append([label, *(f"{worst[n]:.3g}" for n in names), f"{failures} of {cases:,}"])
    return table(["runs", *(f"`{n}`" for n in names), "false alarms"], rows)


def _shares(shares: Sequence[Share]) -> str:
    rows: list[list[object]] = []
    for check in dict.fromkeys(share.check for share in shares):
        least = min((s for s in shares if s.check == check), key=lambda s: s.value)
        where = f"{least.cell}, {least.block}, {least.dtype}"
        rows.append([f"`{check}`", f"{least.value:.1%} ({least.judged} of {least.cases})", where])
    needed = [[_bold(share, standing.JUDGED_SHARE), _short(shares, share)] for share in SHARES]
    header = ["share asked for", "checks of right cells that it would make inconclusive"]
    return table(["check", "smallest share", "where"], rows) + "\n\n" + table(header, needed)


def _short(shares: Sequence[Share], asked: float) -> int:
    """Checks of right cells that some block would make inconclusive."""
    return len({(s.cell, s.check) for s in shares if s.judged < max(1, asked * s.cases)})


def _ingredients(views: Mapping[str, View]) -> str:
    rows: list[list[object]] = []
    for name in INGREDIENTS:
        view = views[name]
        where = f"{view.largest()[0]:.3g} ({view.largest()[1]})"
        rate = _rate(view.alarms(), view.cases)
        blind = f"{_share(~view.clear()):.1%}"
        alarms = view.alarms()
        rows.append([name, view.cases, alarms, rate, where, blind, *_resolutions(view, LIMIT)])
    header = ["noise", "cases", "false alarms", "rate (95 % below)", "largest ratio", "blind"]
    return table([*header, *_RESOLUTIONS], rows)


_RESOLUTIONS = [f"resolution, {dtype}" for dtype in DTYPES]


def _resolutions(view: View, limit: float) -> list[str]:
    return [
        f"{view.resolution(dtype, 0.5, limit):.1e}, 90 %: {view.resolution(dtype, 0.9, limit):.1e}"
        for dtype in DTYPES
    ]


def _rate(hits: int, trials: int) -> str:
    return f"{hits / max(trials, 1):.2%} ({upper_bound(hits, max(trials, 1)):.2%})"


def _where(view: View) -> str:
    ratio, where = view.largest()
    return f"{ratio:.3g} ({where})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _bold(value: float, here: float) -> str:
    return _mark(f"{value:g}", value == here)


def _mark(text: object, here: bool) -> str:
    return f"**{text}**" if here else str(text)
