"""The plot of a training: the loss, and how far it is from that of JAX."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np

INK, SOFT, LINE = "#1f2933", "#66727f", "#d5dbe1"
HAND, WRONG = "#0b6bcb", "#b3261e"
STYLE = {
    "svg.hashsalt": "training", "svg.fonttype": "none", "font.size": 9, "text.color": INK,
    "font.family": "sans-serif", "axes.edgecolor": LINE, "axes.labelcolor": INK,
    "xtick.color": SOFT, "ytick.color": SOFT, "axes.titlesize": 10,
}  # fmt: skip


def require_drawing(path: Path) -> None:
    """Refuse to draw what cannot be drawn, before anything is trained."""
    if path.suffix not in (".svg", ".png"):
        raise click.ClickException(f"the plot {str(path)!r} should end in .svg or .png")
    if not path.absolute().parent.is_dir():
        raise click.ClickException(f"there is no folder {str(path.parent)!r} for the plot")
    if find_spec("matplotlib") is None:
        raise click.ClickException(
            'a plot needs matplotlib, which is not installed: pip install "bpttcheck[report]"'
        )


def draw(found: Any, path: Path) -> None:
    """Write the plot of a :class:`show.Result` as SVG or PNG, by the ending of ``path``."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 5.4))
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 4))
        _losses(above, found)
        _distances(below, found)
        for ax in (above, below):
            ax.grid(color=LINE, linewidth=0.6)
            ax.tick_params(length=0, which="both")
            for side in ax.spines.values():
                side.set_visible(False)
        figure.align_ylabels()
        figure.tight_layout()
        plain = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white", metadata=plain)


def _losses(ax: Any, found: Any) -> None:
    steps, jax = np.arange(len(found.hand)), found.jax
    # Far closer together than a line is wide.
    ax.plot(steps, (jax.smallest + jax.largest) / 2, color=SOFT, linewidth=5, alpha=0.35,
            label=f"{jax.losses.shape[1]} runs of JAX, one ulp apart")  # fmt: skip
    ax.plot(steps, found.hand, color=HAND, linewidth=1.2, label="gradients derived by hand")
    for (name, value), dashes in zip(found.task.baselines.items(), ("--", ":"), strict=False):
        ax.axhline(value, color=INK, linewidth=0.9, linestyle=dashes, label=name)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("loss of each batch")
    ax.legend(frameon=False, fontsize=8)
    ax.set_title(f"{found.task.title}, {len(steps)} steps", loc="left")


def _distances(ax: Any, found: Any) -> None:
    """Distances from the middle of the JAX runs on a log scale, where the band is a height."""
    steps, jax = np.arange(len(found.hand)), found.jax
    middle, half = (jax.smallest + jax.largest) / 2, (jax.largest - jax.smallest) / 2
    # A distance of exactly 0 has no logarithm: it is drawn at a quarter of an ulp.
    least = np.spacing(jax.largest) / 4
    bottom = float(least.min()) / 2
    ax.fill_between(steps, bottom, half + jax.width, color=SOFT, alpha=0.18, linewidth=0,
                    label="the band")  # fmt: skip
    ax.fill_between(steps, bottom, np.maximum(half, least), color=SOFT, alpha=0.4, linewidth=0,
                    label="range of the JAX runs")  # fmt: skip
    for curve, colour, label in (
        (found.wrong, WRONG, f"gradient of {found.task.planted} times 1 + 1e-7"),
        (found.hand, HAND, "gradients derived by hand"),
    ):
        far = np.maximum(np.abs(curve - middle), least)
        ax.plot(steps, far, color=colour, linewidth=1, label=label)
    ax.set_yscale("log")
    ax.set_ylim(bottom=bottom)
    ax.set_ylabel("distance of the loss from the\nmiddle of the JAX runs")
    ax.set_xlabel("step")
    ax.legend(frameon=False, fontsize=8, ncols=4, columnspacing=1.2, handlelength=1.5,
              loc="upper center", bbox_to_anchor=(0.45, -0.16))  # fmt: skip
