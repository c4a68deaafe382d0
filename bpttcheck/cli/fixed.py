"""The files that ``bpttcheck verify --fix`` writes: a patch for each mended target."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import click

from bpttcheck.cli.judged import JudgedTarget


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
        _write(path, one.patch)
        click.echo(f"patch: {path}", err=True)
        if not in_place:
            continue
        if one.mends in edited:
            click.echo(f"{one.mends} was edited already: verify {one.target} again", err=True)
            continue
        edited.add(one.mends)
        _write(Path(one.mends), one.mended)
        click.echo(f"edited: {one.mends}", err=True)


def _name(target: str) -> str:
    """A target as the name of a file: ``path/cells.py:Leaky`` is ``cells-Leaky``."""
    last = target.replace(".py:", "-").replace("\\", "/").rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "-", last).strip("-.") or "remedy"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"--fix: {path} cannot be written: {error}") from error
