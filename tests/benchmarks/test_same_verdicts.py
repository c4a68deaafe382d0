"""The comparison of verdicts before and after a change sees every difference, and no other."""

import copy

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
