"""``bpttcheck verify``: check cells, layers and functions, and say what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from bpttcheck.cli import github
from bpttcheck.cli.functions import function_options, told
from bpttcheck.cli.judged import JudgedTarget, Order, judge
from bpttcheck.cli.terminal import Progress, columns, paint, stdout_kept_clean
from bpttcheck.config import (
    DTYPES,
    RANDOM,
    Settings,
    check_names,
    draw_seed,
    failures,
    find,
    parse_counts,
    parse_require,
    parse_seed,
    parse_sizes,
    read,
)

PASSED, FAILED, USAGE, INCONCLUSIVE = 0, 1, 2, 3
QUICK = 20

# Click takes the first character for "do not wrap what follows".
_EXIT_CODES = """\b
Exit codes:
  0  everything passed
  1  a gradient is wrong, or a contract is broken
  2  wrong usage, a target could not be loaded, or nothing ran
  3  at least one check could not decide
"""


@dataclass
class _Outcome:
    """The outcome of every target."""

    judged: list[JudgedTarget] = field(default_factory=list)

    @property
    def reports(self) -> list[JudgedTarget]:
        """Those that were checked."""
        return [one for one in self.judged if not one.error]

    @property
    def errors(self) -> list[JudgedTarget]:
        """Those that could not be."""
        return [one for one in self.judged if one.error]

    @property
    def exit_code(self) -> int:
        """2 if a target could not be checked, else 1 if one failed, else 3, else 0."""
        verdicts = {one.verdict for one in self.reports}
        if self.errors or not self.reports or not all(one.ran for one in self.reports):
            return USAGE
        if "failed" in verdicts:
            return FAILED
        return INCONCLUSIVE if "inconclusive" in verdicts else PASSED


@click.command(epilog=_EXIT_CODES)
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--examples", type=click.IntRange(1), help="Cases in each check (default 100).")
@click.option("--quick", is_flag=True, help=f"Only {QUICK} cases in each check.")
@click.option(
    "--seed", metavar="SEED", help=f"Seed of the cases: a number or '{RANDOM}' (default 0)."
)
@click.option(
    "--check", "checks", multiple=True, metavar="NAME", help="Only this check; repeatable."
)
@click.option(
    "--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), help="Only this; repeatable."
)
@click.option("--strict", is_flag=True, default=None, help="Remarks on conduct are failures.")
@click.option(
    "--require",
    multiple=True,
    metavar="ORACLE",
    help="Without this oracle (jax, torch, differences) nothing is decided; repeatable.",
)
@click.option("--lengths", metavar="1,16,300", help="Values of T to try in any case.")
@click.option("--batches", metavar="1,2,8", help="Values of B to try in any case.")
@click.option("--sizes", metavar="3x4,8x32", help="Only these pairs of n_in and n_hidden.")
@click.option(
    "--reference",
    metavar="OBJECT",
    help="What a cell or layer is compared with: module:object, file.py:object or a built-in.",
)
@function_options
@click.option(
    "--isolate/--no-isolate",
    default=None,
    envvar="BPTTCHECK_ISOLATE",
    help="Check each target in a process of its own (default: if there are several).",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Give up a target after this time; implies --isolate.",
)
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1),
    metavar="N",
    help="Isolated targets checked at a time (default: one for each processor).",
)
@click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the reports as one offline page, with maps of what is wrong.",
)
@click.option(
    "--sarif",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the failures with their places as a SARIF file.",
)
@click.option(
    "--fix", is_flag=True, help="Look for an edit that mends it: print it, write NAME.patch."
)
@click.option("--write", is_flag=True, help="With --fix: edit the source file itself.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="Report nothing that passed.")
@click.pass_context
def verify(
    ctx: click.Context, targets: Sequence[str], as_json: bool, quiet: bool, **given: Any
) -> None:
    """Check the backward pass of each TARGET.

    A TARGET is the name of a built-in cell (lstm, elman[relu]), module:object or
    path/file.py:object; without any, every built-in is checked. The object may be a cell, a layer,
    a Subject, or a class or factory that makes one without arguments.

    Functions are checked as they are: path/file.py:forward+backward, or one function that returns
    its loss and the gradients, with --signature or --at.

    With --fix, a failed target's own source is searched for the edit after which all checks pass.
    It is printed and written to NAME.patch in the working directory; the source stays as it is.

    In a process of its own (--isolate), a target that crashes or hangs is inconclusive, the case is
    named, and the other targets are still checked.
    """
    if given["quick"] and given["examples"] is not None:
        raise click.UsageError("--quick and --examples exclude each other")
    if given["isolate"] is False and given["timeout"] is not None:
        raise click.UsageError("--timeout needs a process of its own: leave --no-isolate out")
    if given["write"] and not given["fix"]:
        raise click.UsageError("--write edits the source as --fix found: give both")
    place = find(Path.cwd())
    settings = read(place)
    options = _options(settings, given)
    function = told(given)
    if not targets:
        from bpttcheck import cells

        targets = cells.every_name()
    folder = failures(settings, place and place.parent)
    orders = [
        Order(
            target,
            options,
            None if folder is None else str(folder),
            columns(),
            len(targets) == 1,
            function,
            given["reference"] or "",
            given["page"] is not None,
            given["fix"],
        )
        for target in targets
    ]
    outcome = _Outcome()
    try:
        with stdout_kept_clean(as_json):
            _all(orders, settings, given, outcome, silent=as_json, quiet=quiet)
    except KeyboardInterrupt:
        _conclude(outcome, options["seed"], as_json, len(targets), 130)
        _write_files(given["page"], given["sarif"], outcome)
        raise
    _conclude(outcome, options["seed"], as_json, len(targets), outcome.exit_code)
    _write_files(given["page"], given["sarif"], outcome)
    write_patches(outcome.reports, in_place=given["write"])
    ctx.exit(outcome.exit_code)


def _options(settings: Settings, given: dict[str, Any]) -> dict[str, Any]:
    """Command line options, then pyproject.toml, then the defaults."""
    from bpttcheck.verify.checks import NAMES

    chosen = given["checks"] or settings.checks
    options = {
        "examples": (QUICK if given["quick"] else given["examples"]) or settings.examples,
        "seed": draw_seed(settings.seed if given["seed"] is None else parse_seed(given["seed"])),
        "checks": None if chosen is None else check_names(chosen, NAMES),
        "dtypes": tuple(given["dtypes"]) or settings.dtypes,
        **settings.check_options(),
    }
    if given["strict"]:
        options["strict"] = True
    if given["require"]:
        options["require"] = parse_require(given["require"])
    for key in ("lengths", "batches"):
        if given[key] is not None:
            options[key] = parse_counts(key, given[key])
    if given["sizes"] is not None:
        options["sizes"] = parse_sizes(given["sizes"])
    return options


def _all(
    orders: Sequence[Order],
    settings: Settings,
    given: dict[str, Any],
    outcome: _Outcome,
    *,
    silent: bool,
    quiet: bool,
) -> None:
    """Check the targets, and report their results in order."""
    asked = settings.isolate if given["isolate"] is None else given["isolate"]
    timeout = settings.timeout if given["timeout"] is None else given["timeout"]
    if asked is False and given["isolate"] is False:
        timeout = None
    isolate = timeout is not None or (len(orders) > 1 if asked is None else asked)
    if not isolate:
        for order in orders:
            with Progress(order.target, enabled=not quiet) as progress:
                judged = judge(order, progress)
            _tell(judged, outcome, silent=silent, quiet=quiet)
        return
    from bpttcheck.bench.machine import processors
    from bpttcheck.cli.isolated import Children

    jobs = given["jobs"] or settings.jobs or processors()
    with Children(orders, jobs, clean=silent, timeout=timeout) as children:
        for order in orders:
            with Progress(order.target, enabled=not quiet) as progress:
                judged = children.next(progress)
            _tell(judged, outcome, silent=silent, quiet=quiet)


def _tell(judged: JudgedTarget, outcome: _Outcome, *, silent: bool, quiet: bool) -> None:
    """Record the result of a target and, unless quiet, print it."""
    outcome.judged.append(judged)
    if judged.note and not quiet:
        click.echo(f"note: {judged.note}", err=True)
    if judged.error:
        click.echo(f"error: {judged.error}", err=True)
        return
    if not silent and not (quiet and judged.verdict == "passed"):
        click.echo(paint(judged.text))
    for line in judged.lines:
        click.echo(line, err=True)
    if github.wanted() and not silent:
        for failure in judged.failures[: github.MOST]:
            click.echo(github.PlacedFailure(**failure))


def _conclude(outcome: _Outcome, seed: int, as_json: bool, asked: int, code: int) -> None:
    """The document, or the count of several targets."""
    if as_json:
        click.echo(json.dumps(_document(outcome, seed, code), indent=2))
    elif asked > 1:
        _tally(outcome, seed, asked)


def _write_files(page: Path | None, sarif: Path | None, outcome: _Outcome) -> None:
    """The HTML page and the SARIF file that were asked for."""
    if page is not None:
        from bpttcheck.results.page import page as text

        sections = [(one.target, one.verdict, one.page) for one in outcome.reports]
        _write("html", page, text(sections))
    if sarif is not None:
        from bpttcheck.cli.github import document
        from bpttcheck.verify.checks import CHECKS

        checks = {name: check.text for name, check in CHECKS.items()}
        found = [failure for one in outcome.reports for failure in one.failures]
        _write("sarif", sarif, json.dumps(document(found, checks), indent=2))


def _write(option: str, path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"--{option}: {path} cannot be written: {error}") from error
    click.echo(f"{'page' if option == 'html' else option}: {path}", err=True)


def _tally(outcome: _Outcome, seed: int, asked: int) -> None:
    verdicts = [one.verdict for one in outcome.reports]
    parts = [f"{verdicts.count(word)} {word}" for word in ("passed", "failed", "inconclusive")]
    if outcome.errors:
        parts.append(f"{len(outcome.errors)} not checked")
    done = len(outcome.judged)
    count = f"{done}" if done == asked else f"{done} of {asked}"
    click.echo(f"{count} subjects: {', '.join(parts)}; seed {seed}")


def _document(outcome: _Outcome, seed: int, code: int) -> dict[str, Any]:
    from bpttcheck import __version__
    from bpttcheck.results.report import SCHEMA_VERSION

    words = {PASSED: "passed", FAILED: "failed", USAGE: "error", INCONCLUSIVE: "inconclusive"}
    return {
        "schema_version": SCHEMA_VERSION,
        "bpttcheck": __version__,
        "outcome": words.get(code, "interrupted"),
        "exit_code": code,
        "seed": seed,
        "reports": [
            {"target": one.target, "stored": list(one.stored), **(one.report or {})}
            for one in outcome.reports
        ],
        "errors": [{"target": one.target, "message": one.error} for one in outcome.errors],
    }


def write_patches(judged: Iterable[JudgedTarget], *, in_place: bool) -> None:
    """Write ``NAME.patch`` in the working directory for each target that has a remedy.

    Args:
        judged: the targets.
        in_place: edit the source files themselves, too.

    Raises:
        click.UsageError: a file cannot be written.
    """
    edited: set[str] = set()
    for one in judged:
        if not one.patch:
            continue
        path = Path(f"{_name(one.target)}.patch")
        _write_text(path, one.patch)
        click.echo(f"patch: {path}", err=True)
        if not in_place:
            continue
        if one.mends in edited:
            click.echo(f"{one.mends} was edited already: verify {one.target} again", err=True)
            continue
        edited.add(one.mends)
        _write_text(Path(one.mends), one.mended)
        click.echo(f"edited: {one.mends}", err=True)


def _name(target: str) -> str:
    """A target as the name of a file: ``path/cells.py:Leaky`` is ``cells-Leaky``."""
    last = target.replace(".py:", "-").replace("\\", "/").rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "-", last).strip("-.") or "remedy"


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"--fix: {path} cannot be written: {error}") from error
