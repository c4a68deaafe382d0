"""``bpttcheck replay``: run a stored failure again, or list what is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bpttcheck.cli.functions import function_options, told
from bpttcheck.cli.stored import command
from bpttcheck.cli.terminal import columns, paint, stdout_kept_clean
from bpttcheck.config import FAILURES, failures, find, read
from bpttcheck.errors import ContractError
from bpttcheck.results.words import plural

_WORDS = {"passed": "passes now", "failed": "still fails", "inconclusive": "undecided"}
_CODES = {"passed": 0, "failed": 1, "inconclusive": 3}

# Click takes the first character for "do not wrap what follows".
_EXIT_CODES = """\b
Exit codes:
  0  it passes now
  1  it still fails
  2  wrong usage, or what is stored cannot be read
  3  the stored problem is no evidence either way
"""


@click.command(epilog=_EXIT_CODES)
@click.argument("name", required=False, metavar="[ID]")
@click.option("--target", help="What to run it on: module:object or path/file.py:object.")
@function_options
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Where the failures are (default {FAILURES}, beside pyproject.toml).",
)
@click.option("--clear", is_flag=True, help="Without ID: delete what would be listed.")
@click.option("--example", "as_example", is_flag=True, help="Print it as Hypothesis's @example.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@click.pass_context
def replay(
    ctx: click.Context,
    name: str | None,
    target: str | None,
    folder: Path | None,
    clear: bool,
    as_example: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Run the stored failure ID again, on exactly the numbers on which it was found.

    ID may be the path of its JSON file. Without ID, list what is stored, with --target its failures
    alone; --clear deletes what would be listed. A built-in cell is found by the name in the file;
    pass --target for your own, which is imported only then. The signature of a function is stored
    with its failure, if it was given with an option.
    """
    folder = _folder() if folder is None else folder
    if name is None:
        if as_example:
            raise click.UsageError("which failure? `bpttcheck replay` lists them")
        if clear:
            _clear(folder, target)
        else:
            _list(folder, target, as_json)
        return
    if clear:
        raise click.UsageError(f"--clear goes without ID; to delete this one: rm {folder}/{name}.*")
    if as_example and (as_json or target is not None):
        raise click.UsageError("--example goes with neither --json nor --target")
    from bpttcheck.replay import example, load

    stored = load(name, folder)
    if as_example:
        click.echo(example(stored))
        return
    with stdout_kept_clean(as_json):
        report = _rerun(stored, target, told(given))
    _say(stored, report, as_json)
    ctx.exit(_CODES[report.verdict.value])


def _folder() -> Path:
    place = find(Path.cwd())
    folder = failures(read(place), place and place.parent)
    return Path(FAILURES) if folder is None else folder


def _rerun(stored: Any, target: str | None, function: dict[str, str]) -> Any:
    from bpttcheck.cells import BUILTINS
    from bpttcheck.cli.targets import load
    from bpttcheck.replay import rerun

    stored_target: str = stored.target or ""
    # A file from elsewhere may name any module: only the user decides to import one.
    if target is None and (":" in stored_target or stored_target.partition("[")[0] not in BUILTINS):
        raise ContractError(
            f"{stored.id} was found on {stored.subject}, which is not built in, so name it: "
            f"{command(stored.id, stored_target if ':' in stored_target else None)}"
        )
    chosen = stored_target if target is None else target
    if not function and ("+" in chosen or chosen == stored_target):
        function = dict(stored.function)
    return rerun(stored, load(chosen, function).subject)


def _say(stored: Any, report: Any, as_json: bool) -> None:
    from bpttcheck.results.text import brief, render

    verdict = report.verdict.value
    if as_json:
        document = {
            "schema_version": 1,
            "id": stored.id,
            "outcome": _WORDS[verdict],
            "exit_code": _CODES[verdict],
            "report": report.to_dict(),
        }
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(f"{_WORDS[verdict]}: {stored.id}\n")
    text = brief(report, columns()) if report.passed else render(report, columns())
    click.echo(paint(text))


def _rows(folder: Path, target: str | None) -> list[dict[str, Any]]:
    """What is stored, newest first; of one target, or of one subject's name."""
    from bpttcheck.replay import listed

    rows = [_row(path, content, age) for path, content, age in listed(folder)]
    return [row for row in rows if target in (None, row.get("target"), row.get("subject"))]


def _clear(folder: Path, target: str | None) -> None:
    """Delete the failures that would be listed, with their scripts."""
    from bpttcheck.replay import delete

    rows = _rows(folder, target)
    for row in rows:
        delete(row["id"], folder)
    click.echo(f"deleted {plural(len(rows), 'failure')} from {folder}")


def _list(folder: Path, target: str | None, as_json: bool) -> None:
    rows = _rows(folder, target)
    if as_json:
        document = {"schema_version": 1, "directory": str(folder), "failures": rows}
        click.echo(json.dumps(document, indent=2))
        return
    if not rows:
        of = f" of {target}" if target else ""
        click.echo(f"no failure{of} is stored in {folder}")
        return
    widest = max(len(row["id"]) for row in rows)
    for row in rows:
        words = row["error"] or f"{row['subject']}: {row['block']} ({row['check']})"
        of = f", {row['target']}" if row.get("target") and not row["error"] else ""
        click.echo(f"{row['id']:<{widest}}  {_age(row['age_seconds']):>8}  {words}{of}")


def _row(path: Path, content: Any, age: float) -> dict[str, Any]:
    """One failure for the list; ``error`` says why it cannot be read, if so."""
    row: dict[str, Any] = {"id": path.stem, "age_seconds": round(age), "error": ""}
    if isinstance(content, ContractError):
        return {**row, "error": str(content)}
    finding = content.finding
    return {
        **row,
        "subject": content.subject,
        "target": content.target,
        **{key: getattr(finding, key) for key in ("check", "method", "block", "message")},
    }


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "now"
