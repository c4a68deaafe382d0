"""``bpttcheck verify``: check cells and layers, and say what is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from bpttcheck.cli.stored import keep
from bpttcheck.cli.terminal import Progress, columns, paint, stdout_kept_clean
from bpttcheck.config import (
    DTYPES,
    RANDOM,
    Settings,
    check_names,
    draw_seed,
    failures,
    find,
    parse_seed,
    read,
)
from bpttcheck.errors import ContractError

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
    """What became of every target, and where its failures are stored."""

    failures: Path | None = None
    stored: list[list[str]] = field(default_factory=list)  # ids, for each report
    reports: list[tuple[str, Any]] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """2 if a target could not be checked, else 1 if one failed, else 3, else 0."""
        verdicts = {report.verdict.value for _, report in self.reports}
        ran = all(any(check.verdict for check in report.checks) for _, report in self.reports)
        if self.errors or not self.reports or not ran:
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing about what passed.")
@click.pass_context
def verify(
    ctx: click.Context,
    targets: Sequence[str],
    examples: int | None,
    quick: bool,
    seed: str | None,
    checks: Sequence[str],
    dtypes: Sequence[str],
    as_json: bool,
    quiet: bool,
) -> None:
    """Check the backward pass of each TARGET.

    A TARGET is the name of a built-in cell (lstm, elman[relu]), module:object or
    path/file.py:object; without any, every built-in is checked. The object may be a cell, a layer,
    a Subject, or a class or factory that makes one without arguments.
    """
    if quick and examples is not None:
        raise click.UsageError("--quick and --examples exclude each other")
    place = find(Path.cwd())
    settings = read(place)
    options = _options(settings, QUICK if quick else examples, seed, checks, dtypes)
    if not targets:
        from bpttcheck import cells

        targets = cells.every_name()
    outcome = _Outcome(failures(settings, place and place.parent))
    with stdout_kept_clean(as_json):
        for target in targets:
            _one(target, options, outcome, silent=as_json, quiet=quiet, alone=len(targets) == 1)
    if as_json:
        click.echo(json.dumps(_document(outcome, options["seed"]), indent=2))
    elif len(targets) > 1:
        _tally(outcome, options["seed"])
    ctx.exit(outcome.exit_code)


def _options(
    settings: Settings,
    examples: int | None,
    seed: str | None,
    checks: Sequence[str],
    dtypes: Sequence[str],
) -> dict[str, Any]:
    """What was typed, over what pyproject.toml says, over the defaults."""
    from bpttcheck.verify.checks import NAMES

    chosen = checks or settings.checks
    return {
        "examples": examples or settings.examples,
        "seed": draw_seed(settings.seed if seed is None else parse_seed(seed)),
        "checks": None if chosen is None else check_names(chosen, NAMES),
        "dtypes": tuple(dtypes) or settings.dtypes,
    }


def _one(
    text: str, options: dict[str, Any], outcome: _Outcome, *, silent: bool, quiet: bool, alone: bool
) -> None:
    """Check one target and, unless silent, print what came of it."""
    import bpttcheck
    from bpttcheck.cli import github
    from bpttcheck.cli.targets import load

    try:
        target = load(text)
        if target.note and not quiet:
            click.echo(f"note: {target.note}", err=True)
        with Progress(text, enabled=not quiet) as progress:
            report = bpttcheck.check(target.subject, raises=False, progress=progress, **options)
    except ContractError as error:
        outcome.errors.append((text, str(error)))
        click.echo(f"error: {error}", err=True)
        return
    outcome.reports.append((text, report))
    ids, lines = keep(report, outcome.failures, text)
    outcome.stored.append(ids)
    if not silent and not (quiet and report.passed):
        _print(report, alone)
    for line in lines:
        click.echo(line, err=True)
    if github.wanted() and not silent:
        for line in github.annotate(target.subject, report):
            click.echo(line)


def _print(report: Any, alone: bool) -> None:
    """The whole report, or a few lines for a pass among others."""
    from bpttcheck.verify.text import brief, render

    if alone or not report.passed:
        click.echo(paint(render(report, columns())) + ("" if alone else "\n"))
        return
    click.echo(paint(brief(report, columns())))


def _tally(outcome: _Outcome, seed: int) -> None:
    verdicts = [report.verdict.value for _, report in outcome.reports]
    parts = [f"{verdicts.count(word)} {word}" for word in ("passed", "failed", "inconclusive")]
    if outcome.errors:
        parts.append(f"{len(outcome.errors)} not checked")
    total = len(outcome.reports) + len(outcome.errors)
    click.echo(f"{total} subjects: {', '.join(parts)}; seed {seed}")


def _document(outcome: _Outcome, seed: int) -> dict[str, Any]:
    from bpttcheck import __version__
    from bpttcheck.verify.results import SCHEMA_VERSION

    words = {PASSED: "passed", FAILED: "failed", USAGE: "error", INCONCLUSIVE: "inconclusive"}
    return {
        "schema_version": SCHEMA_VERSION,
        "bpttcheck": __version__,
        "outcome": words[outcome.exit_code],
        "exit_code": outcome.exit_code,
        "seed": seed,
        "reports": [
            {"target": text, "stored": ids, **report.to_dict()}
            for (text, report), ids in zip(outcome.reports, outcome.stored, strict=True)
        ],
        "errors": [{"target": text, "message": message} for text, message in outcome.errors],
    }
