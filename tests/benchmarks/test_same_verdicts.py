"""The comparison of verdicts before and after a change sees every difference, and no other."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.same_verdicts.__main__ import differences, record

NAME = "builtins:elman[tanh]"


@pytest.fixture(scope="module")
def once():
    return {f"{NAME} seed 0": record(NAME, 0, 4)}


def test_two_runs_of_one_program_do_not_differ(once):
    assert differences(once, {f"{NAME} seed 0": record(NAME, 0, 4)}) == []


@pytest.mark.parametrize("part", ["verdict", "ratio", "cases", "gone"])
def test_a_difference_is_told(once, part):
    other = copy.deepcopy(once)
    (one,) = other.values()
    if part == "verdict":
        one["verdict"] = "failed"
    elif part == "gone":
        other.clear()
    else:
        row = one["checks"]["sequence_vjp"]
        row[2 if part == "ratio" else 1] += 1
    assert len(differences(once, other)) == 1


@pytest.mark.nightly
def test_the_command_writes_what_it_found_and_compares(tmp_path):
    command = [sys.executable, "-m", "benchmarks.same_verdicts", "--examples", "2"]
    root = Path(__file__).parents[2]
    first = subprocess.run(
        [*command, tmp_path / "a", NAME], cwd=root, capture_output=True, text=True
    )
    assert first.stdout.startswith("1 verdicts in "), first.stderr
    told = json.loads((tmp_path / "a").read_text())
    told[f"{NAME} seed 0"]["verdict"] = "failed"
    (tmp_path / "b").write_text(json.dumps(told))
    against = ["--against", tmp_path / "b", tmp_path / "c", NAME]
    second = subprocess.run([*command, *against], cwd=root, capture_output=True, text=True)
    assert second.returncode == 1
    assert "verdict was failed, is " in second.stdout, second.stderr
