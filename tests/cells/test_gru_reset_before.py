from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck import unroll
from bpttcheck.cells import GRUResetAfter, GRUResetBefore

SIZES = {
    "T": st.integers(1, 6),
    "B": st.integers(1, 4),
    # No size of one: the only entry of a block may cancel to less than 1e-12 can be asked of.
    "n_in": st.integers(2, 4),
    "n_hidden": st.integers(2, 5),
    "seed": st.integers(0, 2**32 - 1),
    # Not saturated: there s (1 - s) of either side keeps few digits.
    "scale": st.sampled_from([0.2, 1.0]),
}


def equations(p, h, x):
    """Cho et al. (2014), equations (5) to (8), gate by gate, for autograd."""
    H = h.shape[1]
    W_r, W_z, W_n = (p["W_ih"][k * H : (k + 1) * H] for k in range(3))
    U_r, U_z, U_n = (p["W_hh"][k * H : (k + 1) * H] for k in range(3))
    b_r, b_z, b_n = (p["b"][k * H : (k + 1) * H] for k in range(3))
    r = (x @ W_r.T + h @ U_r.T + b_r).sigmoid()
    z = (x @ W_z.T + h @ U_z.T + b_z).sigmoid()
    candidate = (x @ W_n.T + (r * h) @ U_n.T + b_n).tanh()
    h = z * h + (1 - z) * candidate
    return h, h


@settings(deadline=None, max_examples=25)
@given(**SIZES)
def test_outputs_and_gradients_are_those_of_autograd_through_the_published_equations(
    compare, **sizes
):
    case = compare.case(GRUResetBefore(), **sizes)
    compare.agree(compare.hand(GRUResetBefore(), case), compare.torch(equations, case))


def test_every_wrong_sign_is_caught_by_the_comparison_with_autograd(compare, wrong_signs):
    case = compare.case(GRUResetBefore(), 4, 3, 2, 3, seed=5)
    expected = compare.torch(equations, case)
    compare.agree(compare.hand(GRUResetBefore(), case), expected)
    for block, cell in wrong_signs(GRUResetBefore()):
        with pytest.raises(AssertionError, match=block):
            compare.agree(compare.hand(cell, case), expected)


def test_both_units_are_the_same_when_the_state_is_a_scalar_without_the_inner_bias(compare):
    # With one hidden unit, W_n (r * h) = r * (W_n h).
    case = compare.case(GRUResetBefore(), 3, 2, 2, 1, seed=2)
    params_after = {**case.params, "b_hn": np.zeros(1)}
    before, _, _ = unroll(GRUResetBefore(), case.params, case.xs, case.state0)
    after, _, _ = unroll(GRUResetAfter(), params_after, case.xs, case.state0)
    np.testing.assert_allclose(before, after, rtol=1e-14)


def test_the_two_units_differ_when_there_is_more_than_one_hidden_unit(compare):
    case = compare.case(GRUResetBefore(), 3, 2, 2, 3, seed=2)
    params_after = {**case.params, "b_hn": np.zeros(3)}
    before, _, _ = unroll(GRUResetBefore(), case.params, case.xs, case.state0)
    after, _, _ = unroll(GRUResetAfter(), params_after, case.xs, case.state0)
    assert not np.allclose(before, after, rtol=1e-3)
