"""Problems: a function of (seed, i), in every regime, inside their templates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpttcheck import trees
from bpttcheck.cells import LSTM, Elman
from bpttcheck.judge.run import Run
from bpttcheck.problems.cases import (
    LENGTHS_BEYOND_TRUNCATION,
    ROUND,
    Seeded,
    build,
    draw_case,
    scheduled_dtype,
    scheduled_regime,
    templates,
)
from bpttcheck.problems.problem import MASKS, REGIMES
from bpttcheck.problems.values import draw_mask
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject

DTYPES = ("float64", "float32")


def leaves(problem):
    return trees.leaves(
        (problem.params, problem.xs, problem.state0, problem.d_ys, problem.d_state, problem.real)
    )


def case(regime="ordinary", dtype="float64", T=5, B=3, mask="none", index=3):
    return Case(0, index, T, B, 2, 3, dtype, mask, regime)


@given(index=st.integers(0, 10**6), seed=st.integers(0, 10**6))
def test_a_case_is_a_function_of_seed_and_index(index, seed):
    runs = [Run(Subject(Elman()), seed, DTYPES) for _ in range(2)]
    first, second = (run.cases.case(index) for run in runs)
    assert first == second
    same = zip(
        leaves(runs[0].cases.problem(first)), leaves(runs[1].cases.problem(second)), strict=True
    )
    for a, b in same:
        np.testing.assert_array_equal(a, b)


def test_different_cases_have_different_values():
    a, b = (build(Subject(Elman()), case(index=i)) for i in (1, 2))
    assert not np.array_equal(a.xs, b.xs)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_regime_gives_finite_arrays_of_the_checked_dtype(regime, dtype):
    problem = build(Subject(LSTM()), case(regime, dtype, T=40 if regime == "long" else 5))
    for leaf in leaves(problem)[:-1]:
        assert leaf.dtype == dtype
        assert np.isfinite(leaf).all()


def test_regimes_are_what_they_say():
    subject = Subject(Elman())
    ordinary, saturated = (build(subject, case(r)) for r in ("ordinary", "saturated"))
    np.testing.assert_allclose(saturated.params["W"], 30 * ordinary.params["W"])
    own = build(subject, case("own_initial_state"))
    np.testing.assert_array_equal(own.state0, np.zeros_like(own.state0))
    zeros = build(subject, case("zeros"))
    assert not zeros.params["b"].any()
    assert not zeros.xs[0].any()
    assert np.abs(build(subject, case("large_cotangents")).d_ys).max() > 50
    tiny = np.abs(build(subject, case("tiny_gradients")).d_ys).max()
    assert 0 < tiny < 1e-5
    grid = build(subject, case("at_kinks")).xs
    assert np.isin(grid, [-2, -1, -0.5, 0, 0.5, 1, 2]).all()
    assert not np.isin(build(subject, case("near_kinks")).xs, [-2, -1, -0.5, 0, 0.5, 1, 2]).all()


def test_a_round_of_the_schedule_meets_every_regime_in_every_dtype():
    met = {(scheduled_regime(i), scheduled_dtype(i, DTYPES)) for i in range(2 * ROUND)}
    assert met == {(regime, dtype) for regime in REGIMES for dtype in DTYPES}


@given(
    regime=st.sampled_from(list(REGIMES)),
    seed=st.integers(0, 10**6),
    k=st.integers(0, 4),
)
def test_a_structure_fits_its_template(regime, seed, k):
    template = templates(seed, None)[k]
    rng = np.random.default_rng(seed)
    drawn = draw_case(Seeded(rng), regime=regime, dtype="float64", template=template)
    assert (drawn.n_in, drawn.n_hidden) == (template.n_in, template.n_hidden)
    assert 1 <= drawn.T <= template.T
    assert 1 <= drawn.B <= template.B
    if template.exact:
        assert (drawn.T, drawn.B) == (template.T, template.B)


def test_the_templates_cover_what_hides_bugs():
    for seed in range(20):
        made = templates(seed, None)
        pairs = [(t.n_in, t.n_hidden) for t in made]
        assert (1, 1) in pairs
        assert any(a == b > 1 for a, b in pairs)
        assert any(a != b for a, b in pairs)
        assert any(t.exact for t in made)
        assert any(not t.exact and t.B > 1 for t in made)
        assert made[-1].T >= max(LENGTHS_BEYOND_TRUNCATION)


@given(kind=st.sampled_from(MASKS), T=st.integers(1, 9), B=st.integers(1, 5), seed=st.integers(0))
def test_masks_are_of_their_kind(kind, T, B, seed):
    mask = draw_mask(case(T=T, B=B, mask=kind), np.random.default_rng(seed))
    if kind == "none":
        assert mask is None
        return
    assert mask.shape == (T, B)
    assert mask.dtype == bool
    if kind == "lengths":
        assert mask[0].all()
        assert (np.diff(mask.astype(int), axis=0) <= 0).all()
    if kind == "empty_rows":
        assert (~mask).all(axis=0).any()


def test_what_is_explained_with_declared_sizes_has_no_special_size():
    sizes = ((2, 1), (2, 2), (3, 1), (2, 3), (4, 1), (2, 4), (3, 3), (4, 2))
    _, square, *rich = templates(0, sizes)
    assert square.n_in == square.n_hidden > 1
    assert all(min(t.n_in, t.n_hidden) > 1 for t in rich)
    assert {(t.n_in, t.n_hidden) for t in templates(0, ((1, 1),))} == {(1, 1)}


class Counting(Elman):
    def initial_state(self, params, batch_size):
        return super().initial_state(params, batch_size), np.zeros(batch_size, int)

    def step(self, params, state, x):
        h, y, cache = super().step(params, state[0], x)
        return (h, state[1] + 1), y, cache


def test_a_counter_has_counted_in_half_of_the_cases():
    run = Run(Subject(Counting()), 0, DTYPES)
    counts = [int(run.cases.problem(run.cases.case(index)).state0[1][0]) for index in range(22)]
    assert set(counts[::2]) == {0}
    assert set(counts[1::2]) == {2, 2002}  # some have counted far
