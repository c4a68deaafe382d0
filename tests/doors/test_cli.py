"""The commands beside ``verify``: what can be listed, explained and begun."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import bpttcheck
from bpttcheck import cells
from bpttcheck.activations import ACTIVATIONS
from bpttcheck.cells import BUILTINS
from bpttcheck.problems.problem import MASKS, REGIMES, REGIMES_OF_FUNCTIONS
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.checks import CHECKS, names_for

Cli = Callable[..., Result]

COMMAND = "from bpttcheck.cli import main; main(prog_name='bpttcheck')"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_version_is_that_of_the_package(cli: Cli) -> None:
    assert cli("--version").stdout == f"bpttcheck, version {bpttcheck.__version__}\n"


def test_help_names_every_command_and_every_command_has_help(cli: Cli) -> None:
    text = cli("--help").stdout
    for command in (
        "verify",
        "selftest",
        "replay",
        "flow",
        "bench",
        "report",
        "list",
        "explain",
        "new",
    ):
        assert f"\n  {command} " in text
        assert cli(command, "--help").exit_code == 0
    assert "3  at least one check could not decide" in cli("verify", "--help").stdout


def test_list_has_a_line_for_everything(cli: Cli) -> None:
    lines = cli("list").stdout.splitlines()
    entries = [line.split(maxsplit=1) for line in lines if re.match("  [a-z]", line)]
    assert [entry[0] for entry in entries] == [*BUILTINS, *CHECKS, *ACTIVATIONS]
    assert all(len(entry) == 2 for entry in entries)
    assert max(map(len, lines)) <= 100


def test_list_as_json_has_the_same(cli: Cli) -> None:
    document = json.loads(cli("list", "--json").stdout)
    assert list(document) == ["cells", "checks", "activations"]
    assert list(document["checks"]) == list(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_can_be_explained(cli: Cli, name: str) -> None:
    text = cli("explain", name).stdout
    first = CHECKS[name].text.partition("\n")[0]
    assert text.startswith(first.replace("``", "`"))
    assert len(text) > 80


def test_an_unknown_name_gets_its_likeness(cli: Cli) -> None:
    result = cli("explain", "lineraity")
    assert result.exit_code == 2
    assert "did you mean 'linearity'?" in result.stderr


@pytest.mark.parametrize(
    ("name", "module", "cls"),
    [
        ("MyCell", "my_cell", "MyCell"),
        ("my_cell", "my_cell", "MyCell"),
        ("LSTMCell2", "lstm_cell2", "LSTMCell2"),
        ("gru", "gru", "Gru"),
    ],
)
def test_new_writes_a_cell_and_its_test(
    cli: Cli, here: Path, name: str, module: str, cls: str
) -> None:
    result = cli("new", name, "--dir", "deep/folder")
    assert result.exit_code == 0, result.output
    cell, test = here / f"deep/folder/{module}.py", here / f"deep/folder/test_{module}.py"
    assert f"class {cls}:" in cell.read_text()
    assert f"from {module} import {cls}" in test.read_text()
    assert f"bpttcheck verify deep/folder/{module}.py:{cls}" in result.stdout
    for text in (cell.read_text(), test.read_text()):
        assert "TODO" not in text
        assert "$" not in text
        assert max(map(len, text.splitlines())) <= 100


def test_new_overwrites_only_by_force(cli: Cli, here: Path) -> None:
    (here / "test_my_cell.py").write_text("precious")
    result = cli("new", "my_cell")
    assert result.exit_code == 2
    assert "test_my_cell.py exists already; --force overwrites" in result.stderr
    assert (here / "test_my_cell.py").read_text() == "precious"
    assert not (here / "my_cell.py").exists()
    assert cli("new", "my_cell", "--force").exit_code == 0
    assert "MyCell" in (here / "test_my_cell.py").read_text()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my-cell", "is not a Python name"),
        ("class", "is not a Python name"),
        ("2cell", "is not a Python name"),
        ("../up", "is not a Python name"),
        ("zelle_ß", "is not a Python name"),
        ("Class", "gives no module name"),
        ("_", "gives no module name"),
        ("numpy", "would hide another module"),
        ("Random", "would hide another module"),
        ("test_me", "pytest would take a file"),
    ],
)
def test_new_refuses_names_that_cannot_work(cli: Cli, here: Path, name: str, words: str) -> None:
    result = cli("new", name)
    assert result.exit_code == 2
    assert words in result.stderr
    assert list(here.iterdir()) == []


def test_new_says_where_it_cannot_write(cli: Cli, here: Path) -> None:
    (here / "file").write_text("")
    result = cli("new", "my_cell", "--dir", "file/below")
    assert result.exit_code == 2
    assert "cannot write" in result.stderr


def test_what_new_writes_passes_as_it_stands(cli: Cli, here: Path) -> None:
    cli("new", "MyCell")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--bpttcheck-examples=5"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cell = Subject(cells.Elman())
    asked = len(names_for(cell.target))
    assert f"{asked - 1} passed, 1 skipped" in done.stdout  # it has no initial_state_vjp


def test_the_installed_command_checks_a_file(cli: Cli, here: Path) -> None:
    cli("new", "MyCell")
    text = (here / "my_cell.py").read_text()
    (here / "my_cell.py").write_text(text.replace('"W": h.T @ d_z', '"W": -(h.T @ d_z)'))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            COMMAND,
            "verify",
            "my_cell.py:MyCell",
            "--check",
            "step_vjp",
            "--examples",
            "3",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "d_params['W']" in done.stdout.splitlines()[0]
    assert len(done.stdout) < 1500
    assert "Traceback" not in done.stderr


def test_a_diagnosis_can_be_explained_by_its_code(cli: Cli) -> None:
    page = cli("explain", "transposed").stdout
    assert "the usual mistake" in page
    assert "d_h = d_z @ W" in page
    assert "did you mean 'transposed'" in cli("explain", "transpose").stderr


@pytest.mark.parametrize(
    "word",
    [
        *REGIMES,
        *REGIMES_OF_FUNCTIONS,
        *MASKS,
        "largest",
        "visible",
        "hides",
        "blind",
        "covered",
        "could not show",
        "Kinks",
    ],
)
def test_the_words_of_a_report_can_be_explained(cli: Cli, word: str) -> None:
    assert cli("explain", *word.split()).exit_code == 0


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LSTM", "did you mean 'lstm'?"),
        ("gru", "did you mean 'gru_reset_before' or 'gru_reset_after'?"),
        ("Leaky", "did you mean leaky.py:Leaky?"),
    ],
)
def test_a_name_that_is_no_target_gets_what_is_meant(
    cli: Cli, here: Path, name: str, meant: str
) -> None:
    (here / "leaky.py").write_text("class Leaky:\n    pass\n")
    assert meant in " ".join(cli("verify", name).stderr.split())


PACKAGE = {
    "pkg/__init__.py": "",
    "pkg/base.py": "from bpttcheck.cells import Elman as Base\n",
    "pkg/deep/__init__.py": "",
    "pkg/deep/cell.py": "from ..base import Base\n\nclass Cell(Base):\n    pass\n",
}


def test_a_file_of_a_package_may_import_its_neighbours(cli: Cli, here: Path) -> None:
    for name, text in PACKAGE.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text)
    options = ("--examples", "2", "--check", "contract")
    done = cli("verify", "pkg/deep/cell.py:Cell", *options)
    assert done.exit_code == 0, done.stderr
    assert "pkg.base" in sys.modules
    for name in [name for name in sys.modules if name.partition(".")[0] == "pkg"]:
        del sys.modules[name]


def test_another_package_of_the_name_is_not_taken_for_it(cli: Cli, here: Path) -> None:
    (here / "json").mkdir()
    (here / "json/__init__.py").write_text("")
    (here / "json/cell.py").write_text("Cell = 1\n")
    done = cli("verify", "json/cell.py:Cell")
    assert done.exit_code == 2
    assert "another one of this name is imported" in " ".join(done.stderr.split())


def test_the_commands_that_new_prints_are_quoted(cli: Cli, here: Path) -> None:
    text = cli("new", "MyCell", "--dir", "with a space").stdout
    assert "bpttcheck verify 'with a space/my_cell.py:MyCell'" in text


def test_public_names_alone_are_listed() -> None:
    assert set(dir(bpttcheck)) >= set(bpttcheck.__all__)
    assert not {"Any", "TYPE_CHECKING", "importlib"} & set(dir(bpttcheck))
