"""Every right cell is right by its own equations: central differences, not the checker, say so."""

import inspect

import numpy as np
import pytest

from benchmarks.right_cells import CELLS, FAMILIES, proof
from benchmarks.right_cells.proof import Problem, differences, worst
from bpttcheck.contract import is_cell, is_layer

LIMIT = 1e-7
LAYERS = [one for one in CELLS if not is_cell(one)]
MASKED = [one for one in LAYERS if getattr(one, "supports_mask", True)]
BY_CELL = [one for one in LAYERS if getattr(one, "reference", None) is not None]


def named(classes):
    return pytest.mark.parametrize("right", classes, ids=lambda one: one.__name__)


def test_there_are_forty_of_them_at_least_under_names_of_their_own():
    assert len(CELLS) >= 40
    assert len({one.__name__ for one in CELLS}) == len(CELLS)
    assert sum(map(len, FAMILIES.values())) == len(CELLS)
    assert all(is_cell(one()) or is_layer(one()) for one in CELLS)
    assert len(LAYERS) >= 8


@named(CELLS)
def test_each_says_what_it_computes(right):
    assert right.__doc__ is not None
    assert len(right.__doc__) > 40


@named(CELLS)
@pytest.mark.parametrize(
    "how",
    [{}, {"size": (3, 1), "B": 1, "T": 4}, {"size": (1, 3), "B": 3, "T": 6}],
    ids=["usual", "one unit", "one input"],
)
def test_the_gradient_is_that_of_differences(right, how):
    error, block = worst(right(), 1, **how)
    assert error < LIMIT, block


@named(MASKED)
def test_masked_steps_are_right_too(right):
    error, block = worst(right(), 2, T=6, B=3, masked=True)
    assert error < LIMIT, block


@named(BY_CELL)
@pytest.mark.parametrize("masked", [False, True])
def test_a_layer_computes_what_its_reference_does(right, masked):
    layer = right()
    masked = masked and layer in MASKED
    problem = Problem(layer, 3, T=9, B=3, masked=masked)
    h, ys = problem.state, []
    for t, x in enumerate(problem.x):
        new, y, _ = layer.reference.step(problem.params, h, x)
        real = np.ones(3, bool) if problem.mask is None else problem.mask[t]
        shaped = real.reshape(-1, *[1] * (new.ndim - 1))
        h = np.where(shaped, new, h)
        ys.append(np.where(real[:, None], y, 0))
    np.testing.assert_allclose(problem.y, np.stack(ys), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(problem.new, h, rtol=1e-12, atol=1e-12)


@named(CELLS)
def test_float32_gives_the_same_but_for_rounding(right):
    wide, narrow = Problem(right(), 4), Problem(right(), 4)
    narrow.to(np.float32)
    (d_params, _, d_x), (short_params, _, short_x) = wide.hand(), narrow.hand()
    for value, short in [(d_x, short_x), *((d_params[key], short_params[key]) for key in d_params)]:
        size = np.abs(value).max(initial=0)
        np.testing.assert_allclose(short, value, rtol=0, atol=1e-3 * size + 1e-30)


def test_the_proof_sees_an_error_in_the_sixth_digit():
    class Off(CELLS[0]):
        def step_vjp(self, params, cache, d_state, d_y):
            d_params, d_state, d_x = super().step_vjp(params, cache, d_state, d_y)
            return {**d_params, "R": d_params["R"] * (1 + 1e-6)}, d_state, d_x

    error, block = worst(Off(), 1)
    assert error == pytest.approx(1e-6, rel=0.1)
    assert block == "d_params['R']"


def test_differences_are_right_to_nine_digits_and_fit_the_size_of_an_entry():
    at = np.array([1e-7, 2e-7])
    found = differences(lambda a: float(np.sin(1e7 * a).sum()), at, at)
    np.testing.assert_allclose(found, 1e7 * np.cos(1e7 * at), rtol=1e-9)


def test_the_proof_does_not_know_the_checker():
    lines = inspect.getsource(proof).splitlines()
    assert not [line for line in lines if "import" in line and "bpttcheck" in line]
