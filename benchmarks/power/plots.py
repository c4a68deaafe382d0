"""The plots of the page, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks.power.arms import EQUAL_FIXED, EQUAL_OURS, IDENTICAL, REGIME
from benchmarks.power.ladder import RUNGS, at_power
from benchmarks.power.records import OURS, Rate, Reach, caught, false_alarms, told_apart
from benchmarks.power.results import Results
from bpttcheck.problems.problem import REGIMES

INK, SOFT, LINE = "#1f2933", "#66727f", "#d5dbe1"
MINE, ALARM = "#0b6bcb", "#b3261e"


def draw(r: Results, folder: Path) -> None:
    """Write every plot into ``folder``."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    folder.mkdir(exist_ok=True)
    style = {
        "svg.hashsalt": "power", "svg.fonttype": "none", "font.size": 9, "text.color": INK,
        "font.family": "sans-serif", "axes.edgecolor": LINE, "axes.labelcolor": INK,
        "xtick.color": SOFT, "ytick.color": INK, "axes.titlesize": 10,
    }  # fmt: skip
    makers: dict[str, Callable[[Results, Any], Any]] = {
        "ladder": ladder, "families": families, "regimes": regimes, "equal": equal,
    }  # fmt: skip
    for name, make in makers.items():
        with pyplot.rc_context(style):
            figure = make(r, pyplot)
            figure.savefig(
                folder / f"{name}.svg", bbox_inches="tight", facecolor="white",
                metadata={"Date": None},
            )  # fmt: skip
            pyplot.close(figure)


def ladder(r: Results, plt: Any) -> Any:
    """For each checker the d caught at 90 % power, at its defaults and at its best settings."""
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 0.46 * len(r.methods) + 1.5), sharey=True)
    for ax, dtype in zip(axes, r.dtypes, strict=True):
        for row, method in enumerate(r.methods):
            colour = MINE if method == OURS else INK
            silent: list[str] = []
            for arm, filled, offset in (("defaults", True, -0.16), ("best settings", False, 0.16)):
                mine = r.climbs(arm=arm, method=method, dtype=dtype)
                why = _reach(ax, row + offset, mine, colour, filled) if mine else ""
                if why:
                    silent.append(f"{arm}: {why}")
            ax.text(1.02, row, "\n".join(silent), color=ALARM, fontsize=7, va="center",
                    transform=ax.get_yaxis_transform())  # fmt: skip
        ax.set_xscale("log")
        ax.set_xlim(RUNGS[0] / 2, 2)
        ax.set_title(dtype, loc="left")
        ax.set_xlabel("relative error d of one block")
        ax.grid(axis="x", color=LINE, linewidth=0.6)
    axes[0].set_yticks(range(len(r.methods)), r.methods)
    axes[0].set_ylim(len(r.methods) - 0.5, -0.5)
    _bare(axes)
    figure.suptitle(
        "Smallest error caught at 90 % power: filled at the defaults, hollow at the best settings; "
        "the line spans the middle 80 % of the problems",
        x=0.01, ha="left", fontsize=9.5,
    )  # fmt: skip
    figure.tight_layout(w_pad=2)
    return figure


def _reach(ax: Any, y: float, reaches: Sequence[Reach], colour: str, filled: bool) -> str:
    """Draw one checker's reach, or say why there is none."""
    at = at_power(reaches)
    if at is None:
        alarms = sum(one.alarm for one in reaches)
        most = "no such d"
        return f"{most}, {alarms}/{len(reaches)} alarms" if alarms else most
    found = [1.0 if one.smallest is None else one.smallest for one in reaches]
    deciles = quantiles(found, n=10, method="inclusive") if len(found) > 1 else found
    ax.plot([deciles[0], deciles[-1]], [y, y], color=colour, linewidth=1.2, alpha=0.55)
    face = colour if filled else "white"
    ax.plot(at, y, "o", markersize=5.5, color=colour, markerfacecolor=face)
    return ""


def families(r: Results, plt: Any) -> Any:
    """Share told apart by family and checker."""
    return _heat(
        r, plt, [f for f in r.families if r.where(arm=IDENTICAL, family=f)],
        "Bugs told apart at identical inputs, defaults", "Blues",
        lambda family, method, dtype: told_apart(
            r.where(arm=IDENTICAL, method=method, dtype=dtype, family=family)
        ),
    )  # fmt: skip


def regimes(r: Results, plt: Any) -> Any:
    """False alarms by regime and checker."""
    return _heat(
        r, plt, list(REGIMES), "Right code flagged, one look at one problem of each regime",
        "Reds",
        lambda regime, method, dtype: false_alarms(
            r.where(arm=REGIME, method=method, dtype=dtype, regime=regime)
        ),
    )  # fmt: skip


def _heat(
    r: Results, plt: Any, rows: Sequence[str], title: str, colours: str,
    rate: Callable[[str, str, str], Rate],
) -> Any:  # fmt: skip
    height = 1.5 + 0.27 * len(rows)
    figure, axes = plt.subplots(1, 2, figsize=(10.5, height), sharey=True)
    for ax, dtype in zip(axes, r.dtypes, strict=True):
        rates = [[rate(row, method, dtype) for method in r.methods] for row in rows]
        shares = [[one.share if one.trials else float("nan") for one in line] for line in rates]
        ax.imshow(shares, cmap=colours, vmin=0, vmax=1.25, aspect="auto")
        for y, line in enumerate(rates):
            for x, one in enumerate(line):
                text = f"{one.hits}/{one.trials}" if one.trials else "-"
                ink = "white" if one.share > 0.7 else INK
                ax.text(x, y, text, ha="center", va="center", fontsize=7, color=ink)
        ax.set_xticks(range(len(r.methods)), r.methods, rotation=35, ha="right",
                      rotation_mode="anchor")  # fmt: skip
        ax.set_title(dtype, loc="left")
        ax.tick_params(length=0)
        for edge in range(1, len(r.methods)):
            ax.axvline(edge - 0.5, color="white", linewidth=1.5)
        for edge in range(1, len(rows)):
            ax.axhline(edge - 0.5, color="white", linewidth=1.5)
    axes[0].set_yticks(range(len(rows)), rows)
    _bare(axes)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    figure.tight_layout()
    return figure


def equal(r: Results, plt: Any) -> Any:
    """Told apart with equal evaluations: fixed inputs, then our strategies."""
    figure, ax = plt.subplots(figsize=(8, 0.46 * len(r.methods) + 1.2))
    for row, method in enumerate(r.methods):
        colour = MINE if method == OURS else INK
        arms = [(EQUAL_OURS, True, 0.17)]
        if method != OURS:
            arms.insert(0, (EQUAL_FIXED, False, -0.17))
        for arm, filled, offset in arms:
            mine = r.where(arm=arm, method=method)
            one, alarms = told_apart(mine), false_alarms(mine)
            y = row + offset
            ax.plot(one.interval, [y, y], color=colour, linewidth=1.2, alpha=0.55)
            face = colour if filled else "white"
            ax.plot(one.share, y, "o", markersize=5.5, color=colour, markerfacecolor=face)
            ax.plot(caught(mine).share, y, "x", markersize=4.5, color=ALARM, zorder=0)
            if alarms.hits:
                text = f"flags right code, {alarms.hits}/{alarms.trials} cells"
                ax.text(1.03, y, text, color=ALARM, fontsize=7, va="center")
    ax.set_yticks(range(len(r.methods)), r.methods)
    ax.set_ylim(len(r.methods) - 0.5, -0.5)
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel("share of bugs told apart, with 95 % Wilson interval")
    ax.grid(axis="x", color=LINE, linewidth=0.6)
    ax.set_title(
        "Equal numbers of forward evaluations: hollow fixed inputs, filled our strategies;\n"
        "a cross is the share flagged, whatever is said of right code",
        loc="left",
    )
    _bare([ax])
    figure.tight_layout()
    return figure


def _bare(axes: Any) -> None:
    for ax in axes:
        for side in ax.spines.values():
            side.set_visible(False)
        ax.tick_params(axis="y", length=0)
