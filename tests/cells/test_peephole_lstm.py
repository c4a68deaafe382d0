from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck import unroll
from bpttcheck.cells import LSTM, PeepholeLSTM

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


def equations(p, state, x):
    """Graves (2013), equations (7) to (11), gate by gate, for autograd."""
    h, c = state
    H = h.shape[1]
    i, f, g, o = (
        x @ p["W_ih"][k * H : (k + 1) * H].T
        + h @ p["W_hh"][k * H : (k + 1) * H].T
        + p["b"][k * H : (k + 1) * H]
        for k in range(4)
    )
    i = (i + p["p_i"] * c).sigmoid()
    f = (f + p["p_f"] * c).sigmoid()
    c = f * c + i * g.tanh()
    o = (o + p["p_o"] * c).sigmoid()
    h = o * c.tanh()
    return (h, c), h


@settings(deadline=None, max_examples=25)
@given(**SIZES)
def test_outputs_and_gradients_are_those_of_autograd_through_the_published_equations(
    compare, **sizes
):
    case = compare.case(PeepholeLSTM(), **sizes)
    compare.agree(compare.hand(PeepholeLSTM(), case), compare.torch(equations, case))


def test_every_wrong_sign_is_caught_by_the_comparison_with_autograd(compare, wrong_signs):
    case = compare.case(PeepholeLSTM(), 4, 3, 2, 3, seed=5)
    expected = compare.torch(equations, case)
    compare.agree(compare.hand(PeepholeLSTM(), case), expected)
    for block, cell in wrong_signs(PeepholeLSTM()):
        with pytest.raises(AssertionError, match=block):
            compare.agree(compare.hand(cell, case), expected)


def test_a_cell_that_forgets_the_path_through_a_peephole_is_caught(compare):
    class NoPathThroughThePeephole(PeepholeLSTM):
        def step_vjp(self, params, cache, d_state, d_y):
            without = {**params, "p_i": np.zeros_like(params["p_i"])}
            return super().step_vjp(without, cache, d_state, d_y)

    case = compare.case(PeepholeLSTM(), 4, 3, 2, 3, seed=5)
    with pytest.raises(AssertionError, match=r"'d_state0\[1\]'"):
        compare.agree(
            compare.hand(NoPathThroughThePeephole(), case), compare.torch(equations, case)
        )


@settings(deadline=None, max_examples=10)
@given(**SIZES)
def test_with_closed_peepholes_it_is_the_plain_lstm(compare, **sizes):
    case = compare.case(PeepholeLSTM(), **sizes)
    closed = {k: v * (not k.startswith("p_")) for k, v in case.params.items()}
    plain = {k: v for k, v in case.params.items() if not k.startswith("p_")}
    ys, _, _ = unroll(PeepholeLSTM(), closed, case.xs, case.state0)
    expected, _, _ = unroll(LSTM(), plain, case.xs, case.state0)
    np.testing.assert_array_equal(ys, expected)
