"""Failures at the lines that are at fault: as error annotations for GitHub, and as SARIF."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bpttcheck.results.records import CheckResult, Finding, Verdict
from bpttcheck.results.report import Report
from bpttcheck.results.text import describe, told_apart

MOST = 10  # the number that GitHub shows for one step


def wanted() -> bool:
    """True inside a GitHub workflow."""
    return bool(os.environ.get("GITHUB_ACTIONS"))


@dataclass(frozen=True)
class PlacedFailure:
    """What is wrong at one place.

    Args:
        check: the check that failed.
        title: the subject, the block and the check.
        message: the error, its best diagnosis, and the case.
        file: the file of the method at fault; ``""`` where there is no source.
        line: its first line.
    """

    check: str
    title: str
    message: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        """As a line that GitHub reads."""
        where = f"file={_property(self.file)},line={self.line}," if self.file else ""
        return f"::error {where}title={_property(self.title)}::{_escaped(self.message)}"


def failures(subject: Any, report: Report) -> list[PlacedFailure]:
    """One for each finding that is told in full, and for each failed check that has none.

    Findings that are probably consequences of another are named with it.

    Args:
        subject: what was checked: a cell, a layer, a function or a :class:`bpttcheck.Subject`.
        report: what was found.
    """
    target = getattr(subject, "target", subject)
    failed = {check.name: check for check in report.checks if check.verdict is Verdict.FAILED}
    told, others = told_apart(report)
    found = [_finding(target, report, one) for one in told if one.check in failed]
    if found and others:
        blocks = ", ".join(dict.fromkeys(str(one.block) for one in others))
        found[0] = replace(found[0], message=f"{found[0].message}\nalso wrong: {blocks}")
    without = set(failed) - {finding.check for finding in report.findings}
    return found + [_check(target, report, failed[name]) for name in failed if name in without]


def annotate(subject: Any, report: Report) -> list[str]:
    """One ``::error`` line for each of :func:`failures`, at most ten."""
    return [str(failure) for failure in failures(subject, report)][:MOST]


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


def _finding(target: Any, report: Report, finding: Finding) -> PlacedFailure:
    said = [d for d in finding.diagnoses[:1] if d.sentence != finding.message]
    best = "".join(f"\n{d.code}: {d.sentence}" for d in said)
    case = "" if finding.case is None else f"\n{describe(finding.case)}"
    title = f"{report.subject}: {finding.block or finding.method} ({finding.check})"
    place = locate(target, finding.method)
    return _failure(finding.check, title, finding.message + best + case, place)


def _check(target: Any, report: Report, check: CheckResult) -> PlacedFailure:
    title = f"{report.subject}: {check.name}"
    return _failure(check.name, title, check.reason or "failed", locate(target))


def _failure(check: str, title: str, message: str, place: tuple[Path, int] | None) -> PlacedFailure:
    if place is None:
        return PlacedFailure(check, title, message)
    return PlacedFailure(check, title, message, place[0].as_posix(), place[1])


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def _relative(path: Path) -> Path:
    root = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd())
    path = path.resolve()
    return path.relative_to(root.resolve()) if path.is_relative_to(root.resolve()) else path


SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def document(failures: Iterable[Mapping[str, Any]], checks: Mapping[str, str]) -> dict[str, Any]:
    """The failures of a run as one SARIF log.

    Args:
        failures: each with ``check``, ``title``, ``message``, ``file`` and ``line``, as
            :class:`bpttcheck.cli.github.PlacedFailure` has them; a file of ``""`` is unknown.
        checks: what each check compares and finds, by its name.
    """
    from bpttcheck import __version__

    found = list(failures)
    rules = [name for name in checks if any(one["check"] == name for one in found)]
    driver = {
        "name": "bpttcheck",
        "version": __version__,
        "rules": [
            {"id": name, "shortDescription": {"text": checks[name].partition("\n")[0]}}
            for name in rules
        ],
    }
    results = [_result(one, rules) for one in found]
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "unicodeCodePoints"}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(failure: Mapping[str, Any], rules: list[str]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": failure["check"],
        "level": "error",
        "message": {"text": f"{failure['title']}\n{failure['message']}"},
    }
    if failure["check"] in rules:
        result["ruleIndex"] = rules.index(failure["check"])
    if failure["file"]:
        place = {
            "artifactLocation": {"uri": failure["file"]},
            "region": {"startLine": failure["line"]},
        }
        result["locations"] = [{"physicalLocation": place}]
    return result
