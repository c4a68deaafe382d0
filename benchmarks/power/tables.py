"""The tables of the page about power."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from benchmarks.common import table
from benchmarks.power.arms import EQUAL_FIXED, EQUAL_OURS, IDENTICAL, REGIME
from benchmarks.power.ladder import at_power
from benchmarks.power.peers import PEERS
from benchmarks.power.records import OURS, Rate, Reach, Trial, caught, false_alarms, told_apart
from benchmarks.power.results import Results
from benchmarks.power.sentences import short
from bpttcheck.problems.problem import REGIMES


def who(r: Results) -> str:
    """The peers, with their packages and defaults."""
    rows = [
        [peer.name, r.peers[peer.name], peer.defaults] for peer in PEERS if peer.name in r.peers
    ]
    text = table(["peer", "package", "defaults"], rows)
    if r.absent:
        left = "; ".join(f"{name}: {why}" for name, why in r.absent.items())
        text += f"\n\nLeft out: {left}."
    return text


def in_short(r: Results) -> str:
    """The first table: everything in one line for each checker."""
    rows: list[list[object]] = []
    for method in r.methods:
        row: list[object] = [method]
        for dtype in r.dtypes:
            mine = r.where(arm=IDENTICAL, method=method, dtype=dtype)
            row += [told_apart(mine), false_alarms(mine)]
        row.append(told_apart(r.where(arm=EQUAL_OURS, method=method)))
        rows.append(row)
    header = ["checker"]
    for dtype in r.dtypes:
        header += [f"told apart, {dtype}", "false alarms"]
    return table([*header, "told apart, equal evaluations"], rows)


def overall(r: Results, arm: str) -> str:
    """Counts over all families of one arm."""
    rows: list[list[object]] = []
    for method in r.methods:
        row: list[object] = [method]
        for dtype in r.dtypes:
            mine = r.where(arm=arm, method=method, dtype=dtype)
            row += [false_alarms(mine), caught(mine), told_apart(mine)]
        rows.append(row)
    header = ["checker"]
    for dtype in r.dtypes:
        header += [f"false alarms, {dtype}", "flagged", "told apart"]
    return table(header, rows)


def by_family(r: Results, arm: str) -> str:
    """One table for each dtype."""
    parts = [
        f"{dtype}:\n\n"
        + _grid("family", r.families, r.methods,
                lambda f, m, d=dtype: r.where(arm=arm, method=m, dtype=d, family=f))
        for dtype in r.dtypes
    ]  # fmt: skip
    return "\n\n".join(parts)


def _grid(
    name: str, rows: Sequence[str], methods: Sequence[str],
    pick: Callable[[str, str], list[Trial]],
) -> str:  # fmt: skip
    lines = [[row, *(_both(pick(row, method)) for method in methods)] for row in rows]
    return table([name, *methods], [line for line in lines if set(line[1:]) != {"-"}])


def _both(trials: Iterable[Trial]) -> str:
    trials = list(trials)
    told, all_flagged = told_apart(trials), caught(trials)
    more = all_flagged.hits - told.hits
    return f"{told} ({all_flagged.hits} flagged)" if more else str(told)


def tuned(r: Results) -> str:
    """The settings found."""
    rows: list[list[object]] = []
    for name in r.peers:
        row: list[object] = [name]
        for dtype in r.dtypes:
            found = next((t for t in r.tuned if (t.peer, t.dtype) == (name, dtype)), None)
            chosen = found.settings if found else None
            row.append(f"step {chosen.eps:g}, tolerance {chosen.tol:g}" if chosen else "none")
        rows.append(row)
    note = (
        "For the Taylor test the tolerance is how far the order may fall below 2. *None*: with no "
        "step was right code always accepted, and the peer is left out of this arm."
    )
    return table(["peer", *r.dtypes], rows) + f"\n\n{note}"


def equal(r: Results) -> str:
    """Counts of the arm of equal evaluations."""
    rows: list[list[object]] = []
    for method in r.methods:
        row: list[object] = [method]
        for arm in (EQUAL_FIXED, EQUAL_OURS):
            mine = r.where(arm=arm, method=method)
            row += [told_apart(mine), caught(mine), false_alarms(mine)]
        rows.append(row)
    header = ["checker", "fixed inputs: told apart", "flagged", "right code flagged",
              "our strategies: told apart", "flagged", "right code flagged"]  # fmt: skip
    return table(header, rows) + (
        "\n\nbpttcheck's check has its own inputs: both halves of its line are the same run."
    )


def equal_families(r: Results) -> str:
    """The same by family, one table for each kind of inputs."""
    parts = [
        f"Told apart, {arm.removeprefix('equal, ')}:\n\n"
        + _grid("family", r.families, r.methods, lambda f, m, a=arm: r.where(
            arm=a, method=m, family=f))
        for arm in (EQUAL_FIXED, EQUAL_OURS)
    ]  # fmt: skip
    return "\n\n".join(parts)


def by_regime(r: Results, rate: Callable[[Iterable[Trial]], Rate]) -> str:
    """A rate by regime and dtype."""
    rows = [
        [f"{regime}, {dtype}",
         *(str(rate(r.where(arm=REGIME, method=m, dtype=dtype, regime=regime)))
           for m in r.methods)]
        for regime in REGIMES for dtype in r.dtypes
    ]  # fmt: skip
    return table(["regime", *r.methods], rows)


def ladder(r: Results) -> str:
    """The smallest error caught by each checker."""
    rows: list[list[object]] = []
    for method in r.methods:
        row: list[object] = [method]
        for dtype in r.dtypes:
            for arm in ("defaults", "best settings"):
                mine = r.climbs(arm=arm, method=method, dtype=dtype)
                row.append(_reach(mine) if mine else "-")
        rows.append(row)
    header = ["checker"]
    for dtype in r.dtypes:
        header += [f"{dtype}, defaults", "best settings"]
    counts = [len(r.climbs(arm="defaults", method=OURS, dtype=dtype)) for dtype in r.dtypes]
    return table(header, rows) + (
        f"\n\nBeside d stands the median of the smallest d caught, and the false alarms. "
        f"{counts[0]} problems in float64, {counts[-1]} in float32."
    )


def _reach(reaches: Sequence[Reach]) -> str:
    alarms = Rate(sum(one.alarm for one in reaches), len(reaches))
    found = sorted(1.0 if one.smallest is None else one.smallest for one in reaches)
    middle = median(found)
    text = f"**{short(at_power(reaches))}**, median {'none' if middle >= 1 else short(middle)}"
    return f"{text}, alarms {alarms}" if alarms.hits else text
