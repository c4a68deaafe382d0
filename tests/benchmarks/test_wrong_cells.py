"""Every wrong cell is wrong where it says so and right elsewhere, whatever the checker says."""

import inspect

import numpy as np
import pytest

from benchmarks.right_cells.proof import worst
from benchmarks.wrong_cells import CELLS, FAMILIES, base
from benchmarks.wrong_cells.base import FUSED, GATE, at_once, by_steps, gap, problem
from benchmarks.wrong_cells.memory import Counted

ALWAYS = ("SeventhDigit", "SharedResult")
"""Wrong at any ordinary problem, or in what it does to its arguments."""


def named(classes):
    return pytest.mark.parametrize("wrong", classes, ids=lambda one: one.__name__)


def gap_at(wrong, **how):
    one = wrong()
    run = at_once if hasattr(one, "vjp") else by_steps
    params, xs, h, d_ys, d_T = problem(one.right, **how)
    if isinstance(one.right, Counted):
        h, d_T = (h, np.zeros(len(h), int)), (d_T, np.zeros(len(h)))
        found, right = (run(each, params, xs, h, d_ys, d_T) for each in (one, one.right))
        return gap([*found[:-1], found[-1][0]], [*right[:-1], right[-1][0]])
    kept = [value.copy() for value in (xs, h, d_ys, d_T)]
    return gap(run(one, params, xs, h, d_ys, d_T), run(one.right, params, *kept))


def test_there_are_forty_of_them_at_least_under_names_of_their_own():
    assert len(CELLS) >= 40
    assert len({one.__name__ for one in CELLS}) == len(CELLS)
    assert sum(map(len, FAMILIES.values())) == len(CELLS)


@pytest.mark.parametrize("right", [GATE, FUSED], ids=["cell", "layer"])
def test_what_they_are_made_of_is_right(right):
    for seed in range(3):
        error, block = worst(right, seed)
        assert error < 1e-8, block


@named(CELLS)
def test_each_is_wrong_where_it_says(wrong):
    assert wrong.kind
    assert wrong.where
    assert wrong().exposure() > (1e-9 if wrong.__name__ == "SeventhDigit" else 1e-3)


@named([one for one in CELLS if one.kind != "public" and one.__name__ not in ALWAYS])
def test_each_is_right_for_an_ordinary_small_problem(wrong):
    assert gap_at(wrong, T=5, B=3, n_in=3, n_hidden=4, seed=1) < 1e-12


@pytest.mark.parametrize(
    ("name", "below", "wrong_at"),
    [
        ("FifthRow", {"B": 4}, {"B": 5}),
        ("NinthRowAgain", {"B": 8}, {"B": 9}),
        ("SeventeenRows", {"B": 16}, {"B": 17}),
        ("ThirtyThreeRows", {"B": 32}, {"B": 33}),
        ("EightUnits", {"n_hidden": 8}, {"n_hidden": 9}),
        ("ThirtyThreeUnits", {"n_hidden": 32}, {"n_hidden": 33}),
        ("SixtyFiveUnits", {"n_hidden": 64}, {"n_hidden": 65}),
        ("WideUnits", {"n_hidden": 127}, {"n_hidden": 128}),
        ("NineInputs", {"n_in": 8}, {"n_in": 9}),
        ("EverySixteen", {"T": 17}, {"T": 16}),
        ("EveryThirtyTwo", {"T": 33}, {"T": 32}),
        ("ChunksOf64", {"T": 64}, {"T": 65}),
        ("ChunksOf256", {"T": 256}, {"T": 257}),
        ("ChunksOf512", {"T": 512}, {"T": 513}),
        ("FirstThousandRows", {"T": 64, "B": 16}, {"T": 64, "B": 17}),
        ("RingOfRecords", {"T": 40}, {"T": 41}),
    ],
)
def test_a_bug_of_sizes_begins_at_its_size(name, below, wrong_at):
    wrong = next(one for one in CELLS if one.__name__ == name)
    assert gap_at(wrong, **below) < 1e-12
    assert gap_at(wrong, **wrong_at) > 1e-6


def test_the_exposures_do_not_know_the_checker():
    lines = inspect.getsource(base).splitlines()
    assert not [line for line in lines if "import" in line and "bpttcheck" in line]
