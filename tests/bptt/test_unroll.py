from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck import trees, unroll
from bpttcheck.cells import BUILTINS, LSTM, Elman, builtin
from bpttcheck.errors import ContractError

SIZES = {
    "T": st.integers(0, 6),
    "B": st.integers(1, 4),
    "seed": st.integers(0, 2**32 - 1),
}


def problem(cell, T, B, seed, n_in=3, n_hidden=2):
    rng = np.random.default_rng(seed)
    params = cell.init(rng, n_in, n_hidden)
    state0 = trees.map_leaves(
        lambda leaf: rng.standard_normal(leaf.shape), cell.initial_state(params, B)
    )
    return params, rng.standard_normal((T, B, n_in)), state0, rng.random((T, B)) < 0.6


def assert_same(got, expected):
    for a, b in zip(trees.leaves(got), trees.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", list(BUILTINS))
@settings(deadline=None, max_examples=10)
@given(**SIZES)
def test_the_sequence_is_the_step_applied_again_and_again(name, T, B, seed):
    cell = builtin(name)
    params, xs, state0, _ = problem(cell, T, B, seed)
    ys, state_T, tape = unroll(cell, params, xs, state0)
    state = state0
    for t in range(T):
        assert_same(tape.states[t], state)
        state, y, _ = cell.step(params, state, xs[t])
        np.testing.assert_array_equal(ys[t], y)
    assert_same(state_T, state)
    assert len(ys) == T


@pytest.mark.parametrize("name", list(BUILTINS))
@settings(deadline=None, max_examples=10)
@given(**SIZES)
def test_a_masked_row_goes_as_if_its_masked_steps_were_not_there(name, T, B, seed):
    cell = builtin(name)
    params, xs, state0, mask = problem(cell, T, B, seed)
    ys, state_T, tape = unroll(cell, params, xs, state0, mask)
    assert len(tape.states) == T + 1
    for b in range(B):
        row = trees.map_leaves(lambda leaf, b=b: leaf[b : b + 1], state0)
        kept = mask[:, b]
        expected, last, _ = unroll(cell, params, xs[kept, b : b + 1], row)
        assert_same(ys[kept, b : b + 1], expected)
        assert not ys[~kept, b].any()
        assert_same(trees.map_leaves(lambda leaf, b=b: leaf[b : b + 1], state_T), last)


@pytest.mark.parametrize("name", list(BUILTINS))
@pytest.mark.parametrize("padding", [np.nan, np.inf, 1e300])
def test_what_stands_in_the_padding_has_no_effect(name, padding):
    cell = builtin(name)
    params, xs, state0, mask = problem(cell, 5, 3, seed=1)
    padded = np.where(mask[..., None], xs, padding)
    ys, state_T, _ = unroll(cell, params, xs, state0, mask)
    ys_padded, state_padded, _ = unroll(cell, params, padded, state0, mask)
    np.testing.assert_array_equal(ys, ys_padded)
    assert_same(state_T, state_padded)


def test_a_mask_that_is_true_everywhere_changes_no_bit():
    params, xs, state0, _ = problem(LSTM(), 5, 3, seed=1)
    ys, state_T, _ = unroll(LSTM(), params, xs, state0)
    masked, state_masked, tape = unroll(LSTM(), params, xs, state0, np.ones((5, 3), bool))
    assert tape.real_rows == (None,) * 5
    np.testing.assert_array_equal(ys, masked)
    np.testing.assert_array_equal(state_T, state_masked)


def test_a_mask_that_is_false_everywhere_passes_the_state_through():
    params, xs, state0, _ = problem(LSTM(), 5, 3, seed=1)
    ys, state_T, _ = unroll(LSTM(), params, xs, state0, np.zeros((5, 3), bool))
    assert ys.shape == (5, 3, 2)
    assert not ys.any()
    np.testing.assert_array_equal(state_T, state0)


@pytest.mark.parametrize("name", list(BUILTINS))
def test_a_sequence_of_no_steps_has_outputs_of_the_right_shape_and_its_state_unchanged(name):
    cell = builtin(name)
    params, xs, state0, _ = problem(cell, 0, 3, seed=0)
    _, y, _ = cell.step(params, state0, np.zeros((3, 3)))
    ys, state_T, _ = unroll(cell, params, xs, state0)
    assert (ys.shape, ys.dtype) == ((0, *y.shape), y.dtype)
    assert_same(state_T, state0)


def test_without_an_initial_state_the_cell_gives_its_own():
    class Warm(Elman):
        def initial_state(self, params, batch_size):
            return np.full((batch_size, len(params["b"])), 0.5, params["b"].dtype)

    params, xs, _, _ = problem(Warm(), 3, 2, seed=0)
    ys, _, tape = unroll(Warm(), params, xs)
    np.testing.assert_array_equal(tape.states[0], np.full((2, 2), 0.5))
    np.testing.assert_array_equal(ys, unroll(Warm(), params, xs, np.full((2, 2), 0.5))[0])


@pytest.mark.parametrize("name", list(BUILTINS))
@pytest.mark.parametrize("masked", [False, True])
def test_float32_stays_float32(name, masked):
    cell = builtin(name)
    params, xs, state0, mask = problem(cell, 4, 3, seed=0)
    params, xs, state0 = trees.map_leaves(np.float32, (params, xs, state0))
    ys, state_T, tape = unroll(cell, params, xs, state0, mask if masked else None)
    assert {a.dtype for a in (ys, *trees.leaves((state_T, tape.states)))} == {np.dtype("f4")}


def test_a_cell_that_turns_float64_is_not_hidden_by_the_mask():
    class Widening(Elman):
        def step(self, params, state, x):
            new, y, cache = super().step(params, state, x)
            return new * np.sqrt(2), y, cache

    params, xs, state0, mask = problem(Widening(), 4, 3, seed=0)
    mask[:, 0] = False
    params, xs, state0 = trees.map_leaves(np.float32, (params, xs, state0))
    _, state_T, _ = unroll(Widening(), params, xs, state0, mask)
    assert state_T.dtype == np.float64


def test_inputs_that_are_no_floating_sequence_are_refused():
    params, xs, _, _ = problem(Elman(), 4, 3, seed=0)
    with pytest.raises(ContractError, match=r"xs\.shape=\(3, 3\).*\(T, B, n_in\)"):
        unroll(Elman(), params, xs[0])
    with pytest.raises(ContractError, match=r"xs\.dtype=int64"):
        unroll(Elman(), params, xs.astype(np.int64))
    with pytest.raises(ContractError, match=r"xs\.dtype=list"):
        unroll(Elman(), params, xs.tolist())


@pytest.mark.parametrize(
    "mask",
    [np.ones((3, 4), bool), np.ones((4, 3)), np.ones((4, 3, 1), bool), [[True] * 3] * 4],
)
def test_a_mask_of_the_wrong_shape_or_dtype_is_refused(mask):
    params, xs, _, _ = problem(Elman(), 4, 3, seed=0)
    with pytest.raises(ContractError, match=r"expected a bool array \(T, B\) = \(4, 3\)"):
        unroll(Elman(), params, xs, mask=mask)


@pytest.mark.parametrize("masked", [False, True])
def test_an_output_that_would_be_broadcast_is_refused(masked):
    class OneRow(Elman):
        def step(self, params, state, x):
            new, y, cache = super().step(params, state, x)
            return new, y[:1], cache

    params, xs, state0, _ = problem(OneRow(), 4, 3, seed=0)
    mask = np.array([[True, True, False]] * 4) if masked else None
    with pytest.raises(ContractError, match=r"y\.shape=\(1, 2\), but should be") as error:
        unroll(OneRow(), params, xs, state0, mask)
    assert (error.value.method, error.value.item) == ("step", "y")


def test_a_state_without_a_batch_axis_cannot_be_masked():
    class Counting(Elman):
        def initial_state(self, params, batch_size):
            return super().initial_state(params, batch_size), np.array(0)

        def step(self, params, state, x):
            new, y, cache = super().step(params, state[0], x)
            return (new, state[1] + 1), y, cache

    params, xs, _, mask = problem(Elman(), 4, 3, seed=0)
    assert unroll(Counting(), params, xs)[1][1] == 4
    with pytest.raises(ContractError, match="a mask needs a batch axis"):
        unroll(Counting(), params, xs, mask=mask)


def test_the_tape_is_frozen():
    params, xs, state0, _ = problem(Elman(), 2, 3, seed=0)
    _, _, tape = unroll(Elman(), params, xs, state0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tape.caches = ()  # type: ignore[misc]
