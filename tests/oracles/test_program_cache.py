"""Equal programs are compiled once, and a program that differs in one bit is another."""

import gc

import jax.numpy as jnp
import numpy as np
import pytest

from bpttcheck.oracles.autodiff.autodiff import Autodiff, Point
from bpttcheck.oracles.autodiff.programs import CACHE


@pytest.fixture(autouse=True)
def empty_cache():
    CACHE.clear()
    yield
    CACHE.clear()


def point(n=2):
    rng = np.random.default_rng(0)
    xs, state = rng.standard_normal((3, 2, n)), rng.standard_normal((2, n))
    mask = np.ones((3, 2), bool)
    return Point({"w": rng.standard_normal(n)}, state, xs, mask, xs, state)


def step_with(number):
    def step(params, state, x):
        new = jnp.tanh(params["w"] * state + x) * number
        return new, new

    return step


def d_xs(step, at=None):
    return Autodiff(step).gradients(at or point(), 0.0, 0).d_xs.value


def test_equal_steps_share_a_program():
    first, second = d_xs(step_with(0.5)), d_xs(step_with(0.5))
    assert len(CACHE._known) == 1
    assert np.array_equal(first, second)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "number",
    [np.nextafter(0.5, 1), np.array([0.5, 0.25]), np.array([0.5, np.nextafter(0.25, 1)])],
    ids=["a bit", "an array", "a bit of an array"],
)
def test_a_number_that_differs_in_one_bit_makes_another_program(number):
    d_xs(step_with(np.array([0.5, 0.25])))
    d_xs(step_with(0.5))
    known = len(CACHE._known)
    found = d_xs(step_with(number))
    CACHE.clear()
    assert np.array_equal(found, d_xs(step_with(number)))
    assert known == 2


def test_a_number_inside_a_function_of_jax_counts():
    def step_inside(number):
        def step(params, state, x):
            new = jnp.where(x > 0, jnp.clip(state * params["w"], -number, number), x)
            return new, new

        return step

    small, large = d_xs(step_inside(0.1)), d_xs(step_inside(0.1 + 1e-12))
    assert len(CACHE._known) == 2
    assert small.shape == large.shape


def test_other_shapes_are_another_program_and_the_oldest_goes(monkeypatch):
    monkeypatch.setattr(CACHE, "most", 2)
    for n in (1, 2, 3):
        d_xs(step_with(0.5), point(n))
    assert len(CACHE._known) == 2
    gc.collect()
    assert np.isfinite(d_xs(step_with(0.5), point(1))).all()
