from __future__ import annotations

import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpttcheck
from bpttcheck import trees
from bpttcheck.bptt.checkpoint import Checkpointed, checkpointed, stored_bytes
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.cells import BUILTINS, LSTM, Elman, builtin
from bpttcheck.errors import ContractError, GradientMismatch


def problem(cell, T, B, n_in=3, n_hidden=2, *, masked=False, seed=0):
    rng = np.random.default_rng(seed)
    params = cell.init(rng, n_in, n_hidden)
    like = cell.initial_state(params, B)
    state0, d_state_T = (
        trees.map_leaves(lambda s: rng.standard_normal(s.shape), like) for _ in range(2)
    )
    xs, mask = rng.standard_normal((T, B, n_in)), rng.random((T, B)) < 0.6 if masked else None
    ys = CellLayer(cell).forward(params, xs, state0, mask)[0]
    return params, xs, state0, mask, rng.standard_normal(ys.shape), d_state_T


def everything(layer, params, xs, state0, mask, d_ys, d_state_T):
    ys, state_T, tape = layer.forward(params, xs, state0, mask)
    return ys, state_T, *layer.vjp(params, tape, d_ys, d_state_T)


def assert_same_bits(got, expected):
    for a, b in zip(trees.leaves(got), trees.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


class Recorded:
    """A cell that keeps what each step contributes to the gradient of the parameters."""

    def __init__(self, cell):
        self.init, self.initial_state, self.step = cell.init, cell.initial_state, cell.step
        self.cell, self.terms = cell, []

    def step_vjp(self, params, cache, d_state, d_y):
        found = self.cell.step_vjp(params, cache, d_state, d_y)
        self.terms.append(found[0])
        return found


@pytest.mark.parametrize("name", list(BUILTINS))
@settings(deadline=None, max_examples=15)
@given(
    T=st.integers(0, 12),
    B=st.integers(1, 3),
    segments=st.none() | st.integers(1, 14),
    masked=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_only_the_sum_over_segments_may_round_differently(name, T, B, segments, masked, seed):
    cell = builtin(name)
    given = problem(cell, T, B, masked=masked, seed=seed)
    ys, state_T, d_params, d_xs, d_state0 = everything(checkpointed(cell, segments), *given)
    expected = everything(CellLayer(cell), *given)
    assert_same_bits((ys, state_T, d_xs, d_state0), (*expected[:2], *expected[3:]))
    recorded = Recorded(cell)
    everything(CellLayer(recorded), *given)
    for key, value in expected[2].items():
        # Two sums of the same T terms: each is off by at most (T - 1) eps / 2 times the sum of the
        # terms' sizes, whatever the order.
        sizes = sum((np.abs(term[key]) for term in recorded.terms), np.zeros(value.shape))
        assert np.all(np.abs(d_params[key] - value) <= T * np.finfo(float).eps * sizes)


@pytest.mark.parametrize("name", list(BUILTINS))
@pytest.mark.parametrize("segments", [1, 9, 100])
def test_one_segment_or_one_for_each_step_has_every_bit(name, segments):
    cell = builtin(name)
    given = problem(cell, T=9, B=4)
    assert_same_bits(
        everything(checkpointed(cell, segments), *given), everything(CellLayer(cell), *given)
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("segments", [None, 3])
def test_a_checkpointed_cell_passes_every_check(segments):
    report = bpttcheck.check(checkpointed(LSTM(), segments), examples=8)
    assert report.passed
    assert {r.name for r in report.checks if r.skipped} == {"step_vjp", "initial_state"}


@given(T=st.integers(0, 3000), segments=st.none() | st.integers(1, 4000))
def test_the_segments_cover_the_steps_and_differ_by_one_at_most(T, segments):
    bounds = checkpointed(Elman(), segments).bounds(T)
    lengths = np.diff(bounds)
    assert bounds[-1] == T
    if T == 0:
        assert bounds == (0,)
    else:
        assert bounds[0] == 0
        assert lengths.min() >= 1
        assert lengths.max() - lengths.min() <= 1
        root = int(np.ceil(np.sqrt(T)))
        assert len(lengths) == (root if segments is None else min(segments, T))
        assert segments is not None or lengths.max() + len(lengths) <= 2 * root


def traced(action):
    action()  # imports and caches of NumPy are not part of it
    tracemalloc.start()
    try:
        kept = action()
        current, peak = tracemalloc.get_traced_memory()
        del kept
        return current, peak
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", list(BUILTINS))
def test_unroll_keeps_the_bytes_that_are_stated(name):
    cell, T, B, n_in = builtin(name), 50, 16, 8
    params, xs, state0, *_ = problem(cell, T, B, n_in, n_hidden=48)
    kept, _ = traced(lambda: bpttcheck.unroll(cell, params, xs, state0)[2])
    assert 1.0 <= kept / (T * stored_bytes(cell, params, B, n_in)) < 1.2


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["elman", "lstm", "gru_reset_after"])
@pytest.mark.parametrize("segments", [None, 5, 50])
def test_the_peak_at_400_steps_is_the_bytes_that_are_stated(name, segments):
    cell, T, B, n_in = builtin(name), 400, 16, 4
    layer = checkpointed(cell, segments)
    given = problem(cell, T, B, n_in, n_hidden=48)
    results = sum(leaf.nbytes for leaf in trees.leaves(everything(layer, *given)))
    stated = layer.peak_bytes(given[0], T, B, n_in)
    _, peak = traced(lambda: everything(layer, *given))
    _, full = traced(lambda: everything(CellLayer(cell), *given))
    assert 0.8 < (peak - results) / stated < 1.2
    if segments is None:
        assert peak - results < 0.12 * (full - results)


def test_views_keep_the_whole_array_alive_and_count_as_such():
    @dataclass
    class Kept:
        part: np.ndarray

    class Wide(Elman):
        def step(self, params, state, x):
            new, y, cache = super().step(params, state, x)
            return new, y, [cache, Kept(np.zeros((10, 100))[:1]), {"again": new[:1]}, "text"]

    params = Elman().init(np.random.default_rng(0), 3, 4)
    plain = stored_bytes(Elman(), params, 2, 3)
    assert plain == 2 * (2 * 4 * 8)  # h' and z; the old h and x are not new
    assert stored_bytes(Wide(), params, 2, 3) == plain + 8000


@pytest.mark.parametrize("segments", [0, -1, 2.5, "3", True])
def test_a_number_of_segments_that_makes_no_sense_is_refused(segments):
    with pytest.raises(ContractError, match=r"segments=.*expected an integer of 1 or more"):
        checkpointed(Elman(), segments)


def test_wrong_shapes_are_refused_by_name():
    layer = checkpointed(Elman())
    params, xs, state0, _, _, d_state_T = problem(Elman(), 6, 2)
    with pytest.raises(ContractError, match=r"mask\.shape=\(7, 2\)"):
        layer.forward(params, xs, state0, np.ones((7, 2), bool))
    tape = layer.forward(params, xs, state0)[2]
    with pytest.raises(ContractError, match=r"d_ys\.shape=\(7, 2, 2\)"):
        layer.vjp(params, tape, np.ones((7, 2, 2)), d_state_T)


class StateAfter(Checkpointed):
    """Each segment is computed again from the state after it."""

    def forward(self, params, xs, state0, mask=None):
        ys, state_T, tape = super().forward(params, xs, state0, mask)
        return ys, state_T, tape._replace(states=(*tape.states[1:], state_T))


class NotCarried(Checkpointed):
    """The cotangent of the state is lost between segments."""

    def _gradients(self, params, tape, k, d_ys, d_state):
        if k < len(tape.states) - 1:
            d_state = trees.map_leaves(np.zeros_like, d_state)
        return super()._gradients(params, tape, k, d_ys, d_state)


@pytest.mark.usefixtures("as_found")
@pytest.mark.sampled(2)
@pytest.mark.parametrize("planted", [StateAfter(Elman()), NotCarried(Elman())])
def test_a_bug_of_checkpointing_is_caught(planted):
    with pytest.raises(GradientMismatch):
        bpttcheck.check(planted, examples=8, checks=["sequence_vjp"])
