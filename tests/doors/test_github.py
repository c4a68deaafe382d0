"""Annotations: the right line of the user's file, and nothing that breaks GitHub's format."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bpttcheck.cli.github import MOST, SCHEMA, annotate, document, failures, locate
from bpttcheck.results.records import CheckResult, Finding, Verdict
from bpttcheck.results.report import Report
from bpttcheck.verify.checks import CHECKS


class Target:
    def step(self) -> None: ...

    def step_vjp(self) -> None: ...


def report(*findings: Finding, reason: str = "") -> Report:
    return Report("A", (CheckResult("purity", Verdict.FAILED, 1, reason=reason),), findings)


def line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip().startswith(text))


@pytest.fixture(autouse=True)
def _workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(Path(__file__).parent))


@pytest.mark.parametrize(
    ("method", "text"),
    [("step_vjp", "def step_vjp"), ("", "class Target"), ("no_such_method", "class Target")],
)
def test_the_place_is_the_method_or_else_the_class(method: str, text: str) -> None:
    assert locate(Target(), method) == (Path(Path(__file__).name), line_of(text))


def test_a_file_outside_the_workspace_keeps_its_whole_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    assert locate(Target()) == (Path(__file__).resolve(), line_of("class Target"))


def test_code_without_source_has_no_place() -> None:
    written_by_nobody = type("Made", (), {})
    assert locate(3) is None
    assert locate(written_by_nobody()) is None
    finding = Finding("purity", "step", "x", "impure")
    assert annotate(3, report(finding)) == ["::error title=A%3A x (purity)::impure"]


def test_line_breaks_and_separators_are_escaped() -> None:
    finding = Finding("purity", "step", "a,b:c", "100%\r\nwrong, is: it")
    (line,) = annotate(Target(), report(finding))
    assert line.endswith(",title=A%3A a%2Cb%3Ac (purity)::100%25%0D%0Awrong, is: it")
    assert "\n" not in line


def test_a_failed_check_without_findings_is_told_too() -> None:
    (line,) = annotate(Target(), report(reason="it passes now"))
    assert line.endswith("title=A%3A purity::it passes now")


def test_only_failures_are_told_and_not_more_than_are_shown() -> None:
    finding = Finding("purity", "step", "x", "impure")
    many = tuple(CheckResult(f"check{i}", Verdict.FAILED, 1) for i in range(MOST + 5))
    assert len(annotate(Target(), Report("A", many))) == MOST
    passed = Report("A", (CheckResult("purity", Verdict.PASSED, 1),), (finding,))
    assert annotate(Target(), passed) == []


def test_consequences_are_named_with_their_cause() -> None:
    found = [
        Finding("step_vjp", "step_vjp", "d_x", "d_x is off", hand=1.0),
        Finding("step_vjp", "step_vjp", "d_W", "d_W is off", hand=1.0, counted=3),
    ]
    checks = (CheckResult("step_vjp", Verdict.FAILED, 1),)
    (line,) = annotate(Target(), Report("A", checks, tuple(found)))
    assert line.endswith("::d_x is off%0Aalso wrong: d_W")


def test_a_sarif_log_has_the_rule_the_message_and_the_place() -> None:
    finding = Finding("purity", "step_vjp", "x", "impure")
    (failure,) = failures(Target(), report(finding))
    texts = {name: check.text for name, check in CHECKS.items()}
    log = document([asdict(failure), asdict(replace(failure, file="", line=0))], texts)
    assert (log["version"], log["$schema"]) == ("2.1.0", SCHEMA)
    (run,) = log["runs"]
    (rule,) = run["tool"]["driver"]["rules"]
    assert rule["id"] == "purity"
    assert rule["shortDescription"]["text"].startswith("Checks that methods change no argument")
    first, second = run["results"]
    assert first["message"]["text"] == "A: x (purity)\nimpure"
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == Path(__file__).name
    assert place["region"]["startLine"] == line_of("def step_vjp")
    assert "locations" not in second
    assert run["results"][1]["ruleIndex"] == 0
