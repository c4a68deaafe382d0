"""``bpttcheck bench``: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from bpttcheck.bench import measure
from bpttcheck.bench.forms import FORMS
from bpttcheck.bench.report.records import load

Cli = Callable[..., Result]

SMALL = ("--sizes", "3,2,2,3", "--rounds", "3")

CELLS = """
import numpy as np
from bpttcheck.cells import Elman

class Mine(Elman):
    def init(self, rng, n_in, n_hidden):
        print("hello")
        return super().init(rng, n_in, n_hidden)

class Wrong(Elman):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, d_x * 1.001

class Raises(Elman):
    def step(self, params, state, x):
        raise RuntimeError("no such step")

def make():
    return Elman("relu")
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # Without `jit`, JAX compiles in every call; the tests of measuring have all forms.
    monkeypatch.setattr(measure, "FORMS", {name: FORMS[name] for name in ("numpy", "jax")})
    (tmp_path / "mine.py").write_text(CELLS)
    return tmp_path


def test_the_headline_comes_first_and_the_files_are_written(cli: Cli, here: Path) -> None:
    result = cli("bench", "mine.py:Mine", *SMALL, "--dtype", "float32")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if line != "hello"]
    assert lines[0].startswith("Mine: hand-written NumPy is ")
    assert lines[0].partition(" [doubtful: ")[0].endswith("(1 size, float32)")
    assert lines[2].split() == ["size", "dtype", "NumPy", "JAX", "error"]
    folder = here / ".bpttcheck" / "bench"
    assert {"report.json", "summary.md", "index.html"} <= {p.name for p in folder.iterdir()}
    found = load(folder / "report.json")
    (point,) = found.subjects[0].points
    assert (str(point.size), point.dtype) == ("T=3 B=2 N=2 H=3", "float32")
    assert {timing.form for timing in point.timings} == {"numpy", "jax"}
    assert all(len(timing.samples) in (3, 15) for timing in point.timings)
    assert found.settings == {"rounds": 3, "seed": 0, "dtypes": ["float32"]}
    assert found.environment["cores"] >= 1
    assert cli("report", str(folder / "report.json"), "--out", "again", "-q").exit_code == 0


def test_json_is_one_document_and_nothing_else(cli: Cli, here: Path) -> None:
    result = cli("bench", "mine.py:Mine", *SMALL, "--json", "--out", "o")
    assert json.loads(result.stdout) == json.loads((here / "o" / "report.json").read_text())


def test_a_wrong_gradient_is_not_timed_and_the_others_are(cli: Cli, here: Path) -> None:
    result = cli("bench", "mine.py:Wrong", "mine.py:make", "-q", *SMALL, "--out", "o")
    assert result.exit_code == 1
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith("error: mine.py:Wrong: ")
    assert "d_xs is off by" in error
    assert "nothing was timed" in error
    (headline,) = result.stdout.splitlines()
    assert headline.startswith("Elman(activation='relu'): hand-written NumPy is ")
    found = load(here / "o" / "report.json")
    assert [failure.target for failure in found.failures] == ["mine.py:Wrong"]
    assert [subject.target for subject in found.subjects] == ["mine.py:make"]


def test_if_nothing_was_timed_nothing_is_written(cli: Cli, here: Path) -> None:
    result = cli("bench", "mine.py:Wrong", *SMALL)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert not (here / ".bpttcheck").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["elmann", *SMALL], "did you mean 'elman'"),
        (["mine.py:Raises", *SMALL], "no such step"),
        (["elman", "--sizes", "3,2"], "size '3,2', expected four positive numbers T,B,N,H"),
        (["elman", "--quick", *SMALL], "--quick and --sizes exclude each other"),
        (["elman", "--rounds", "2"], "2 is not in the range"),
        (["elman", "--dtype", "float16"], "float16"),
    ],
)
def test_wrong_usage_is_told(cli: Cli, arguments: list[str], words: str) -> None:
    result = cli("bench", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_without_targets_three_built_ins_are_measured(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(target: str, *_: object) -> None:
        asked.append(target)
        raise measure.ContractError("no")

    monkeypatch.setattr(measure, "measure", refuse)
    assert cli("bench").exit_code == 2
    assert asked == ["elman", "lstm", "gru_reset_after"]


FUNCTIONS = """
import numpy as np

def embedded(tokens, E, scale):
    return E[tokens] * scale, (tokens, E, scale)

def embedded_vjp(d, cache):
    tokens, E, scale = cache
    d_E = np.zeros_like(E)
    np.add.at(d_E, tokens, d * scale)
    return {"d_E": d_E}

def loss(x, W):
    y = x @ W
    return 0.5 * (y * y).sum(), x.T @ y
"""


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("embedded+embedded_vjp", ["--signature", "tokens: T < V, E: V D, scale: D -> y: T D"]),
        ("loss", ["--signature", "x: N D, W: D H", "--returns", "loss, dW"]),
    ],
)
def test_functions_are_timed_by_their_letters(cli, tmp_path, monkeypatch, target, options):
    monkeypatch.chdir(tmp_path)
    Path("code.py").write_text(FUNCTIONS)
    done = cli(
        "bench", f"code.py:{target}", *options, "--sizes", "4,2,3,5", "--rounds", "3", "--json"
    )
    assert done.exit_code == 0, done.stderr
    (point,) = json.loads(done.stdout)["subjects"][0]["points"]
    assert {one["form"] for one in point["timings"]} >= {"numpy", "jax"}
    assert point["size"]["letters"].split() in (["T=4", "V=3", "D=5"], ["N=3", "D=5", "H=7"])


IN_A_NEW_PROCESS = """
import os
from bpttcheck.cli.bench import _on_cores
cores = lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
before = cores()
with _on_cores({count}):
    print(cores(), os.environ.get("OMP_NUM_THREADS"), os.environ.get("OPENBLAS_NUM_THREADS"))
    import numpy
assert cores() == before
"""


@pytest.mark.parametrize(("count", "given", "said"), [
    (1, {}, "1 1 1"), (1, {"OMP_NUM_THREADS": "7"}, "1 7 1"), (None, {}, "{all} None None"),
])  # fmt: skip
def test_libraries_that_are_loaded_have_one_thread(
    count: int | None, given: dict[str, str], said: str
) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_NEW_PROCESS.format(count=count)],
        env={**clean, **given}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    assert done.stdout.strip() == said.format(all=cores)


def test_a_number_of_cores_that_is_none_is_refused(cli: Cli) -> None:
    result = cli("bench", "elman", "--cores", "0")
    assert result.exit_code == 2
    assert "--cores '0', expected a number of at least 1, or 'all'" in result.output
