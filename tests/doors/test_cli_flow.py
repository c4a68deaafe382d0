"""``bpttcheck flow``: the table, the conclusion, the plot, and what is refused."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from bpttcheck.bptt.flow import Flow, flow
from bpttcheck.bptt.flow_plot import draw
from bpttcheck.cells import BUILTINS, builtin

Cli = Callable[..., Result]

SMALL = ("--steps", "6", "--hidden", "3", "--inputs", "2", "--batch", "2")

CELLS = """
import numpy as np
import bpttcheck
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.cells import Elman, LSTM

layer = CellLayer(LSTM())
subject = bpttcheck.Subject(LSTM(), name="mine")
number = 7

class Wide(Elman):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, d_x[:, :1]

class Late(Elman):
    def step(self, params, state, x):
        if state.any():
            raise RuntimeError("the second step")
        return super().step(params, state, x)

class Talking(Elman):
    def init(self, rng, n_in, n_hidden):
        print("hello")
        return super().init(rng, n_in, n_hidden)

def make():
    return Elman("relu")
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CELLS)
    return tmp_path


def measured(name: str, T: int = 6, **changes: Any) -> Flow:
    cell, rng = builtin(name), np.random.default_rng(0)
    params = {**cell.init(rng, 2, 3), **changes}
    return flow(cell, params, rng.standard_normal((T, 2, 2)))


@pytest.mark.parametrize("name", [*BUILTINS, "elman[relu]"])
def test_every_built_in_cell_has_a_table_and_a_conclusion(cli: Cli, name: str) -> None:
    result = cli("flow", name, *SMALL)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"{name}: steps 6, hidden 3, inputs 2, batch 2"
    rows = [line.split() for line in lines if re.match(r" +\d+ ", line)]
    assert [row[0] for row in rows] == [str(d) for d in range(7)]
    assert rows[0][1:3] == ["1", "1"]
    assert all(float(row[1]) <= float(row[2]) * 1.01 for row in rows)  # three digits each
    assert re.match("vanishes: |explodes: |neither ", lines[-1])
    assert max(map(len, lines)) <= 100


def test_a_long_sequence_has_a_short_table_with_both_ends(cli: Cli) -> None:
    lines = cli("flow", "elman", "--steps", "300", "--hidden", "2").stdout.splitlines()
    rows = [int(line.split()[0]) for line in lines if re.match(r" +\d+ ", line)]
    assert len(rows) == 16
    assert (rows[0], rows[-1]) == (0, 300)


def test_the_scale_decides_between_vanishing_and_exploding(cli: Cli) -> None:
    options = ("elman[identity]", "--quiet")
    assert cli("flow", *options, "--scale", "0.5").stdout.startswith("vanishes: the norm ")
    assert cli("flow", *options, "--scale", "9").stdout.startswith("explodes: the norm ")
    assert "parameters times 9" in cli("flow", "elman", *SMALL, "--scale", "9").stdout


def test_the_numbers_are_a_function_of_the_seed(cli: Cli) -> None:
    first, again, other = (cli("flow", "lstm", *SMALL, "--seed", s).stdout for s in "112")
    assert first == again != other


def test_quiet_says_the_conclusion_alone(cli: Cli) -> None:
    full, quiet = cli("flow", "lstm", *SMALL), cli("flow", "lstm", *SMALL, "-q")
    assert quiet.stdout.splitlines() == full.stdout.splitlines()[-1:]
    assert quiet.stderr == ""


def test_json_is_one_document_of_the_same_numbers(cli: Cli) -> None:
    result = cli("flow", "mine.py:Talking", *SMALL, "--json", "--scale", "2")
    document = json.loads(result.stdout)
    assert (document["target"], document["steps"], document["scale"]) == ("mine.py:Talking", 6, 2.0)
    assert document["verdict"] in document["conclusion"]
    lengths = [len(document[f"log2_{name}"]) for name in ("norms", "bounds", "gradients")]
    assert [*lengths, len(document["saturated"])] == [7, 7, 7, 6]
    assert "hello" in result.stderr


def test_json_has_null_where_a_norm_is_zero(cli: Cli) -> None:
    document = json.loads(cli("flow", "jordan_teacher_forced", *SMALL, "--json").stdout)
    assert document["log2_norms"] == [0.0, *[None] * 6]
    assert document["verdict"] == "vanishes"


def test_colours_are_for_terminals_that_want_them(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "\x1b[" not in cli("flow", "lstm", *SMALL).stdout
    assert "\x1b[33m\x1b[1mvanishes" in cli("flow", "elman", "-q", color=True).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in cli("flow", "elman", "-q", color=True).stdout


def test_a_subject_a_class_and_a_factory_will_do(cli: Cli) -> None:
    for name in ("subject", "Talking", "make"):
        result = cli("flow", f"mine.py:{name}", *SMALL)
        assert result.exit_code == 0, result.output
    assert "make is a factory" in result.stderr


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("mine.py:layer", "is a layer, expected a cell"),
        ("mine.py:number", "int"),
        ("mine.py:Wide", "d_x.shape=(2, 1), but should be (2, 2)"),
        ("mine.py:Late", "the second step"),
        ("mine.py:missing", "has no 'missing'"),
        ("elmann", "did you mean 'elman'"),
    ],
)
def test_what_is_no_sound_cell_is_refused_in_one_message(cli: Cli, target: str, words: str) -> None:
    result = cli("flow", target, *SMALL)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("option", ["--steps", "--hidden", "--inputs", "--batch"])
def test_sizes_are_positive(cli: Cli, option: str) -> None:
    assert cli("flow", "elman", option, "0").exit_code == 2


@pytest.mark.parametrize(("name", "start"), [("a.svg", b"<?xml"), ("a.png", b"\x89PNG")])
def test_a_plot_is_written_in_the_format_of_its_name(cli: Cli, name: str, start: bytes) -> None:
    result = cli("flow", "elman", *SMALL, "--batch", "1", "--out", name)
    assert result.exit_code == 0, result.output
    assert result.stderr == f"plot: {name}\n"
    assert Path(name).read_bytes().startswith(start)


def test_the_same_flow_is_the_same_plot_to_the_byte(here: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw(measured("elman"), here / name, "elman")
    assert (here / "a.svg").read_bytes() == (here / "b.svg").read_bytes()


def test_the_plot_names_what_it_shows(here: Path) -> None:
    found = measured("lstm")
    draw(found, here / "a.svg", "lstm: a title")
    text = (here / "a.svg").read_text()
    for words in ("lstm: a title", found.conclusion, f"bound: {found.bound_name}", "its range"):
        assert words in text


@pytest.mark.parametrize(
    ("name", "changes", "shown"),
    [
        ("jordan_teacher_forced", {}, "norm 0"),
        ("elman[identity]", {"W": np.zeros((3, 3))}, "norm 0"),
        ("elman[identity]", {"W": 1e60 * np.eye(3)}, "bound"),
        ("elman[identity]", {"W": 1e-60 * np.eye(3)}, "bound"),
        ("elman[sine]", {"b": np.full(3, np.inf)}, "not finite"),
        ("elman[identity]", {"W": np.eye(3)}, "bound"),
    ],
)
def test_a_norm_that_has_no_place_on_a_log_scale_is_drawn_all_the_same(
    here: Path, name: str, changes: dict[str, Any], shown: str
) -> None:
    draw(measured(name, **changes), here / "a.svg", name)
    assert shown in (here / "a.svg").read_text()


def test_masks_and_single_steps_are_drawn_too(here: Path) -> None:
    cell, rng = builtin("lstm"), np.random.default_rng(0)
    params, mask = cell.init(rng, 2, 3), np.array([[True, False], [False, False]])
    for T in (0, 1, 2):
        found = flow(cell, params, rng.standard_normal((T, 2, 2)), None, mask[:T])
        draw(found, here / f"{T}.svg")
        assert (here / f"{T}.svg").exists()


def test_another_ending_is_refused_before_anything_is_measured(cli: Cli) -> None:
    result = cli("flow", "no such cell", "--out", "a.pdf")
    assert result.exit_code == 2
    assert "the plot 'a.pdf' ends in '.pdf', expected .svg or .png" in result.stderr


def test_a_folder_that_does_not_exist_is_told(cli: Cli) -> None:
    result = cli("flow", "elman", *SMALL, "--out", "no/such/a.svg")
    assert result.exit_code == 2
    assert "cannot write no/such/a.svg: No such file or directory" in result.stderr


def test_without_matplotlib_the_message_says_what_to_install(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert cli("flow", "elman", *SMALL).exit_code == 0
    result = cli("flow", "elman", *SMALL, "--out", "a.svg")
    assert result.exit_code == 2
    assert 'pip install "bpttcheck[report]"' in result.stderr


PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "flow.md").read_text()


def test_what_the_page_shows_is_what_is_printed(cli: Cli) -> None:
    shown = PAGE.split("```\n")[1].splitlines()
    command = shown[0].removeprefix("$ bpttcheck ").split()
    assert cli(*command).stdout.splitlines() == shown[1:]


def test_the_code_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(PAGE.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.startswith("vanishes: ")
