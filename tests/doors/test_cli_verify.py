"""``bpttcheck verify``: targets, exit codes, and what is printed where."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import Result

from bpttcheck.cli.verify import write_patches
from bpttcheck.verify.checks import CHECKS

Cli = Callable[..., Result]

pytestmark = pytest.mark.usefixtures("fake_core")


def write(text: str, name: str = "cells_of_mine.py") -> str:
    Path(name).write_text("from fake_core import Faked\n" + textwrap.dedent(text))
    return name


@pytest.fixture
def mine() -> str:
    return write(
        """
        good = Faked("good")
        bad = Faked("bad", {"purity": "failed"})
        loud = Faked("loud", {}, talks=True)
        unclear = Faked("unclear", {"purity": "inconclusive"})
        broken = Faked("broken", {"contract": "failed"})
        interrupted = Faked("interrupted", {"masking": "interrupt"})
        number = 7

        def make():
            return Faked("made")

        class zoo:
            class small:
                cell = Faked("small one")
        """
    )


def test_what_cannot_be_written_is_told(cli: Cli, mine: str) -> None:
    for option in ("--html", "--sarif"):
        result = cli("verify", f"{mine}:bad", option, f"{mine}/below.txt")
        assert result.exit_code == 2
        assert f"{option}: {mine}/below.txt cannot be written" in result.stderr


def test_the_failures_are_written_as_sarif(cli: Cli, mine: str) -> None:
    result = cli("verify", f"{mine}:bad", f"{mine}:good", "--sarif", "deep/found.sarif", "--strict")
    assert result.exit_code == 1
    assert "sarif: deep/found.sarif" in result.stderr
    (run,) = json.loads(Path("deep/found.sarif").read_text())["runs"]
    assert [one["ruleId"] for one in run["results"]] == ["purity"]


def test_two_remedies_of_one_file_are_not_written_over_each_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("cells.py").write_text("before")
    judged = [
        SimpleNamespace(target=f"cells.py:{name}", patch="diff", mends="cells.py", mended=name)
        for name in ("One", "Two")
    ]
    write_patches(judged, in_place=True)
    assert Path("cells.py").read_text() == "One"
    said = capsys.readouterr().err
    assert "cells.py was edited already: verify cells.py:Two again" in said
    Path("cells-One.patch").unlink()
    Path("cells-One.patch").mkdir()
    with pytest.raises(click.UsageError, match=r"--fix: cells-One\.patch cannot be written"):
        write_patches(judged, in_place=False)


@pytest.mark.parametrize(
    ("objects", "code"),
    [
        (["good"], 0),
        (["bad"], 1),
        (["broken"], 1),
        (["unclear"], 3),
        (["missing"], 2),
        (["number"], 2),
        (["good", "unclear"], 3),
        (["good", "unclear", "bad"], 1),
        (["good", "bad", "missing"], 2),
    ],
)
def test_the_exit_code_is_that_of_the_worst(
    cli: Cli, mine: str, objects: list[str], code: int
) -> None:
    result = cli("verify", *(f"{mine}:{name}" for name in objects))
    assert result.exit_code == code, result.output


def test_one_target_prints_its_whole_report(cli: Cli, mine: str) -> None:
    result = cli("verify", f"{mine}:bad")
    assert "FAILED  bad: d_params['W'] (purity)" in result.stdout
    assert "-> sign: the gradient of W has the wrong sign" in result.stdout
    assert result.stdout.rstrip().endswith(
        f"{len(CHECKS)} checks, {len(CHECKS)} run, 0 skipped, 1 failed"
    )
    assert "\x1b" not in result.output


def test_several_targets_are_a_few_lines_each_and_the_failures_in_full(cli: Cli, mine: str) -> None:
    result = cli("verify", f"{mine}:good", f"{mine}:bad", f"{mine}:zoo.small.cell", "--seed", "4")
    lines = [line for line in result.stdout.splitlines() if line.startswith(("PASSED", "FAILED"))]
    assert lines == [
        f"PASSED  good: {len(CHECKS)} checks, 0.5 s",
        "FAILED  bad: d_params['W'] (purity)",
        f"PASSED  small one: {len(CHECKS)} checks, 0.5 s",
    ]
    assert result.stdout.endswith("3 subjects: 2 passed, 1 failed, 0 inconclusive; seed 4\n")


def test_without_a_target_every_builtin_is_checked(cli: Cli) -> None:
    from bpttcheck.cells import every_name

    result = cli("verify")
    assert result.exit_code == 0
    assert f"{len(every_name())} subjects: {len(every_name())} passed" in result.stdout


def test_a_builtin_may_name_its_activation(cli: Cli) -> None:
    result = cli("verify", "elman[relu]")
    assert result.exit_code == 0
    assert "relu" in result.stdout.splitlines()[0]


def test_json_is_one_document_and_nothing_else(cli: Cli, mine: str) -> None:
    Path(mine).write_text(Path(mine).read_text() + "\nprint('loading')\n")
    result = cli("verify", "--json", f"{mine}:loud", f"{mine}:bad", f"{mine}:nothing")
    document = json.loads(result.stdout)
    assert result.exit_code == document["exit_code"] == 2
    assert document["outcome"] == "error"
    assert [report["verdict"] for report in document["reports"]] == ["passed", "failed"]
    assert document["reports"][0]["target"] == f"{mine}:loud"
    assert document["errors"][0]["target"] == f"{mine}:nothing"
    assert "loading" in result.stderr
    assert "the subject prints something" in result.stderr


def test_options_reach_the_core(cli: Cli, mine: str, fake_core: Any) -> None:
    result = cli(
        "verify", f"{mine}:good", "--quick", "--seed", "9", "--check", "purity", "--check",
        "masking", "--dtype", "float32",
    )  # fmt: skip
    assert result.exit_code == 0
    assert fake_core.CALLS[-1] == {
        "checks": ("purity", "masking"),
        "examples": 20,
        "seed": 9,
        "dtypes": ("float32",),
    }


def test_what_is_asked_of_a_verdict_reaches_the_core(cli: Cli, mine: str, fake_core: Any) -> None:
    cli("verify", f"{mine}:good")
    assert set(fake_core.CALLS[-1]) == {"checks", "examples", "seed", "dtypes"}
    Path("pyproject.toml").write_text("[tool.bpttcheck]\nstrict = true\nlengths = [4]\n")
    cli("verify", f"{mine}:good", "--require", "jax", "--lengths", "1,16,300", "--batches", "0,8",
        "--sizes", "3x4,8x32")  # fmt: skip
    call = fake_core.CALLS[-1]
    assert call["strict"] is True
    assert call["require"] == ("jax",)
    assert call["lengths"] == (1, 16, 300)
    assert call["batches"] == (0, 8)
    assert call["sizes"] == ((3, 4), (8, 32))


def test_the_settings_of_the_project_are_the_defaults(cli: Cli, mine: str, fake_core: Any) -> None:
    Path("pyproject.toml").write_text("[tool.bpttcheck]\nexamples = 11\nchecks = ['purity']\n")
    cli("verify", f"{mine}:good")
    assert fake_core.CALLS[-1]["examples"] == 11
    assert fake_core.CALLS[-1]["checks"] == ("purity",)
    cli("verify", f"{mine}:good", "--examples", "12")
    assert fake_core.CALLS[-1]["examples"] == 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lstn"], "no built-in cell is called 'lstn'; did you mean 'lstm'?"),
        (["elman[rellu]"], "rellu"),
        (["lstm[tanh]"], "LSTM has no option activation"),
        (["cells_of_mine.py"], "names no object: write cells_of_mine.py:zoo"),
        (["nowhere.py:x"], "there is no file nowhere.py"),
        (["cells_of_mine.py:goood"], "has no 'goood'; did you mean 'good'"),
        ([":x"], "expected a built-in's name, module:object or path/file.py:object"),
        (["no_such_module:x"], "there is no module 'no_such_module'"),
        (["no_such.module:x"], "there is no module 'no_such'"),
        (["..:x"], "there is no module"),
        (["cells_of_mine.py:number"], "7"),
        (["lstm", "--check", "puriti"], "unknown check 'puriti'; did you mean 'purity'?"),
        (["lstm", "--dtype", "float16"], "'float16' is not one of 'float64', 'float32'"),
        (["lstm", "--seed", "x"], "seed='x', expected a natural number or 'random'"),
        (["lstm", "--examples", "0"], "0 is not in the range x>=1"),
        (["lstm", "--examples", "5", "--quick"], "--quick and --examples exclude each other"),
        (["lstm", "--sead", "1"], "No such option"),
        (["lstm", "--require", "jacks"], "require='jacks', expected some of 'jax'"),
        (["lstm", "--lengths", "1,x"], "lengths='1,x', expected integers of at least 0"),
        (["lstm", "--batches", "-1"], "batches='-1', expected integers of at least 0"),
        (["lstm", "--sizes", "3"], "sizes='3', expected pairs of n_in and n_hidden"),
        (["lstm", "--timeout", "0"], "0.0 is not in the range x>0"),
        (["lstm", "--timeout", "1", "--no-isolate"], "needs a process of its own"),
    ],
)
def test_wrong_usage_is_told_in_a_few_lines(
    cli: Cli, mine: str, arguments: list[str], words: str
) -> None:
    result = cli("verify", *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert len(result.stderr.splitlines()) <= 6


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        (
            "x = 1\ny = undefined_name\n",
            "NameError: name 'undefined_name'",
            "3: y = undefined_name",
        ),
        ("def f(:\n", "SyntaxError", "2: def f(:"),
        ("import not_installed_at_all\n", "No module named 'not_installed_at_all'", "2: import"),
        ("raise SystemExit(0)\n", "SystemExit: 0", "2: raise SystemExit(0)"),
        ("import sibling\n", "ZeroDivisionError", "2: import sibling"),
    ],
)
def test_an_error_in_the_users_file_is_told_with_its_line(
    cli: Cli, text: str, words: str, line: str
) -> None:
    write("1 / 0\n", "sibling.py")
    name = write(text, "wrong.py")
    for target in (f"{name}:cell", "wrong:cell"):
        result = cli("verify", target)
        assert result.exit_code == 2
        assert words in result.stderr
        assert f"wrong.py:{line}" in result.stderr
        assert "Traceback" not in result.output


def test_a_package_that_cannot_be_imported_is_told_with_its_line(cli: Cli) -> None:
    Path("parcel").mkdir()
    Path("parcel/inner.py").write_text("")
    for text, words in (("import gone_with_it\n", "gone_with_it"), ("1 / 0\n", "ZeroDivision")):
        Path("parcel/__init__.py").write_text(text)
        result = cli("verify", "parcel.inner:cell")
        assert result.exit_code == 2
        assert words in result.stderr
        assert f"parcel/__init__.py:1: {text}" in result.stderr
    Path("parcel/__init__.py").write_text("# nothing\n")
    result = cli("verify", "parcel.outer:cell")
    assert "there is no module 'parcel.outer'" in result.stderr


def test_a_broken_contract_of_ours_in_their_file_is_passed_on(cli: Cli) -> None:
    name = write("import bpttcheck\ncell = bpttcheck.Subject(7)\n")
    result = cli("verify", f"{name}:cell")
    assert result.exit_code == 2
    assert "7" in result.stderr
    assert "Traceback" not in result.output


def test_a_factory_that_raises_is_told_with_its_line(cli: Cli) -> None:
    name = write("def make():\n    raise ValueError('no kernel here')\n")
    result = cli("verify", f"{name}:make")
    assert result.exit_code == 2
    assert "ValueError: no kernel here" in result.stderr
    assert f"{name}:3: raise ValueError" in result.stderr


def test_a_class_that_needs_arguments_says_so(cli: Cli) -> None:
    name = write("class Cell(Faked):\n    def __init__(self, n): ...\n")
    result = cli("verify", f"{name}:Cell")
    assert result.exit_code == 2
    assert "is a class whose constructor takes n: give a function" in result.stderr


def test_a_class_or_factory_is_called_and_a_note_says_so(cli: Cli, mine: str) -> None:
    result = cli("verify", f"{mine}:make")
    assert result.exit_code == 0
    assert f"note: {mine}:make is a factory: called without arguments" in result.stderr
    assert "PASSED  made" in result.stdout


def test_a_module_of_the_working_directory_can_be_named(cli: Cli, mine: str) -> None:
    assert cli("verify", "cells_of_mine:good").exit_code == 0


def test_two_files_of_one_name_do_not_meet(cli: Cli) -> None:
    for folder in ("one", "two"):
        Path(folder).mkdir()
        write("from neighbour import NAME\ncell = Faked(NAME)\n", f"{folder}/cell.py")
        Path(folder, "neighbour.py").write_text(f"NAME = '{folder}'\n")
        import sys

        sys.modules.pop("neighbour", None)
        result = cli("verify", f"{folder}/cell.py:cell")
        assert f"PASSED  {folder}" in result.stdout


def test_an_interrupt_ends_in_one_line_and_130(cli: Cli, mine: str) -> None:
    result = cli("verify", f"{mine}:interrupted")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "interrupted"
    assert "Traceback" not in result.output


def test_our_own_errors_are_no_verdict(cli: Cli, mine: str, monkeypatch: Any) -> None:
    import bpttcheck

    monkeypatch.setitem(vars(bpttcheck), "check", lambda *a, **k: 1 / 0)
    result = cli("verify", f"{mine}:good")
    assert result.exit_code == 2
    assert "ZeroDivisionError" in result.stderr
    assert "an error in bpttcheck" in result.stderr


def test_colours_only_where_they_are_wanted(
    cli: Cli, mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = cli("verify", f"{mine}:bad").stdout
    coloured = cli("verify", f"{mine}:bad", color=True).stdout
    assert "\x1b[31m\x1b[1mFAILED\x1b[0m" in coloured
    import click

    assert click.unstyle(coloured) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in cli("verify", f"{mine}:bad", color=True).stdout


def test_quiet_says_nothing_about_what_passed(cli: Cli, mine: str) -> None:
    result = cli("verify", "-q", f"{mine}:make")
    assert result.output == ""
    assert "FAILED" in cli("verify", "-q", f"{mine}:bad").stdout


def test_github_gets_annotations_without_asking(
    cli: Cli, mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    found = [
        line
        for line in cli("verify", f"{mine}:bad").stdout.splitlines()
        if line.startswith("::error")
    ]
    assert len(found) == 1
    assert found[0].startswith("::error file=fake_core.py,line=")
    assert ",title=bad%3A d_params['W'] (purity)::" in found[0]
    assert "100%25%0Asign: the gradient" in found[0]
    assert "::error" not in cli("verify", f"{mine}:good").stdout
    assert json.loads(cli("verify", "--json", f"{mine}:bad").stdout)


def test_the_progress_line_appears_on_a_terminal_and_is_wiped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import io
    import sys

    from bpttcheck.cli.terminal import Progress

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("lstm") as progress:
        progress(3, 100, "purity")
        progress(4, 100, "purity")  # too soon after the first to be shown
    assert sys.stderr.getvalue() == "\rlstm: 3/100 purity\x1b[K\r\x1b[K"
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Progress("lstm") as progress:
        progress(3, 100, "purity")
    assert sys.stderr.getvalue() == ""
