"""``bpttcheck flow``: how far a cell's gradient flows back in time, and what bounds it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bpttcheck.cli.terminal import stdout_kept_clean
from bpttcheck.errors import ContractError

if TYPE_CHECKING:
    from bpttcheck.bptt.flow import Flow
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
            from bpttcheck.bptt.flow_plot import require_format

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
    from bpttcheck.bptt.flow_plot import draw

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
