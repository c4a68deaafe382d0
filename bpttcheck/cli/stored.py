"""Stores failures and reports them, on the command line and under pytest."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bpttcheck.errors import ContractError
from bpttcheck.results.text import FINDINGS_SHOWN

_UNKNOWN = "FILE.py:OBJECT"


def keep(
    report: Any,
    folder: Path | None,
    target: str | None,
    *,
    subject: Any = None,
    function: Mapping[str, str] | None = None,
) -> tuple[list[str], list[str]]:
    """Store the failures of a report.

    Args:
        report: what was found.
        folder: where to store it; None: nowhere.
        target: the command line argument that named the subject; None if there was none.
        subject: what was checked.
        function: what the options said of functions.

    Returns:
        The ids of what was stored, and the lines to print. Where nothing can be written, a line
        says why: the verdict does not depend on it.
    """
    if folder is None or not report.findings:
        return [], []
    from bpttcheck import replay

    try:
        kept = replay.store(report, folder, target, function=function, subject=subject)
    except ContractError as error:
        return [], [f"not stored: {error}"]
    ids = [stored.id for stored in kept]
    lines = [f"stored: {(folder / name).as_posix()} ({command(name, target)})" for name in ids]
    more = len(lines) - FINDINGS_SHOWN
    if more > 0:
        lines[FINDINGS_SHOWN:] = [f"stored: {more} more, which `bpttcheck replay` lists"]
    return ids, lines


def command(name: str, target: str | None) -> str:
    """The command that replays a failure; a built-in is found by the name that was stored."""
    if target is not None and ":" not in target:
        return f"bpttcheck replay {name}"
    return f"bpttcheck replay {name} --target {shlex.quote(target) if target else _UNKNOWN}"
