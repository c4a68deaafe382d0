from __future__ import annotations

import numpy as np
import pytest

import bpttcheck
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.cells import BUILTINS
from bpttcheck.contract import (
    CELL_METHODS,
    LAYER_METHODS,
    Cell,
    Layer,
    is_cell,
    is_float,
    is_layer,
)


class Bare:
    """A cell that inherits nothing and imports nothing of ours."""

    def init(self, rng, n_in, n_hidden):
        return {"w": rng.standard_normal((n_in, n_hidden))}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, params["w"].shape[1]))

    def step(self, params, state, x):
        new = state + x @ params["w"]
        return new, new, x

    def step_vjp(self, params, cache, d_state, d_y):
        d = d_state + d_y
        return {"w": cache.T @ d}, d, d @ params["w"].T


@pytest.mark.parametrize("make", BUILTINS.values(), ids=BUILTINS)
def test_every_built_in_is_a_cell_and_becomes_a_layer(make):
    assert is_cell(make())
    assert isinstance(make(), Cell)
    assert not is_layer(make())
    assert is_layer(CellLayer(make()))
    assert isinstance(CellLayer(make()), Layer)
    assert not is_cell(CellLayer(make()))


def test_any_object_with_the_methods_is_a_cell():
    assert is_cell(Bare())
    assert isinstance(Bare(), bpttcheck.Cell)


@pytest.mark.parametrize("missing", CELL_METHODS)
def test_an_object_that_lacks_one_method_is_no_cell(missing):
    methods = {name: getattr(Bare, name) for name in CELL_METHODS if name != missing}
    assert not is_cell(type("Partial", (), methods)())
    assert not is_cell(type("Shadowed", (Bare,), {missing: "not a method"})())


@pytest.mark.parametrize("missing", LAYER_METHODS)
def test_an_object_that_lacks_one_method_is_no_layer(missing):
    methods = {name: getattr(CellLayer, name) for name in LAYER_METHODS if name != missing}
    assert not is_layer(type("Partial", (), methods)())


@pytest.mark.parametrize("thing", [None, 3, "elman", np.zeros(3), object()])
def test_anything_else_is_neither(thing):
    assert not is_cell(thing)
    assert not is_layer(thing)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_floating_leaves_are_differentiated(dtype):
    assert is_float(np.zeros(2, dtype))


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, np.bool_])
def test_integer_and_boolean_leaves_are_only_carried(dtype):
    assert not is_float(np.zeros(2, dtype))
    assert is_float(1.0)
    assert not is_float(1)


def test_the_smallest_cell_runs_and_its_gradient_is_right():
    cell = Bare()
    params = cell.init(np.random.default_rng(0), 2, 3)
    xs = np.random.default_rng(1).standard_normal((4, 5, 2))
    ys, state_T, tape = bpttcheck.unroll(cell, params, xs)
    np.testing.assert_allclose(state_T, xs.sum(axis=0) @ params["w"], rtol=1e-13)
    np.testing.assert_array_equal(ys[-1], state_T)
    gradients = bpttcheck.backpropagate(cell, params, tape, None, np.ones_like(state_T))
    np.testing.assert_allclose(
        gradients.d_params["w"],
        np.repeat(xs.sum(axis=(0, 1))[:, None], 3, axis=1),
        rtol=1e-13,
    )
