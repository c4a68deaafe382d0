"""The page: one row for each constant, then the tables behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

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

The error model has eight constants, all in `bpttcheck/calibration.py`; no problem, cell or test has a
tolerance of its own. This page is written by `python -m benchmarks.calibration --write`. It measures
correct built-in cells only: whatever is called wrong here is a false alarm. {view.cases:,} cases with
{len(view.ratio):,} blocks, over every regime and both dtypes, stand behind most rows. How small an
error is caught is on [another page](resolution.md).

{_overview(m)}

*Resolution* is the smallest relative error of the worst block of an ordinary case that would have been
caught: median, and below which 90 % of the cases lie. A block is *blind* where its noise exceeds
{BLIND:g} of its largest entry; blind blocks are evidence for nothing and alarm nobody.

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

*Coarsest resolution*: among the blocks that this threshold calls clear, 1 % resolve no better.

## KINK_MARGIN

Cells with kinks, with values on or a few rounding errors beside them.

{_margins(m.margins)}

## DIFFERENCE_LIMIT

The distance of the finite difference from `<r, v>`, in widths of its bar, for JAX's gradient `r` and a
random direction `v` in one block. A check calls it a contradiction only if a second direction says the
same. {_silent(m)}

{_differences(m)}

## LAW_COPIES

{_laws(m.laws)}

## JUDGED_SHARE

Each block of each correct built-in that is not zero throughout, in each dtype: the share of a check's
cases in which it was judged.

{_shares(m.shares)}

## The ingredients of the noise

The same verdict with something taken out of the noise: each ingredient earns its place.

{_ingredients(m.ingredients)}

Measured with {environment()}, in {m.seconds:.0f} s.
"""


def _overview(m: Measured) -> str:
    view = m.records.seen_as(STANDING)
    law = {count: max((one.ratio for one in found), default=0.0) for count, found in m.laws.items()}

    def width(w: tuple[int, float]) -> str:
        return f"{m.records.seen_as(w).largest()[0]:.3g}"

    rows = [
        ["`LIMIT`", *_neighbours(LIMITS, LIMIT, lambda v: _count(view.alarms(v), "alarm")),
         "false alarms against resolution, which it scales",
         "half of it still has room above every ratio of a correct cell but the worst; twice it "
         "would only blur"],
        ["`COPIES`", *_neighbours(COUNTS, standing.COPIES, lambda v: width((v, STANDING[1]))),
         "largest ratio against time",
         "fewer copies agree by luck and the ratios grow; more change little and cost time"],
        ["`BLOCK_FLOOR`",
         *_neighbours(FLOORS, standing.BLOCK_FLOOR, lambda v: width((STANDING[0], v))),
         "largest ratio against the resolution of small entries",
         "keeps an entry on which all copies agree by luck from alarming, and stays well below "
         "the block's own noise"],
        ["`BLIND`",
         *_neighbours(BLINDS, BLIND, lambda v: f"{np.mean(~view.clear(v)):.1%} blind"),
         "blind blocks against evidence that could see nothing",
         "a block that is called judged must be able to show an error well below its own size"],
        ["`KINK_MARGIN`",
         *_neighbours(MARGINS, standing.KINK_MARGIN,
                      lambda v: _count(m.margins[v].alarms(), "alarm")),
         "false alarms at kinks against blind blocks there",
         "wide enough for a pre-activation that another order of summation moves, at no cost in "
         "blind blocks"],
        ["`DIFFERENCE_LIMIT`",
         *_neighbours(DIFFERENCE_LIMITS, DIFFERENCE_LIMIT,
                      lambda v: f"{contradictions(m.records.differences, v)[0]} off"),
         "contradictions against what the differences can tell apart",
         "the bars are estimates: a few are short by a factor of some units"],
        ["`LAW_COPIES`", *_neighbours(LAW_COUNTS, standing.LAW_COPIES, lambda v: f"{law[v]:.3g}"),
         "largest ratio of a law against runs of the hand-written code",
         "a law breaks by far or not at all, so a coarse bar from few runs will do"],
        ["`JUDGED_SHARE`",
         *_neighbours(SHARES, standing.JUDGED_SHARE,
                      lambda v: _count(_short(m.shares, v), "check")),
         "inconclusive checks of right cells against passing on little evidence",
         "below the least that any right built-in reaches"],
    ]  # fmt: skip
    header = ["constant", "one step smaller", "as it stands", "one step larger", "it trades", "why"]
    unit = (
        "Below each value: false alarms (`LIMIT`, `KINK_MARGIN`), the largest ratio (`COPIES`, "
        "`BLOCK_FLOOR`, `LAW_COPIES`), the share of blind blocks (`BLIND`), differences off in "
        "their first direction (`DIFFERENCE_LIMIT`), and checks of right cells that would be "
        "inconclusive (`JUDGED_SHARE`)."
    )
    return table(header, rows) + "\n\n" + unit


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
            f"{np.quantile(clear, 0.999):.3g}" if len(clear) else "", view.alarms(),
            f"{np.mean(~view.clear()):.1%}", *_resolutions(view, LIMIT),
            *([f"{times[width[0]]:.1f} ms"] if times else []),
        ])  # fmt: skip
    header = [name, "largest ratio", "99.9 % below", "false alarms", "blind", *_RESOLUTIONS]
    return table([*header, "time"] if times else header, rows)


def _blinds(view: View) -> str:
    rows: list[list[object]] = []
    for blind in BLINDS:
        clear = view.clear(blind)
        seen = np.sort(LIMIT * view.seen[clear & ~view.null])
        rows.append([
            _bold(blind, BLIND), f"{np.mean(~clear):.1%}", view.alarms(blind=blind),
            f"{view.largest(blind)[0]:.3g}",
            f"{np.quantile(seen, 0.99):.1e}" if len(seen) else "",
        ])  # fmt: skip
    header = ["threshold", "blind", "false alarms", "largest ratio", "coarsest resolution"]
    return table(header, rows)


def _margins(margins: Mapping[float, View]) -> str:
    rows = [
        [_bold(margin, standing.KINK_MARGIN), view.cases, view.alarms(),
         f"{view.largest()[0]:.3g}", f"{np.mean(~view.clear()):.1%}"]
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
    needed = [
        [_bold(share, standing.JUDGED_SHARE), _short(shares, share)] for share in SHARES
    ]  # fmt: skip
    return (
        table(["check", "smallest share", "where"], rows)
        + "\n\n"
        + table(["share asked for", "checks of right cells that it would make inconclusive"], needed)
    )


def _short(shares: Sequence[Share], asked: float) -> int:
    """Checks of right cells that some block would make inconclusive."""
    return len({(s.cell, s.check) for s in shares if s.judged < max(1, asked * s.cases)})


def _ingredients(views: Mapping[str, View]) -> str:
    rows: list[list[object]] = []
    for name in INGREDIENTS:
        view = views[name]
        where = f"{view.largest()[0]:.3g} ({view.largest()[1]})"
        rows.append([name, view.cases, view.alarms(), _rate(view.alarms(), view.cases), where])
    header = ["noise", "cases", "false alarms", "rate (95 % below)", "largest ratio"]
    return table(header, rows)


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
