"""``bpttcheck bench``: how long a backward pass takes, beside JAX autodiff and others."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bpttcheck.cli.functions import function_options, told
from bpttcheck.cli.terminal import Progress, stdout_kept_clean
from bpttcheck.config import DTYPES
from bpttcheck.errors import ContractError, GradientMismatch

if TYPE_CHECKING:
    from bpttcheck.bench.measure import Plan
    from bpttcheck.bench.report.records import (
        Benchmark,
        Failure,
        RevisionRatio,
        SubjectBenchmark,
    )

_DEFAULT = ("elman", "lstm", "gru_reset_after")
_ROUNDS, _QUICK_ROUNDS, _BAR = 15, 5, 20
_THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip

# Click takes the first character for "do not wrap what follows".
_EXIT_CODES = """\b
Exit codes:
  0  everything was measured, whatever the figures
  1  a hand-written gradient is wrong, so that it was not timed
  2  wrong usage, or a target could not be loaded or keeps no contract
"""


@click.command(epilog=_EXIT_CODES)
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--quick", is_flag=True, help="Few sizes and few rounds.")
@click.option("--sizes", multiple=True, metavar="T,B,N,H", help="Only this size; repeatable.")
@click.option(
    "--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES),
    help="Repeatable (default float64).",
)  # fmt: skip
@click.option(
    "--rounds",
    type=click.IntRange(3),
    help=f"Paired rounds, at the least (default {_ROUNDS}); short ones are five times as many.",
)
@click.option(
    "--cores", default="1", metavar="N|all",
    help="Run on so many cores, each library with so many threads (default 1).",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path(".bpttcheck/bench"),
    metavar="DIR", help="Where to write (default .bpttcheck/bench).",
)  # fmt: skip
@click.option(
    "--compare",
    metavar="BASE",
    help="A git revision to measure beside the working tree, round by round; or an older"
    " report.json.",
)
@click.option(
    "--append", "history", type=click.Path(dir_okay=False, path_type=Path), metavar="HISTORY.json",
    help="Add the ratios to this file, and draw them over its runs.",
)  # fmt: skip
@function_options
@click.option("--json", "as_json", is_flag=True, help="Print report.json and nothing else.")
@click.option(
    "-q", "--quiet", is_flag=True, help="Print the headlines and what makes them doubtful only."
)
@click.pass_context
def bench(
    ctx: click.Context,
    targets: Sequence[str],
    quick: bool,
    sizes: Sequence[str],
    dtypes: Sequence[str],
    rounds: int | None,
    cores: str,
    out: Path,
    compare: str | None,
    history: Path | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Time the gradients of each TARGET, hand-written and by autodiff.

    A TARGET is what `bpttcheck verify` takes; without any: elman, lstm and gru_reset_after.
    Gradients are compared first: a wrong one is not timed. report.json, summary.md, index.html and
    plots are written to DIR. Nothing else should run on the machine meanwhile. On one core every
    library has one thread, which makes figures comparable; `--cores all` shows what threads bring.

    With --compare BASE the hand-written forms of the working tree and of the revision are timed in
    processes of their own, one thread each, in turns: "now over BASE: 0.97x (0.95 to 0.99)". The
    files of the revision come from a temporary `git worktree`.

    Of functions (FILE.py:FORWARD+BACKWARD with --signature), T and B are the sizes of its time and
    batch axes, N and H those of its first two other letters.
    """
    if cores != "all" and not (cores.isdecimal() and int(cores)):
        raise click.UsageError(f"--cores {cores!r}, expected a number of at least 1, or 'all'")
    ctx.with_resource(_on_cores(None if cores == "all" else int(cores)))

    from bpttcheck.bench.machine import load_average
    from bpttcheck.bench.measure import Plan
    from bpttcheck.bench.report.compare import compare as compare_with
    from bpttcheck.bench.report.history import append, load_history
    from bpttcheck.bench.report.records import load
    from bpttcheck.bench.report.summary import comparison_lines
    from bpttcheck.bench.sizes import default, parse
    from bpttcheck.cli.beside import resolved, revision
    from bpttcheck.cli.report import write

    if quick and sizes:
        raise click.UsageError("--quick and --sizes exclude each other")
    older = None
    if compare is not None and Path(compare).is_file():
        older = load(Path(compare))
    elif compare is not None:
        resolved(compare)  # said before anything is measured
    if history is not None:
        load_history(history)  # what is not such a file is said before anything is measured
    chosen = tuple(parse(text) for text in dict.fromkeys(sizes)) or default(quick)
    count = rounds or (_QUICK_ROUNDS if quick else _ROUNDS)
    started, load_before = time.perf_counter(), load_average()
    plan = Plan(
        chosen, tuple(dict.fromkeys(dtypes)) or ("float64",), count, bool(sizes), load=load_before
    )
    with stdout_kept_clean(as_json):
        code, found, failures = _measure(
            targets or _DEFAULT, plan, told(given), silent=as_json, quiet=quiet
        )
    if not found:
        ctx.exit(code)
    with stdout_kept_clean(as_json):
        beside: list[RevisionRatio] = []
        if compare is not None and older is None:
            beside = _revisions(compare, found, plan, told(given), silent=as_json, quiet=quiet)
        spent = time.perf_counter() - started
        benchmark = _benchmark(plan, spent, load_before, found, failures, beside)
        comparison = None
        if older is not None:
            comparison = compare_with(older, benchmark)
            if not as_json:
                click.echo("\n".join([*comparison_lines(comparison), *comparison.missing]))
        runs = () if history is None else append(history, benchmark, revision())
        written = write(benchmark, out, comparison, runs)
    if as_json:
        click.echo(benchmark.to_json(), nl=False)
    else:
        for line in benchmark.environment["warnings"]:
            click.echo(f"note: {line}", err=True)
        if not quiet:
            click.echo(f"written: {written}", err=True)
    ctx.exit(code)


@contextmanager
def _on_cores(count: int | None) -> Generator[None]:
    """So many cores, and as many threads for each library that is loaded inside.

    Libraries count both when they are imported: where NumPy is there already nothing is changed.
    """
    if count is None or "numpy" in sys.modules:
        yield
        return
    for name in _THREADS:
        os.environ.setdefault(name, str(count))
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if before is not None:
        os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


def _measure(
    targets: Sequence[str], plan: Plan, function: dict[str, str], *, silent: bool, quiet: bool
) -> tuple[int, list[SubjectBenchmark], list[Failure]]:
    """The exit code, what was measured, and what was not."""
    from bpttcheck.bench.measure import measure
    from bpttcheck.bench.report.records import Failure
    from bpttcheck.bench.report.summary import terminal
    from bpttcheck.cli.targets import load

    codes = [0]
    found: list[SubjectBenchmark] = []
    failures: list[Failure] = []
    for text in dict.fromkeys(targets):
        try:
            target = load(text, function)
            if target.note and not quiet:
                click.echo(f"note: {target.note}", err=True)
            with Progress(text, enabled=not quiet) as progress:
                one = measure(text, target.subject, plan, _with_bar(progress))
        except (ContractError, GradientMismatch) as error:
            codes.append(1 if isinstance(error, GradientMismatch) else 2)
            failures.append(Failure(text, str(error)))
            click.echo(f"error: {text}: {error}", err=True)
            continue
        found.append(one)
        if not silent:
            lines = one.headlines if quiet else [*terminal(one), ""]
            click.echo("\n".join(lines))
    return max(codes), found, failures


def _revisions(
    name: str,
    found: Sequence[SubjectBenchmark],
    plan: Plan,
    function: dict[str, str],
    *,
    silent: bool,
    quiet: bool,
) -> list[RevisionRatio]:
    """The working tree beside a revision, at the sizes that were measured."""
    from bpttcheck.bench.report.summary import revisions_line
    from bpttcheck.cli.beside import RevisionTask, compare_revisions

    subjects = [
        RevisionTask(s.target, [(p.size, p.dtype) for p in s.points],
                 list(dict.fromkeys(one.form for one in s.summaries)) or ["numpy"])
        for s in found
    ]  # fmt: skip
    with Progress(f"beside {name}", enabled=not quiet) as progress:
        ratios = compare_revisions(name, subjects, function, plan.count, _with_bar(progress))
    if not silent:
        for one in ratios:
            click.echo(revisions_line(one))
    return ratios


def _with_bar(progress: Progress) -> Any:
    def show(done: int, total: int, what: str) -> None:
        filled = _BAR * done // max(total, 1)
        progress(done, total, f"[{'#' * filled}{'-' * (_BAR - filled)}] {what}")

    return show


def _benchmark(
    plan: Plan,
    seconds: float,
    load: list[float] | None,
    found: list[SubjectBenchmark],
    failures: list[Failure],
    revisions: list[RevisionRatio],
) -> Benchmark:
    from bpttcheck import __version__
    from bpttcheck.bench.forms import FORMS
    from bpttcheck.bench.machine import environment, peak_gflops
    from bpttcheck.bench.report.records import Benchmark

    return Benchmark(
        bpttcheck=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        settings={"rounds": plan.count, "seed": plan.seed, "dtypes": list(plan.dtypes)},
        environment=environment(load, peak_gflops(plan.dtypes)),
        forms={key: form.title for key, form in FORMS.items()},
        subjects=found,
        failures=failures,
        revisions=revisions,
    )
