"""``bpttcheck report``: the files, the comparison, the gate, and what is refused."""

from __future__ import annotations

import builtins
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from bpttcheck.bench.report.records import load

Cli = Callable[..., Result]
FIXTURE = Path(__file__).parents[1] / "report" / "report.json"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    shutil.copy(FIXTURE, tmp_path / "new.json")
    shutil.copy(FIXTURE, tmp_path / "old.json")
    return tmp_path


@pytest.fixture
def no_extra(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``no_extra("jinja2")``: as if it were not installed."""
    real = builtins.__import__

    def remove(missing: str) -> None:
        def without(name: str, *args: Any, **kwargs: Any) -> Any:
            if name.partition(".")[0] == missing:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without)

    return remove


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at no plot: drawing takes longer than all else."""
    monkeypatch.setattr("bpttcheck.bench.report.plots.drawings", lambda *_: [])


def slow_down(path: Path, factor: float) -> None:
    """Every hand-written ratio of the first point times a factor."""
    document = json.loads(path.read_text())
    for timing in document["subjects"][0]["points"][0]["timings"]:
        if timing["ratio"] and timing["form"] in ("numpy", "fused", "on_jax"):
            timing["ratio"] = {key: value * factor for key, value in timing["ratio"].items()}
    path.write_text(json.dumps(document))


def test_everything_is_written_and_the_headlines_printed(cli: Cli, here: Path) -> None:
    result = cli("report", "new.json", "--out", "pages")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (here / "pages").iterdir()}
    assert {"report.json", "benchmark.json", "summary.md", "index.html"} <= names
    assert "1-lstm-float64-ratio-fused.svg" in names
    assert load(here / "pages" / "report.json") == load(FIXTURE)
    assert result.stdout.splitlines()[0] == load(FIXTURE).subjects[0].headlines[0]
    assert (
        "written: pages: report.json, benchmark.json, summary.md, index.html and" in result.stderr
    )


@pytest.mark.usefixtures("undrawn")
def test_the_files_stand_beside_the_result_where_no_folder_is_named(cli: Cli, here: Path) -> None:
    (here / "sub").mkdir()
    shutil.copy(FIXTURE, here / "sub" / "report.json")
    assert cli("report", "sub/report.json", "-q").exit_code == 0
    assert (here / "sub" / "summary.md").exists()
    assert load(here / "sub" / "report.json") == load(FIXTURE)


@pytest.mark.usefixtures("undrawn")
def test_in_a_workflow_the_summary_is_added_to_the_job(
    cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = here / "job.md"
    job.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(job))
    assert cli("report", "new.json", "-q").exit_code == 0
    assert job.read_text() == "before\n" + (here / "summary.md").read_text()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "no" / "such"))
    result = cli("report", "new.json", "-q")
    assert result.exit_code == 0
    assert "$GITHUB_STEP_SUMMARY cannot be written" in result.stderr


@pytest.mark.usefixtures("undrawn")
def test_the_same_beside_itself_passes_every_gate(cli: Cli) -> None:
    result = cli("report", "new.json", "--compare", "old.json", "--fail-if", "ratio > 1x", "-q")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""


@pytest.mark.usefixtures("undrawn")
def test_a_planted_slow_down_fails_the_gate_and_is_named(cli: Cli, here: Path) -> None:
    slow_down(here / "new.json", 1.4)
    gate = ("report", "new.json", "--compare", "old.json", "--fail-if")
    result = cli(*gate, "ratio > 1.1x")
    assert result.exit_code == 1
    slower = [line for line in result.stdout.splitlines() if line.startswith("slower: ")]
    assert len(slower) == 3
    assert slower[0].startswith("slower: lstm numpy T=10 B=8 N=32 H=32 float64: ")
    assert result.stdout.splitlines()[-1] == "3 of 42 ratios are beyond 1.1x"
    assert "### Compared with before" in (here / "summary.md").read_text()
    assert (
        cli("report", "new.json", "--compare", "old.json", "--fail-if", "ratio > 1.5x").exit_code
        == 0
    )
    assert cli("report", "new.json", "--compare", "old.json").exit_code == 0


@pytest.mark.usefixtures("undrawn")
def test_points_that_only_one_has_are_named(cli: Cli, here: Path) -> None:
    document = json.loads((here / "new.json").read_text())
    del document["subjects"][1]
    (here / "new.json").write_text(json.dumps(document))
    result = cli("report", "new.json", "--compare", "old.json")
    assert result.exit_code == 0
    assert "only before: mine.py:Cell numpy T=10 B=8 N=32 H=32 float64" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.json"], "none.json: cannot be read: No such file"),
        ([], "Missing argument"),
        (["."], "cannot be read"),
        (["new.json", "--compare", "none.json"], "none.json: cannot be read"),
        (["new.json", "--fail-if", "ratio > 1.1x"], "--fail-if needs --compare"),
        (
            ["new.json", "--compare", "old.json", "--fail-if", "time > 1.1x"],
            "expected 'ratio > FAC",
        ),
        (["new.json", "--out", "new.json"], "new.json"),
    ],
)
def test_wrong_usage_is_told(cli: Cli, arguments: list[str], words: str) -> None:
    result = cli("report", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": "bpttcheck.bench", "schema_version": 0}']
)
def test_what_is_no_benchmark_is_told_in_one_line(cli: Cli, here: Path, text: str) -> None:
    (here / "bad.json").write_text(text)
    for arguments in (["bad.json"], ["new.json", "--compare", "bad.json"]):
        result = cli("report", *arguments)
        assert result.exit_code == 2
        error = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert len(error) == 1
        assert "bad.json" in error[0]
        assert result.stdout == ""


@pytest.mark.sampled(1)
@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_without_the_extra_json_and_summary_are_written_all_the_same(
    cli: Cli, here: Path, no_extra: Callable[[str], None], missing: str
) -> None:
    no_extra(missing)
    document = json.loads((here / "new.json").read_text())
    del document["subjects"][1:]  # drawing takes longer than all else
    (here / "new.json").write_text(json.dumps(document))
    result = cli("report", "new.json", "--out", "pages")
    assert result.exit_code == 0, result.output
    assert 'pip install "bpttcheck[report]"' in result.stderr
    names = {path.name for path in (here / "pages").iterdir()}
    assert names == {"report.json", "benchmark.json", "summary.md"}
