from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bpttcheck import backpropagate, trees, unroll
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.cells import BUILTINS, Elman, builtin
from bpttcheck.contract import is_layer


def assert_equal(got, expected):
    for a, b in zip(trees.leaves(got), trees.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", list(BUILTINS))
@pytest.mark.parametrize("masked", [False, True])
def test_a_layer_of_a_cell_is_its_unrolling_and_its_backpropagation(name, masked):
    cell, rng = builtin(name), np.random.default_rng(0)
    layer = CellLayer(cell)
    params = layer.init(np.random.default_rng(1), 3, 2)
    xs = rng.standard_normal((5, 4, 3))
    mask = rng.random((5, 4)) < 0.5 if masked else None
    state0 = layer.initial_state(params, 4)
    assert_equal(params, cell.init(np.random.default_rng(1), 3, 2))
    assert_equal(state0, cell.initial_state(params, 4))

    ys, state_T, tape = layer.forward(params, xs, state0, mask)
    expected_ys, expected_T, expected_tape = unroll(cell, params, xs, state0, mask)
    assert_equal((ys, state_T), (expected_ys, expected_T))

    d_ys = rng.standard_normal(ys.shape)
    d_state_T = trees.map_leaves(lambda leaf: rng.standard_normal(leaf.shape), state_T)
    got = layer.vjp(params, tape, d_ys, d_state_T)
    expected = backpropagate(cell, params, expected_tape, d_ys, d_state_T)
    assert_equal(got, expected[:3])
    assert_equal(tuple(layer.adjoints(params, tape, d_ys, d_state_T)), tuple(expected.d_states))


def test_a_layer_of_a_cell_supports_masks_and_is_a_value():
    layer = CellLayer(Elman())
    assert is_layer(layer)
    assert layer.supports_mask is True
    assert layer == CellLayer(Elman())
    assert repr(layer) == "CellLayer(cell=Elman(activation='tanh'))"
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.cell = Elman("relu")  # type: ignore[misc]
