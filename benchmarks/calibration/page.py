"""The page: one row for each constant, then the tables behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

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
from benchmarks.calibration.experiments import INGREDIENTS, SHARES, Law, Measured, Share
from benchmarks.calibration.figures import inconclusive, quantile, share
from benchmarks.calibration.overview import overview
from benchmarks.common import DTYPES, environment, table, upper_bound
from bpttcheck import calibration as standing
from bpttcheck.calibration import BLIND, DIFFERENCE_LIMIT, LIMIT


def page(m: Measured) -> str:
    view = m.records.seen_as(STANDING)
    cells = len({case[0] for case in view.case})
    return f"""# The constants and what they rest on

The error model has eight constants, all in `bpttcheck/calibration.py`; no problem, cell or test has
a tolerance of its own. This page is written by `python -m benchmarks.calibration --write`. It
measures correct cells only, so that whatever is called wrong here is a false alarm: the built-in
ones, which are careful with rounding, and cells as users write them, with `1 - h^2` and
`s (1 - s)`, `np.maximum` and `np.clip`, softmax and normalised units. {view.cases:,} cases of
{cells} cells with {len(view.ratio):,} blocks, over every regime and both dtypes, stand behind most
rows. How small an error is caught is on [another page](resolution.md).

{overview(m)}

*Resolution* is the smallest relative error of the worst block of an ordinary case that would have
been caught: median, and below which 90 % of the cases lie. A block is *blind* where its noise
exceeds {BLIND:g} of its largest entry; blind blocks are evidence for nothing and alarm nobody.

## LIMIT

{_limits(view)}

The cells of the largest ratios, and in how many of their cases the limit is passed:

{_worst_cells(view)}

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


def _worst_cells(view: View) -> str:
    rows = [
        [where[0], ", ".join(where[1:]), f"{ratio:.3g}", alarms]
        for ratio, where, alarms in view.worst_cells(8)
    ]
    return table(["cell", "where", "largest ratio", "false alarms"], rows)


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
            f"{quantile(clear, 0.999):.3g}", view.alarms(),
            f"{share(~view.clear()):.1%}", *_resolutions(view, LIMIT),
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
        told = [f"{quantile(added, q):.1e}" if len(added) else "-" for q in (0.5, 1.0)]
        alarms, largest = view.alarms(blind=blind), view.largest(blind)[0]
        hidden = f"{share(~clear):.1%}"
        rows.append([_bold(blind, BLIND), hidden, alarms, f"{largest:.3g}", len(added), *told])
        before = clear
    header = ["threshold", "blind", "false alarms", "largest ratio", "blocks that it adds",
              "their resolution, median", "worst"]  # fmt: skip
    return table(header, rows)


def _margins(margins: Mapping[float, View]) -> str:
    rows = [
        [_bold(margin, standing.KINK_MARGIN), view.cases, view.alarms(),
         f"{view.largest()[0]:.3g}", f"{share(~view.clear()):.1%}"]
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
    for check in dict.fromkeys(s.check for s in shares):
        least = min((s for s in shares if s.check == check), key=lambda s: s.value)
        where = f"{least.cell}, {least.block}, {least.dtype}"
        rows.append([f"`{check}`", f"{least.value:.1%} ({least.judged} of {least.cases})", where])
    needed = [
        [_bold(asked, standing.JUDGED_SHARE), inconclusive(shares, asked)] for asked in SHARES
    ]
    header = ["share asked for", "checks of right cells that it would make inconclusive"]
    return table(["check", "smallest share", "where"], rows) + "\n\n" + table(header, needed)


def _ingredients(views: Mapping[str, View]) -> str:
    rows: list[list[object]] = []
    for name in INGREDIENTS:
        view = views[name]
        where = f"{view.largest()[0]:.3g} ({view.largest()[1]})"
        rate = _rate(view.alarms(), view.cases)
        blind = f"{share(~view.clear()):.1%}"
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


def _bold(value: float, here: float) -> str:
    return _mark(f"{value:g}", value == here)


def _mark(text: object, here: bool) -> str:
    return f"**{text}**" if here else str(text)
