"""``bpttcheck bench --compare BASE``: two revisions in one run; ``--append``: ratios over runs."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result

from bpttcheck.bench.report.history import append, load_history
from bpttcheck.bench.report.records import (
    Interval,
    RevisionPoint,
    RevisionRatio,
    Size,
    SubjectBenchmark,
    load,
)
from bpttcheck.cli import beside
from bpttcheck.cli.beside import RevisionTask, checked_out, compare_revisions, revisions
from bpttcheck.cli.beside.child import TimedForms
from bpttcheck.errors import ContractError
from bpttcheck.jax_mode import enable_x64

Cli = Callable[..., Result]
REPORT = Path(__file__).parents[1] / "report" / "report.json"
SIZE = Size(6, 2, 2, 3)

CELL = """
import time
import numpy as np
from bpttcheck.cells import Elman

class Mine(Elman):
    def step_vjp(self, params, cache, d_state, d_y):
        {wait}
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, d_x * {factor}
"""


def cell(wait: str = "pass", factor: float = 1.0) -> str:
    return CELL.format(wait=wait, factor=factor)


def git(at: Path, *arguments: str) -> None:
    command = ["git", "-c", "user.name=n", "-c", "user.email=e@e", *arguments]
    subprocess.run(command, cwd=at, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits: the first is right, the gradient of the second is wrong; a slower file now."""
    inside = tmp_path / "inside"
    inside.mkdir()
    git(tmp_path, "init", "-q")
    for factor in (1.0, 1.001):
        (inside / "mine.py").write_text(cell(factor=factor))
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-qm", f"factor {factor}")
    (inside / "mine.py").write_text(cell(wait="time.sleep(1e-3)"))
    monkeypatch.chdir(inside)
    return tmp_path


@pytest.mark.usefixtures("repository")
def test_a_slower_working_tree_is_found_and_nothing_is_left_behind() -> None:
    one = RevisionTask("mine.py:Mine", [(SIZE, "float64")], ["numpy"])
    (found,) = compare_revisions("HEAD~1", [one], {}, rounds=3)
    assert (found.target, found.form, found.base) == ("mine.py:Mine", "numpy", "HEAD~1")
    assert found.ratio.low > 3  # six times a millisecond beside some hundred microseconds
    assert 0.3 < found.same.value < 3
    assert len({len(samples) for samples in found.points[0].samples}) == 1
    listed = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True, check=True)
    assert len(listed.stdout.splitlines()) == 1


@pytest.mark.nightly
@pytest.mark.usefixtures("repository")
def test_a_wrong_gradient_is_not_compared() -> None:
    absolute = RevisionTask(f"{Path.cwd() / 'mine.py'}:Mine", [(SIZE, "float64")], ["numpy"])
    with pytest.raises(ContractError, match=r"at HEAD: numpy: d_xs is off by 0\.001"):
        compare_revisions("HEAD", [absolute], {}, rounds=3)


@pytest.mark.usefixtures("repository")
def test_what_is_no_revision_and_no_repository_is_said(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ContractError, match="'v9' is neither a file nor"), checked_out("v9"):
        pass
    assert beside.revision().endswith("+")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(Path.cwd().parent))
    with pytest.raises(ContractError, match="not a git repository"), checked_out("HEAD"):
        pass
    assert beside.revision() == ""


def test_a_line_is_printed_and_stored_for_each_form(
    cli: Cli, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load(REPORT).subjects[0]  # of one point and no curve no plot is drawn, which take long
    measured = replace(whole, points=whole.points[:1], v_curves=[])
    asked: list[str] = []

    def measure(target: str, *_: object) -> SubjectBenchmark:
        asked.append(target)
        return replace(measured, target=target)

    monkeypatch.setattr("bpttcheck.bench.measure.measure", measure)

    def compared(name: str, subjects: list[RevisionTask], *_: object) -> list[RevisionRatio]:
        assert subjects[0].forms == list(dict.fromkeys(one.form for one in measured.summaries))
        now, same = Interval(0.97, 0.95, 0.99), Interval(1.0, 0.98, 1.02)
        point = RevisionPoint("numpy", SIZE, "float64", now, [[1.0]] * 3)
        target = subjects[0].target
        return [RevisionRatio(target, "numpy", name, "abc1234", now, same, [point])]

    monkeypatch.setattr(beside, "compare_revisions", compared)
    (repository / "inside" / "mine.py").write_text(cell())
    small = ("--sizes", "3,2,2,3", "--rounds", "3", "--out", "o", "-q")
    result = cli("bench", "mine.py:Mine", *small, "--compare", "HEAD~1", "--append", "h.json")
    assert result.exit_code == 0, result.output
    line = (
        "mine.py:Mine, NumPy: now over HEAD~1 (abc1234): 0.97x (0.95 to 0.99), 1 point; HEAD~1 over"
        " itself: 1.00x (0.98 to 1.02)"
    )
    assert line in result.stdout.splitlines()
    assert line in Path("o/summary.md").read_text()
    assert line in Path("o/index.html").read_text()
    found = load(Path("o/report.json"))
    assert found.revisions[0].ratio == Interval(0.97, 0.95, 0.99)
    (run,) = load_history(Path("h.json"))
    assert "numpy" in {one.form for one in run.ratios}
    assert run.revision.rstrip("+")

    again = cli("bench", "mine.py:Mine", *small, "--compare", "o/report.json", "--append", "h.json")
    assert again.exit_code == 0, again.output
    assert "mine.py:Mine, NumPy: the ratio to JAX is 1.00x that of before" in again.stdout
    assert asked == ["mine.py:Mine"] * 2
    assert len(load_history(Path("h.json"))) == 2
    assert list(Path("o").glob("*-history.svg"))


def test_a_folder_that_the_revision_had_not_is_said(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = repository / "inside" / "new"
    new.mkdir()
    with checked_out("HEAD~1") as base:
        monkeypatch.chdir(new)
        with pytest.raises(ContractError, match="there is no folder inside/new at HEAD~1"):
            revisions._Child("before", base.folder, base, "HEAD~1")


@pytest.mark.usefixtures("repository")
def test_what_a_child_says_is_told_with_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    with checked_out("HEAD~1") as base:
        child = revisions._Child("before", base.folder, base, "HEAD~1")
        inside, outside = base.top / "inside" / "mine.py", Path("/elsewhere/mine.py")
        assert revisions._within(f"{inside}:Mine", child) == f"{base.folder}/inside/mine.py:Mine"
        assert revisions._within(f"{outside}:Mine", child) == f"{outside}:Mine"
        assert revisions._within("elman", child) == "elman"
        for line, said in (("", "the process of HEAD~1 ended"),
                           ('{"error": "no"}', "at HEAD~1: no")):  # fmt: skip
            child._process = SimpleNamespace(stdout=io.StringIO(line))
            with pytest.raises(ContractError, match=said):
                child.answer()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ContractError, match="git cannot be run: No such file"):
        revisions.git("status")


def test_what_is_no_history_is_left_as_it_is(cli: Cli, tmp_path: Path) -> None:
    benchmark = load(REPORT)
    for text in ("{", "[]", '{"schema": "bpttcheck.bench.history", "schema_version": 2}'):
        file = tmp_path / "h.json"
        file.write_text(text)
        with pytest.raises(ContractError) as raised:
            append(file, benchmark, "abc")
        assert raised.value.item == "append"
        assert str(file) in str(raised.value)
        assert file.read_text() == text
    result = cli("bench", "elman", "--append", str(file))
    assert result.exit_code == 2
    assert "schema_version 2" in result.stderr


@pytest.mark.nightly
def test_a_report_appends_too_and_prints_its_comparison(cli: Cli, tmp_path: Path) -> None:
    history = tmp_path / "h.json"
    given = ("report", str(REPORT), "--out", str(tmp_path), "--append", str(history))
    result = cli(*given, "--compare", str(REPORT))
    assert result.exit_code == 0, result.output
    printed = [line for line in result.stdout.splitlines() if "that of before" in line]
    assert printed
    assert all("is 1.00x that of before" in line for line in printed)
    assert json.loads(history.read_text())["runs"][0]["ratios"]


@pytest.mark.usefixtures("repository")
def test_a_child_prepares_the_forms_that_there_are_and_times_them() -> None:
    with enable_x64():
        _prepares_and_times(TimedForms())


def _prepares_and_times(forms: TimedForms) -> None:
    right = forms.prepare("elman", {}, [3, 2, 2, 3], "float64", ["numpy", "fused", "none such"])
    assert right["wrong"] == {}
    assert right["ready"].keys() == {"numpy", "fused"}
    assert forms.seconds("fused", 2) > 0
    Path("mine.py").write_text(cell(factor=1.001))
    wrong = forms.prepare("mine.py:Mine", {}, [3, 2, 2, 3], "float64", ["numpy"])
    assert wrong["ready"] == {}
    assert wrong["wrong"]["numpy"].startswith("d_xs is off by 0.001")
