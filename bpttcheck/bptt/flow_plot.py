"""The plot of a gradient's flow: norms and their bound over the distance, on a log scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bpttcheck.bptt.flow import SATURATED, Flow
from bpttcheck.contract import Array
from bpttcheck.errors import ContractError

FORMATS = (".svg", ".png")
INK, SOFT, LINE = "#1f2933", "#66727f", "#d5dbe1"
NORM, GRADIENT, ALARM = "#0b6bcb", "#a35b00", "#b3261e"
_MARKED = 80  # distances; more markers than these run into one another
STYLE = {
    "svg.hashsalt": "flow", "svg.fonttype": "none", "font.size": 9, "text.color": INK,
    "font.family": "sans-serif", "axes.edgecolor": LINE, "axes.labelcolor": INK,
    "xtick.color": SOFT, "ytick.color": SOFT, "axes.titlesize": 10,
}  # fmt: skip


def draw(found: Flow, path: Path, title: str = "") -> None:
    """Write the plot of ``found`` as SVG or PNG, by the ending of ``path``.

    Above, the largest norm of the batch and the range of the others, the bound, and the norm of the
    gradient; a norm of exactly 0 is a triangle on the lower edge. Below, the share of saturated
    units in each step.

    Args:
        found: what :func:`bpttcheck.bptt.flow.flow` measured.
        path: the file to write.
        title: what was measured; the conclusion stands under it.

    Raises:
        ContractError: matplotlib is not installed, or ``path`` has another ending.
        OSError: the file cannot be written.
    """
    require_format(path)
    matplotlib = _matplotlib()
    with matplotlib.rc_context(STYLE):
        figure = _figure(found, title)
        plain = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white", metadata=plain)


def require_format(path: Path) -> None:
    """Refuse a file that is neither SVG nor PNG."""
    if path.suffix not in FORMATS:
        raise ContractError(
            f"the plot {str(path)!r} ends in {path.suffix!r}, expected {' or '.join(FORMATS)}",
            item="path",
        )


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ContractError(
            'a plot needs matplotlib, which is not installed: pip install "bpttcheck[report]"'
        ) from error
    return matplotlib


def _figure(found: Flow, title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.8))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _norms(above, found)
    _saturated(below, found)
    above.set_title(f"{title}\n{found.conclusion}".strip(), loc="left")
    for ax in (above, below):
        ax.grid(color=LINE, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(length=0)
        for side in ax.spines.values():
            side.set_visible(False)
    figure.align_ylabels()
    figure.tight_layout()
    return figure


def _norms(ax: Any, found: Flow) -> None:
    d = np.arange(len(found.log2_norms))
    norms, bounds, gradients = (
        _log10(values) for values in (found.log2_norms, found.log2_bounds, found.log2_gradients)
    )
    largest = norms.max(axis=1)
    ax.plot(d, bounds.max(axis=1), "--", color=SOFT, linewidth=1.2,
            label=f"bound: {found.bound_name}")  # fmt: skip
    ax.plot(d, largest, "-o" if len(d) <= _MARKED else "-", color=NORM, linewidth=1.6, markersize=3,
            label=r"norm of $\partial s_T/\partial s_{T-d}$")  # fmt: skip
    if norms.shape[1] > 1:
        ax.fill_between(d, norms.min(axis=1), largest, color=NORM, alpha=0.15, linewidth=0,
                        label="its range over the batch")  # fmt: skip
    ax.plot(d, gradients.max(axis=1), color=GRADIENT, linewidth=1,
            label=r"$\Vert\partial L/\partial s_{T-d}\Vert$ for $\Vert\partial L/\partial s_T"
            r"\Vert = 1$")  # fmt: skip
    _decades(ax)
    zero = np.isneginf(found.log2_norms.max(axis=1))
    if zero.any():
        ax.plot(d[zero], np.zeros(zero.sum()), "v", color=NORM, markersize=5, clip_on=False,
                transform=ax.get_xaxis_transform(), label="norm 0")  # fmt: skip
    unknown = np.isnan(found.log2_norms.max(axis=1))
    if unknown.any():
        ax.axvspan(float(d[unknown][0]) - 0.5, float(d[-1]) + 0.5, color=ALARM, alpha=0.12,
                   linewidth=0, label="not finite")  # fmt: skip
    ax.set_ylabel("norm, log scale")
    ax.legend(frameon=False, fontsize=8)


def _decades(ax: Any) -> None:
    """Ticks at powers of ten, of which there are some within the limits."""
    low, high = ax.get_ylim()
    if high - low < 2:  # a flat line would else be drawn across a hair's breadth
        middle = round((low + high) / 2)
        ax.set_ylim(min(low, middle - 1.2), max(high, middle + 1.2))
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:.0f}}}$")


def _saturated(ax: Any, found: Flow) -> None:
    # A masked step has no share, and no bar.
    share = np.ma.masked_invalid(found.saturated).mean(axis=1)
    ax.bar(np.arange(len(share), 0, -1), 100 * np.ma.filled(share, 0.0), color=SOFT)
    ax.set_ylim(0, 100)
    ax.set_yticks((0, 50, 100))
    ax.set_ylabel("saturated\nunits (%)")
    ax.set_xlabel(f"distance d in steps back from the last; saturated: moved by less than"
                  f" {SATURATED:g} by a change of size 1")  # fmt: skip
    ax.xaxis.get_major_locator().set_params(integer=True)


def _log10(log2: Array) -> Array:
    """Decimal logarithms with NaN, which is not drawn, for 0 and infinity."""
    return np.where(np.isfinite(log2), log2, np.nan) * np.log10(2.0)
