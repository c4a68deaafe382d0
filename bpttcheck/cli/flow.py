"""``bpttcheck flow``: how far a cell's gradient flows back in time, and what bounds it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from bpttcheck.bptt.flow import SATURATED, Flow
from bpttcheck.cli.terminal import stdout_kept_clean
from bpttcheck.contract import Array
from bpttcheck.errors import ContractError

if TYPE_CHECKING:
    from bpttcheck.contract import Cell

_ROWS, _BAR = 16, 24
_COLOURS = {"vanishes": "yellow", "explodes": "red", "neither": "green", "no answer": "red"}

# Click takes the first character for "do not wrap what follows".
_EXIT_CODES = """\b
Exit codes:
  0  the flow was measured, whatever it is
  2  wrong usage, or TARGET is not a cell, cannot be loaded, or breaks its contract
"""


@click.command(epilog=_EXIT_CODES)
@click.argument("target")
@click.option("--steps", type=click.IntRange(1), default=40, help="Time steps T (default 40).")
@click.option("--hidden", type=click.IntRange(1), default=16, help="n_hidden (default 16).")
@click.option("--inputs", type=click.IntRange(1), default=8, help="n_in (default 8).")
@click.option("--batch", type=click.IntRange(1), default=4, help="Rows B (default 4).")
@click.option("--scale", type=float, default=1.0, help="Multiplies every parameter (default 1).")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of parameters and inputs.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Draw to FILE.svg or FILE.png."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="Print the conclusion only.")
def flow(
    target: str,
    steps: int,
    hidden: int,
    inputs: int,
    batch: int,
    scale: float,
    seed: int,
    out: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure how far the gradient of TARGET, a cell, flows back in time.

    TARGET is what `bpttcheck verify` takes. Its parameters are those of its own init, its inputs
    standard normal. The norm is that of the Jacobian of the last state with respect to the state d
    steps before: the largest of the batch. The Jacobians are those of step_vjp as it is: verify it
    first.
    """
    from bpttcheck.cli.targets import load

    sizes = {"steps": steps, "hidden": hidden, "inputs": inputs, "batch": batch}
    with stdout_kept_clean(as_json):
        if out is not None:
            require_format(out)
        loaded = load(target)
        if loaded.note and not quiet:
            click.echo(f"note: {loaded.note}", err=True)
        cell = _cell(target, loaded.subject)
        found = _measure(cell, **sizes, scale=scale, seed=seed)
        if out is not None:
            _draw(found, out, _title(target, sizes, scale))
    if as_json:
        given = {**sizes, "scale": scale, "seed": seed}
        click.echo(json.dumps(_document(target, found, given), indent=2, allow_nan=False))
    elif quiet:
        click.echo(_conclusion(found))
    else:
        click.echo("\n".join(_text(found, _title(target, sizes, scale))))
    if out is not None and not quiet:
        click.echo(f"plot: {out}", err=True)


def _cell(text: str, subject: Any) -> Cell:
    from bpttcheck.subject.subject import Subject

    made = Subject.of(subject)
    if made.kind != "cell":
        raise ContractError(
            f"target {text!r} is a layer, expected a cell: a layer does its steps inside, so that"
            " the Jacobian of one step is not known; give the cell that it fuses"
        )
    return made.target


def _measure(
    cell: Cell, steps: int, hidden: int, inputs: int, batch: int, scale: float, seed: int
) -> Flow:
    """The flow along standard normal inputs, after a check of the cell's contract."""
    import numpy as np

    from bpttcheck.bptt.flow import flow as measure
    from bpttcheck.subject.user_code import call
    from bpttcheck.subject.validate import validate_cell

    validate_cell(
        cell, n_in=inputs, n_hidden=hidden, batch_size=batch, dtype=np.float64,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    drawn = call("init", cell.init, rng, inputs, hidden)
    params = {key: scale * np.asarray(value, np.float64) for key, value in drawn.items()}
    xs = rng.standard_normal((steps, batch, inputs))
    return call("flow", measure, cell, params, xs)


def _draw(found: Flow, out: Path, title: str) -> None:

    try:
        draw(found, out, title)
    except OSError as error:
        raise ContractError(f"cannot write {out}: {error.strerror or error}") from error


def _title(target: str, sizes: dict[str, int], scale: float) -> str:
    told = ", ".join(f"{key} {value}" for key, value in sizes.items())
    return f"{target}: {told}" + ("" if scale == 1.0 else f", parameters times {scale:g}")


def _conclusion(found: Flow) -> str:
    word = next(word for word in _COLOURS if found.conclusion.startswith(word))
    styled = click.style(word, fg=_COLOURS[word], bold=True)
    return styled + found.conclusion.removeprefix(word)


def _text(found: Flow, title: str) -> Iterable[str]:
    """The result as lines for a terminal."""
    from bpttcheck.bptt.flow import SATURATED, power

    norms, bounds = found.log2_norms.max(axis=1), found.log2_bounds.max(axis=1)
    T = len(norms) - 1
    yield title
    yield ""
    yield f"  {'d':>5}  {'norm':>10}  {'bound':>10}  {'':<{_BAR}}  saturated"
    for d in (*range(0, T, ceil(T / (_ROWS - 1))), T):
        share = f"{found.saturated[T - d].mean():9.0%}" if d else f"{'':>9}"
        numbers = f"{power(norms[d]):>10}  {power(bounds[d]):>10}"
        yield f"  {d:>5}  {numbers}  {_bar(norms, d):<{_BAR}}  {share}"
    yield ""
    yield f"  norm: ||ds_T / ds_(T-d)||, largest of the batch; bound: {found.bound_name}"
    yield f"  saturated: units of the step T-d moved less than {SATURATED:g} by a change of size 1"
    yield ""
    yield _conclusion(found)


def _bar(norms: Any, d: int) -> str:
    """The norm on a log scale from the smallest to the largest that has a logarithm."""
    import numpy as np

    finite = norms[np.isfinite(norms)]
    if not np.isfinite(norms[d]):
        return ""
    low, high = float(finite.min()), float(finite.max())
    part = (float(norms[d]) - low) / (high - low) if high > low else 1.0
    return "#" * max(1, round(part * _BAR))


def _document(target: str, found: Flow, given: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from bpttcheck import __version__

    def told(values: Any) -> list[float | None]:
        """A number for JSON, which has neither infinity nor NaN."""
        return [float(value) if np.isfinite(value) else None for value in values]

    return {
        "bpttcheck": __version__,
        "target": target,
        **given,
        "verdict": found.verdict,
        "conclusion": found.conclusion,
        "bound": found.bound_name,
        "log2_norms": told(found.log2_norms.max(axis=1)),
        "log2_bounds": told(found.log2_bounds.max(axis=1)),
        "log2_gradients": told(found.log2_gradients.max(axis=1)),
        "saturated": told(found.saturated.mean(axis=1)),
    }


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
