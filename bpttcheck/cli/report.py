"""``bpttcheck report``: pages and plots of what ``bpttcheck bench`` measured, and a comparison."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bpttcheck.errors import ContractError

if TYPE_CHECKING:
    from bpttcheck.bench.report.compare import Comparison
    from bpttcheck.bench.report.history import PastRun
    from bpttcheck.bench.report.records import Benchmark

# Click takes the first character for "do not wrap what follows".
_EXIT_CODES = """\b
Exit codes:
  0  the report was written
  1  a ratio is beyond what --fail-if allows
  2  wrong usage, or a file is not a benchmark
"""
_FILE = click.Path(path_type=Path)


@click.command(epilog=_EXIT_CODES)
@click.argument("result", type=_FILE, metavar="RESULT.json")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Where to write (default: beside RESULT.json).")  # fmt: skip
@click.option("--compare", "older", type=_FILE, metavar="OLD.json", help="An older benchmark.")
@click.option("--fail-if", metavar="'ratio > 1.1x'",
              help="With --compare: exit with 1 if a new ratio's interval lies above this many"
              " times the old ratio.")  # fmt: skip
@click.option(
    "--append",
    "history",
    type=_FILE,
    metavar="HISTORY.json",
    help="Add the ratios to this file, and draw them over its runs.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print what is beyond --fail-if only.")
@click.pass_context
def report(
    ctx: click.Context,
    result: Path,
    out: Path | None,
    older: Path | None,
    fail_if: str | None,
    history: Path | None,
    quiet: bool,
) -> None:
    """Write summary.md, benchmark.json, index.html and plots of RESULT.json.

    RESULT.json is the report.json of `bpttcheck bench`; nothing is measured. benchmark.json is what
    github-action-benchmark reads as customSmallerIsBetter. In a GitHub workflow the summary is
    added to the page of the job. The page and the plots need the extra `report`. The file of
    `pytest --benchmark-json` is read too: of that, summary.md is written.
    """
    from bpttcheck.bench.report.compare import compare, parse_gate
    from bpttcheck.bench.report.history import append
    from bpttcheck.bench.report.pytest_json import is_pytests, table
    from bpttcheck.bench.report.records import load
    from bpttcheck.bench.report.summary import comparison_lines, markdown

    if fail_if is not None and older is None:
        raise click.UsageError("--fail-if needs --compare OLD.json")
    if is_pytests(result):
        if older is not None or history is not None:
            raise click.UsageError("to compare files of pytest: pytest --benchmark-compare")
        headlines, text = table(result)
        files, folder = {"summary.md": text}, out or result.parent
        click.echo("\n".join(headlines))
        _write_files(files, folder)
        _add_to_job(text)
        return
    factor = None if fail_if is None else parse_gate(fail_if)
    benchmark = load(result)
    comparison = None if older is None else compare(load(older), benchmark)
    runs: Sequence[PastRun] = ()
    if history is not None:
        from bpttcheck.cli.beside import revision

        runs = append(history, benchmark, revision())
    written = write(benchmark, out or result.parent, comparison, runs)
    _add_to_job(markdown(benchmark, comparison))
    if not quiet:
        for subject in benchmark.subjects:
            click.echo("\n".join(subject.headlines))
        if comparison is not None:
            click.echo("\n".join([*comparison_lines(comparison), *comparison.missing]))
        click.echo(f"written: {written}", err=True)
    if comparison is not None and factor is not None:
        ctx.exit(_gate(comparison, factor))


def write(
    benchmark: Benchmark,
    out: Path,
    comparison: Comparison | None = None,
    history: Sequence[PastRun] = (),
) -> str:
    """Write every file that can be made here; the others are reported on stderr.

    Args:
        benchmark: what was measured.
        out: the folder; created if it does not exist.
        comparison: with an older benchmark.
        history: the runs before it and this one.

    Returns:
        The names of the files, to print.

    Raises:
        ContractError: the folder cannot be written to.
    """
    from bpttcheck.bench.report import html, plots
    from bpttcheck.bench.report.summary import markdown, smaller_is_better

    files = {
        "report.json": benchmark.to_json(),
        "benchmark.json": smaller_is_better(benchmark),
        "summary.md": markdown(benchmark, comparison),
    }
    try:
        drawn = plots.drawings(benchmark, history)
        files["index.html"] = html.page(benchmark, drawn, comparison)
        files.update({f"{one.name}.svg": one.svg for one in drawn})
    except ContractError as error:
        click.echo(f"note: no page and no plots: {error}", err=True)
    _write_files(files, out)
    plain = [name for name in files if not name.endswith(".svg")]
    pictures = len(files) - len(plain)
    return f"{out}: {', '.join(plain)}" + (f" and {pictures} plots" if pictures else "")


def _write_files(files: Mapping[str, str], out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ContractError(f"cannot write to {out}: {error.strerror or error}") from error


def _add_to_job(text: str) -> None:
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        click.echo(f"note: $GITHUB_STEP_SUMMARY cannot be written: {error.strerror}", err=True)


def _gate(comparison: Comparison, factor: float) -> int:
    from bpttcheck.bench.report.summary import between

    beyond = comparison.failures(factor)
    for change in beyond:
        click.echo(f"slower: {change}: {between(change.old)} before, now {between(change.new)}")
    if beyond:
        click.echo(f"{len(beyond)} of {len(comparison.changes)} ratios are beyond {factor:g}x")
    return 1 if beyond else 0
