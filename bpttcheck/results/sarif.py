"""Failures as a SARIF file, which code hosts and editors show at the lines they are about.

SARIF 2.1.0 is a standard of OASIS: https://docs.oasis-open.org/sarif/sarif/v2.1.0/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

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
