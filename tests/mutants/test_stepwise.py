"""The loop into which bugs of time are planted: right until a turn of it is wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck import trees
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.contract import is_cell, is_layer
from bpttcheck.mutants._steps import CellSteps, as_layer
from bpttcheck.mutants._stepwise import StepwiseLayer, right_step

NAMES = ["elman", "lstm", "jordan_teacher_forced", "counting"]


def stepped(layer):
    return StepwiseLayer(layer, right_step)


def same(bench, one, other, case):
    """Outputs, final state and every gradient are equal bit by bit."""
    (found, record), (expected, record_too) = bench.forward(one, case), bench.forward(other, case)
    for a, b in zip(trees.leaves(found), trees.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    first, second = bench.backward(one, case, record), bench.backward(other, case, record_too)
    assert first.keys() == second.keys()
    for block, value in first.items():
        np.testing.assert_array_equal(value, second[block], err_msg=block)
        assert value.dtype == second[block].dtype, block


@pytest.mark.parametrize("wrap", [CellSteps, lambda cell: stepped(CellSteps(cell)),
                                  lambda cell: stepped(CellLayer(cell))])  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25)
@given(data=st.data())
def test_a_loop_with_right_turns_equals_the_engine_bit_by_bit(name, wrap, bench, data):
    cell = bench.target(name)
    case = bench.case(
        cell,
        seed=data.draw(st.integers(0, 2**32 - 1)),
        T=data.draw(st.integers(1, 6)),
        B=data.draw(st.integers(1, 4)),
        size=data.draw(st.sampled_from([(2, 1), (2, 2), (4, 3), (3, 5)])),
        dtype=data.draw(st.sampled_from(["float64", "float32"])),
    )
    T, B = case.xs.shape[:2]
    bits = data.draw(st.lists(st.booleans(), min_size=T * B, max_size=T * B))
    mask = data.draw(st.sampled_from([None, np.reshape(np.array(bits), (T, B))]))
    case = type(case)(**{**vars(case), "mask": mask})
    same(bench, wrap(cell), CellLayer(cell), case)


@pytest.mark.parametrize("name", NAMES)
def test_a_sequence_without_steps_passes_its_state_through(name, bench):
    cell = bench.target(name)
    case = bench.case(cell, T=2)
    case = type(case)(**{**vars(case), "xs": case.xs[:0], "d_ys": case.d_ys[:0]})
    for layer in (CellSteps(cell), stepped(CellSteps(cell)), stepped(CellLayer(cell))):
        (ys, state), record = bench.forward(layer, case)
        assert ys.shape == case.d_ys.shape
        for was, now in zip(trees.leaves(case.state0), trees.leaves(state), strict=True):
            np.testing.assert_array_equal(was, now)
        found = bench.backward(layer, case, record)
        for block, value in found.items():
            if block.startswith("d_params"):
                assert not value.any(), block
        assert found["d_x"].shape == case.xs.shape


def test_what_stands_in_the_padding_has_no_effect(bench):
    cell = bench.target("lstm")
    case = bench.case(cell, T=4, masked=True)
    padded = np.where(case.mask[..., None], case.xs, np.nan)
    for layer in (CellSteps(cell), stepped(CellSteps(cell))):
        right = bench.gradient(layer, case)
        found = bench.gradient(layer, type(case)(**{**vars(case), "xs": padded}))
        for block, value in right.items():
            np.testing.assert_array_equal(found[block], value, err_msg=block)


def test_the_state_before_the_first_step_is_the_cells_own_if_none_is_given(bench):
    cell = bench.target("counting")
    case = bench.case(cell)
    own = cell.initial_state(case.params, 3)
    for layer in (CellSteps(cell), stepped(CellSteps(cell))):
        ys = layer.forward(case.params, case.xs)[0]
        np.testing.assert_array_equal(ys, layer.forward(case.params, case.xs, own)[0])


def test_a_layer_passes_on_what_its_cell_says_and_is_no_cell(bench):
    cell = bench.target("jordan_teacher_forced")
    layer = stepped(as_layer(cell))
    assert layer.teacher_forced
    assert layer.reference is cell
    assert is_layer(layer)
    assert not is_cell(layer)
    assert as_layer(layer) is layer
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        _ = layer.unknown
