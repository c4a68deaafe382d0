"""The strategies draw what the checks draw, and shrink to the simplest problem."""

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

import bpttcheck
from bpttcheck import strategies as bst
from bpttcheck.activations import ACTIVATIONS
from bpttcheck.cells import LSTM, Elman, Jordan
from bpttcheck.errors import ContractError
from bpttcheck.problems.problem import REGIMES

QUICK = settings(max_examples=300, database=None, deadline=None)


@given(problem=bst.problems(LSTM()))
def test_a_problem_runs_through_the_engine(problem):
    cell = LSTM()
    ys, _, tape = bpttcheck.unroll(cell, problem.params, problem.xs, problem.state0, problem.mask)
    g = bpttcheck.backpropagate(cell, problem.params, tape, problem.d_ys, problem.d_state)
    assert ys.shape == problem.d_ys.shape
    assert g.d_xs.shape == problem.xs.shape
    assert not ys[~problem.real].any()
    assert not g.d_xs[~problem.real].any()


@given(problem=bst.problems(Elman(), regime="saturated", dtype="float32"))
def test_regime_and_dtype_can_be_fixed(problem):
    assert problem.case.regime == "saturated"
    assert problem.xs.dtype == np.float32


@given(problem=bst.problems(Jordan(n_out=2, teacher_forced=True)))
def test_the_sizes_of_the_subject_are_respected(problem):
    assert problem.case.n_in > 2


@given(data=st.data(), T=st.integers(1, 6), B=st.integers(1, 4))
def test_masks_have_the_shape_asked_for(data, T, B):
    mask = data.draw(bst.masks(T, B))
    assert mask is None or mask.shape == (T, B)


@given(bst.sizes(), bst.lengths(), bst.dtypes(), bst.regimes(), bst.activations())
def test_the_small_strategies_stay_inside_their_sets(sizes, T, dtype, regime, activation):
    assert min(sizes) >= 1
    assert 1 <= T <= 12
    assert dtype in ("float64", "float32")
    assert regime in REGIMES
    assert activation in ACTIVATIONS


def test_cases_shrink_to_the_simplest_one():
    simplest = find(bst.cases(), lambda case: True, settings=QUICK)
    assert (simplest.T, simplest.B, simplest.n_in, simplest.n_hidden) == (1, 1, 1, 1)
    assert (simplest.regime, simplest.mask, simplest.dtype) == ("ordinary", "none", "float64")


def test_a_condition_shrinks_to_its_edge():
    smallest = find(bst.cases(), lambda case: case.T >= 3 and case.B >= 2, settings=QUICK)
    assert (smallest.T, smallest.B) == (3, 2)


@pytest.mark.parametrize("wrong", [{"regime": "cold"}, {"dtype": "float16"}])
def test_an_unknown_choice_is_a_clear_error(wrong):
    with pytest.raises(ContractError, match="should be one of"):
        find(bst.cases(**wrong), lambda case: True, settings=QUICK)
