"""Error annotations for GitHub, at the user's line that is at fault."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from bpttcheck.results.records import CheckResult, Finding, Verdict
from bpttcheck.results.report import Report
from bpttcheck.results.text import describe

MOST = 10  # the number that GitHub shows for one step


def wanted() -> bool:
    """True inside a GitHub workflow."""
    return bool(os.environ.get("GITHUB_ACTIONS"))


def annotate(subject: Any, report: Report) -> list[str]:
    """One ``::error`` line for each finding, and for each failed check that has none.

    Args:
        subject: what was checked: a cell, a layer, a function or a :class:`bpttcheck.Subject`.
        report: what was found.

    Returns:
        The lines, at most ten.
    """
    target = getattr(subject, "target", subject)
    failed = {check.name: check for check in report.checks if check.verdict is Verdict.FAILED}
    found = [finding for finding in report.findings if finding.check in failed]
    without = set(failed) - {finding.check for finding in found}
    lines = [_finding(target, report, finding) for finding in found]
    lines += [_check(target, report, failed[name]) for name in failed if name in without]
    return lines[:MOST]


def locate(target: Any, method: str = "") -> tuple[Path, int] | None:
    """The file and line of a method of ``target``, of its class, or None where there is no source.

    Of a function it is that of its forward or backward pass.

    A file below ``$GITHUB_WORKSPACE`` or the working directory is named relative to it.
    """
    for thing in _sources(target, method):
        if thing is None:
            continue
        try:
            source, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]
        except (OSError, TypeError):
            continue
        if source is not None:
            return _relative(Path(source)), line
    return None


def _sources(target: Any, method: str) -> tuple[Any, ...]:
    """What has the source of a method, the best first."""
    from bpttcheck.adapt.function import Function

    if not isinstance(target, Function):
        cls = target if isinstance(target, type) else type(target)
        return (getattr(cls, method, None) if method else None, cls)
    forward, backward = target.forward_function, target.backward_function or target.forward_function
    found = (backward, forward) if method != target.methods[0] else (forward,)
    # What an adapter made of an object has no place in the author's file.
    return tuple(f for f in found if not getattr(f, "__module__", "").startswith("bpttcheck."))


def _finding(target: Any, report: Report, finding: Finding) -> str:
    best = "".join(f"\n{d.code}: {d.sentence}" for d in finding.diagnoses[:1])
    case = "" if finding.case is None else f"\n{describe(finding.case)}"
    title = f"{report.subject}: {finding.block or finding.method} ({finding.check})"
    return _line(locate(target, finding.method), title, finding.message + best + case)


def _check(target: Any, report: Report, check: CheckResult) -> str:
    return _line(locate(target), f"{report.subject}: {check.name}", check.reason or "failed")


def _line(place: tuple[Path, int] | None, title: str, message: str) -> str:
    where = "" if place is None else f"file={_property(place[0].as_posix())},line={place[1]},"
    return f"::error {where}title={_property(title)}::{_escaped(message)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def _relative(path: Path) -> Path:
    root = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd())
    path = path.resolve()
    return path.relative_to(root.resolve()) if path.is_relative_to(root.resolve()) else path
