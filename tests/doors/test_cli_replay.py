"""``bpttcheck replay``: what is stored by which door, listed, run again, and never trusted."""

from __future__ import annotations

import json
import os
import re
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import bpttcheck
from bpttcheck import cells, replay
from bpttcheck.config import FAILURES, Settings, failures, read
from bpttcheck.errors import ContractError
from bpttcheck.problems.cases import build
from bpttcheck.results.records import Case, Finding, Measured
from bpttcheck.results.report import Report
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.checks import names_for

Cli = Callable[..., Result]

CELL = '''
from pathlib import Path

import numpy as np

Path("imported").touch()
SHARE = 2


class Averaged:
    """h' = tanh(x U + h W + b), the gradient of b divided by SHARE where the batch has rows."""

    def init(self, rng, n_in, n_hidden):
        draw = rng.standard_normal
        return {"U": draw((n_in, n_hidden)), "W": draw((n_hidden, n_hidden)), "b": draw(n_hidden)}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b"])), params["b"].dtype)

    def step(self, params, state, x):
        h = np.tanh(x @ params["U"] + state @ params["W"] + params["b"])
        return h, h, (x, state, h)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h_prev, h = cache
        d_z = (d_state + d_y) * (1 - h**2)
        d_b = d_z.sum(0) / (SHARE if len(x) > 1 else 1)
        d_params = {"U": x.T @ d_z, "W": h_prev.T @ d_z, "b": d_b}
        return d_params, d_z @ params["W"].T, d_z @ params["U"].T


def make():
    print("making a cell")
    return Averaged()
'''

VERIFY = ("verify", "--check", "batch_additivity", "--examples", "4")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    Path("wrong.py").write_text(CELL)
    Path("repaired.py").write_text(CELL.replace("SHARE = 2", "SHARE = 1"))
    return tmp_path


def stored_names(folder: str = FAILURES) -> list[str]:
    return sorted(path.stem for path in Path(folder).glob("*.json"))


@pytest.fixture(scope="module")
def verified(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """What is said of the wrong cell, and the folder of its one failure."""
    folder = tmp_path_factory.mktemp("verified")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("GITHUB_ACTIONS", raising=False)
        Path("wrong.py").write_text(CELL)
        return cli(*VERIFY, "wrong.py:Averaged"), folder / FAILURES


@pytest.fixture
def name(here: Path, verified: tuple[Result, Path]) -> str:
    """The id of a failure that lies here, as the command line has stored it."""
    shutil.copytree(verified[1], here / FAILURES)
    (found,) = stored_names()
    return found


def test_verify_stores_a_failure_and_says_how_to_replay_it(
    verified: tuple[Result, Path], name: str
) -> None:
    result, _ = verified
    assert result.exit_code == 1
    assert re.fullmatch(r"averaged-batch_additivity-d_params_b-[0-9a-f]{6}", name)
    assert result.stderr.splitlines() == [
        f"stored: .bpttcheck/{name} (bpttcheck replay {name} --target wrong.py:Averaged)"
    ]
    assert "stored" not in result.stdout
    assert json.loads(Path(f".bpttcheck/{name}.json").read_text())["target"] == "wrong.py:Averaged"
    assert Path(f".bpttcheck/{name}.py").exists()


def test_a_replay_still_fails_and_passes_once_the_cell_is_repaired(cli: Cli, name: str) -> None:
    again = cli("replay", name, "--target", "wrong.py:Averaged")
    assert again.exit_code == 1
    assert again.stdout.startswith(f"still fails: {name}\n\nFAILED  Averaged: d_params['b']")
    assert "one problem, the stored one" in " ".join(again.stdout.split())  # lines are wrapped
    now = cli("replay", f"{FAILURES}/{name}.json", "--target", "repaired.py:Averaged")
    assert now.exit_code == 0
    assert now.stdout.startswith(f"passes now: {name}\n\nPASSED  Averaged: 1 check")


def test_a_file_named_in_a_record_is_never_imported_unasked(cli: Cli, name: str) -> None:
    result = cli("replay", name)
    assert result.exit_code == 2
    assert f"bpttcheck replay {name} --target wrong.py:Averaged" in result.stderr
    assert "Averaged, which is not built in" in result.stderr
    cli("replay")
    cli("replay", "--json")
    cli("replay", name, "--example")
    assert not Path("imported").exists()


@pytest.mark.usefixtures("here")
def test_a_builtin_is_found_by_its_name(cli: Cli) -> None:
    cell = bpttcheck.cells.LSTM()
    case = Case(0, 0, 2, 2, 1, 1, "float64", "none", "ordinary")
    finding = Finding(
        "batch_additivity", "step_vjp", "d_params['b']", "b is off", case=case,
        entry=(0,), hand=2.0, comparison=Measured(1.0, 1e-16),
        problem=build(Subject.of(cell), case),
    )  # fmt: skip
    report = Report("LSTM()", (), (finding,), 0, 10, ("float64",))
    (stored,) = replay.store(report, FAILURES, "lstm")
    result = cli("replay", stored.id)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"passes now: {stored.id}\n")
    for odd in ("lstm.evil", "os:system", "no_such_cell"):
        (foreign,) = replay.store(report, FAILURES, odd)
        assert cli("replay", foreign.id).exit_code == 2


def test_a_command_with_a_foreign_target_is_quoted(cli: Cli, name: str) -> None:
    stored = replay.load(name)
    report = bpttcheck.Report(stored.subject, (), (stored.finding,), 0, 10, ("float64",))
    (foreign,) = replay.store(report, FAILURES, "a.py:b; rm -rf \x1b[2J")
    result = cli("replay", foreign.id)
    assert result.exit_code == 2
    assert "--target 'a.py:b; rm -rf \\x1b[2J'" in " ".join(result.stderr.split())
    assert "\x1b" not in result.stderr


@pytest.mark.usefixtures("here")
def test_where_nothing_is_stored_it_is_said(cli: Cli) -> None:
    assert cli("replay").stdout == "no failure is stored in .bpttcheck\n"


def test_without_an_id_everything_stored_is_listed(cli: Cli, name: str) -> None:
    os.utime(f"{FAILURES}/{name}.json", (1000, 1000))
    cli(*VERIFY, "wrong.py:Averaged", "--seed", "4")
    damaged = next(other for other in stored_names() if other != name)
    Path(f"{FAILURES}/{damaged}.npz").write_bytes(b"")
    result = cli("replay")
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert first.startswith(damaged)
    assert f"now  .bpttcheck/{damaged}.json cannot be replayed" in first
    assert first.index("now") + 3 == second.index(" d  ") + 2  # one column of ages
    assert second.startswith(f"{name}  ")
    assert second.endswith(" d  Averaged: d_params['b'] (batch_additivity), wrong.py:Averaged")
    document = json.loads(cli("replay", "--json").stdout)
    assert [row["id"] for row in document["failures"]] == [damaged, name]
    assert document["failures"][1]["target"] == "wrong.py:Averaged"
    assert "cannot be replayed" in document["failures"][0]["error"]


def test_failures_of_one_target_are_listed_and_deleted(cli: Cli, name: str) -> None:
    said = cli("replay", "--target", "lstm").stdout
    assert said == f"no failure of lstm is stored in {FAILURES}\n"
    assert cli("replay", "--target", "lstm", "--clear").stdout.startswith("deleted 0 failures")
    assert cli("replay", "--target", "wrong.py:Averaged").stdout.split()[0] == name
    done = cli("replay", "--target", "wrong.py:Averaged", "--clear")
    assert done.stdout == f"deleted 1 failure from {FAILURES}\n"
    assert list(Path(FAILURES).glob(f"{name}.*")) == []


@pytest.mark.usefixtures("here")
def test_json_is_one_document_and_nothing_else(cli: Cli) -> None:
    verified = cli(*VERIFY, "--json", "wrong.py:make")
    (name,) = json.loads(verified.stdout)["reports"][0]["stored"]
    assert "stored: " in verified.stderr
    result = cli("replay", name, "--json", "--target", "wrong.py:make")
    document = json.loads(result.stdout)
    assert (document["id"], document["outcome"]) == (name, "still fails")
    assert result.exit_code == document["exit_code"] == 1
    assert document["report"]["findings"][0]["block"] == "d_params['b']"
    assert "making a cell" in result.stderr


@pytest.mark.usefixtures("here")
def test_an_undecided_replay_has_an_exit_code_of_its_own(cli: Cli) -> None:
    case = Case(0, 0, 2, 2, 1, 1, "float64", "none", "ordinary")
    problem = build(Subject.of(bpttcheck.cells.LSTM()), case)
    finding = Finding("initial_state", "initial_state_vjp", "d_params['b']", "b is off",
                      case=case, problem=problem)  # fmt: skip
    (stored,) = replay.store(
        Report("LSTM()", (), (finding,), 0, 10, ("float64",)), FAILURES, "lstm"
    )
    result = cli("replay", stored.id)
    assert result.exit_code == 3
    assert result.stdout.startswith(f"undecided: {stored.id}\n")
    assert "no initial_state_vjp" in result.stdout


def test_the_example_is_printed_alone(cli: Cli, name: str) -> None:
    result = cli("replay", name, "--example")
    assert result.exit_code == 0
    assert result.stdout == replay.example(replay.load(name)) + "\n"
    assert result.stdout.count("@example(") == 1


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["../wrong"], "id='../wrong', expected one such as"),
        (["lstm-step_vjp-b-123456"], "no failure is stored as"),
        (["x", "--clear"], "--clear goes without ID"),
        (["--example"], "which failure?"),
        (["x", "--example", "--json"], "--example goes with neither"),
        (["nowhere/x-y-123456.json"], "no failure is stored as"),
    ],
)
def test_wrong_usage_is_told_in_a_few_lines(cli: Cli, arguments: list[str], words: str) -> None:
    result = cli("replay", *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_a_target_of_another_cell_is_a_usage_error(cli: Cli, name: str) -> None:
    result = cli("replay", name, "--target", "lstm")
    assert result.exit_code == 2
    assert "is it another cell, or was it changed since?" in " ".join(result.stderr.split())


@pytest.mark.usefixtures("here")
def test_the_project_says_where_failures_are_stored(cli: Cli) -> None:
    Path("pyproject.toml").write_text('[tool.bpttcheck]\nstore = "deep/failures"\n')
    result = cli(*VERIFY, "wrong.py:Averaged")
    (name,) = stored_names("deep/failures")
    assert f"stored: deep/failures/{name} " in result.stderr
    assert cli("replay", name, "--target", "wrong.py:Averaged").exit_code == 1
    assert cli("replay", "--dir", "deep/failures").stdout.startswith(name)
    Path("pyproject.toml").write_text("[tool.bpttcheck]\nstore = false\n")
    result = cli(*VERIFY, "wrong.py:Averaged")
    assert (result.exit_code, result.stderr) == (1, "")
    assert not Path(FAILURES).exists()


@pytest.mark.usefixtures("here")
def test_failures_of_a_project_lie_beside_its_settings(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("pyproject.toml").write_text("")
    Path("below").mkdir()
    Path("below/wrong.py").write_text(CELL)
    monkeypatch.chdir("below")
    cli(*VERIFY, "wrong.py:Averaged")
    (name,) = stored_names(f"../{FAILURES}")
    assert cli("replay", name, "--target", "wrong.py:Averaged").exit_code == 1


@pytest.mark.usefixtures("here")
def test_a_folder_that_cannot_be_written_does_not_change_the_verdict(cli: Cli) -> None:
    Path(FAILURES).write_text("in the way")
    result = cli(*VERIFY, "wrong.py:Averaged")
    assert result.exit_code == 1
    assert result.stderr.startswith("not stored: failures cannot be stored in .bpttcheck")


def test_what_passes_stores_nothing(cli: Cli, here: Path) -> None:
    result = cli(*VERIFY, "repaired.py:Averaged")
    assert (result.exit_code, result.stderr) == (0, "")
    assert not (here / FAILURES).exists()


def test_a_library_call_writes_no_files(here: Path) -> None:
    from bpttcheck.cli.targets import load

    cell = load("wrong.py:Averaged").subject
    report = bpttcheck.check(cell, checks=["batch_additivity"], examples=4, raises=False)
    assert report.findings
    assert not (here / FAILURES).exists()


@pytest.mark.parametrize(
    ("table", "folder"),
    [("", FAILURES), ("store = true", FAILURES), ("store = false", None), ('store = "a/b"', "a/b")],
)
def test_the_setting_is_a_folder_or_none(tmp_path: Path, table: str, folder: str | None) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(f"[tool.bpttcheck]\n{table}\n")
    settings = read(path)
    assert settings.store == folder
    found = failures(settings, tmp_path)
    assert found == (None if folder is None else tmp_path / folder)


@pytest.mark.parametrize("value", ["7", '""', '"  "', '"a\\u0007b"', "[]"])
def test_a_setting_that_is_no_folder_is_named(tmp_path: Path, value: str) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(f"[tool.bpttcheck]\nstore = {value}\n")
    with pytest.raises(ContractError, match=r"store=.*expected a folder's name, or false"):
        read(path)


def test_the_default_is_the_same_everywhere() -> None:
    assert Settings().store == FAILURES == replay.DIRECTORY


PYTEST_FILE = """
    import bpttcheck
    from fake_core import Faked

    @bpttcheck.parametrize_with_checks([Faked("A", {"purity": "failed", "masking": "failed"})])
    def test_gradients(subject, check):
        check(subject)
    """


@pytest.mark.parametrize(
    "options",
    [pytest.param((), id="alone"), pytest.param(("-n2",), id="xdist", marks=pytest.mark.nightly)],
)
def test_pytest_stores_failures_and_names_them_in_its_summary(
    project: pytest.Pytester, options: tuple[str, ...]
) -> None:
    if options:
        pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    project.makepyfile(test_it=textwrap.dedent(PYTEST_FILE))
    result = project.runpytest_subprocess(*options) if options else project.runpytest()
    names = sorted(path.stem for path in (project.path / FAILURES).glob("*.json"))
    assert [name.rpartition("-")[0] for name in names] == [
        "a-masking-d_params_W",
        "a-purity-d_params_W",
    ]
    lines = [line for line in result.outlines if line.startswith("stored: ")]
    assert sorted(lines) == [
        f"stored: {FAILURES}/{name} (bpttcheck replay {name} --target FILE.py:OBJECT)"
        for name in names
    ]


def test_pytest_stores_nothing_where_the_project_says_so(project: pytest.Pytester) -> None:
    project.makepyprojecttoml("[tool.bpttcheck]\nstore = false")
    project.makepyfile(test_it=textwrap.dedent(PYTEST_FILE))
    result = project.runpytest()
    asked = len(names_for(cells.Elman()))
    result.assert_outcomes(failed=2, passed=asked - 2)
    result.stdout.no_fnmatch_line("stored: *")
    assert not (project.path / FAILURES).exists()


@pytest.mark.nightly
def test_a_failure_found_under_pytest_can_be_replayed(
    pytester: pytest.Pytester, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pytester.path)
    pytester.makepyfile(
        wrong=CELL,
        test_it="""
        import bpttcheck
        from wrong import Averaged

        @bpttcheck.parametrize_with_checks([Averaged()], checks=["batch_additivity"], examples=10)
        def test_gradients(subject, check):
            check(subject)
        """,
    )
    pytester.runpytest_subprocess().assert_outcomes(failed=1)
    (name,) = stored_names()
    assert cli("replay", name, "--target", "wrong.py:Averaged").exit_code == 1
