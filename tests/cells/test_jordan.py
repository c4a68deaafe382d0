from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck import backpropagate, unroll
from bpttcheck.cells import Jordan
from bpttcheck.errors import ContractError

SIZES = {
    "T": st.integers(1, 6),
    "B": st.integers(1, 4),
    # No size of one, nor of the target: the only entry of a block may cancel to less than 1e-12 can
    # be asked of.
    "n_in": st.integers(4, 5),
    "n_hidden": st.integers(2, 5),
    "seed": st.integers(0, 2**32 - 1),
    "scale": st.sampled_from([0.2, 1.0, 3.0]),
}
CELLS = [
    Jordan(),
    Jordan(n_out=2, activation="sigmoid", output_activation="tanh"),
    Jordan(n_out=3, activation="softplus", output_activation="sigmoid"),
    Jordan(teacher_forced=True),
    Jordan(n_out=3, output_activation="sigmoid", teacher_forced=True),
]


def equations(cell):
    """Goodfellow, Bengio and Courville (2016), section 10.2.1, for autograd."""
    import torch

    def tanh(z):
        # The value of tanh with the derivative of a form that keeps its digits when saturated.
        other = 1 - 2 / ((2 * z).exp() + 1)
        return z.tanh().detach() + (other - other.detach())

    functions = {
        "identity": lambda z: z,
        "tanh": tanh,
        "sigmoid": lambda z: 1 / (1 + (-z).exp()),
        "softplus": lambda z: torch.logaddexp(z, torch.zeros_like(z)),
    }

    def step(p, o, x):
        x_in, target = x[:, : p["U"].shape[1]], x[:, p["U"].shape[1] :]
        h = functions[cell.activation](x_in @ p["U"].T + o @ p["W"].T + p["b"])
        y = functions[cell.output_activation](h @ p["V"].T + p["c"])
        return (target if cell.teacher_forced else y), y

    return step


@pytest.mark.parametrize("cell", CELLS, ids=repr)
@settings(deadline=None, max_examples=15)
@given(**SIZES)
def test_outputs_and_gradients_are_those_of_autograd_through_the_published_equations(
    compare, cell, **sizes
):
    pytest.importorskip("torch", reason="torch is the peer that is compared with")
    case = compare.case(cell, **sizes)
    compare.agree(compare.hand(cell, case), compare.torch(equations(cell), case))


@pytest.mark.parametrize(
    "cell", [*CELLS, Jordan(n_out=1), Jordan(1, teacher_forced=True)], ids=repr
)
def test_every_wrong_sign_is_caught_by_the_comparison_with_autograd(compare, wrong_signs, cell):
    pytest.importorskip("torch", reason="torch is the peer that is compared with")
    case = compare.case(cell, 4, 3, 4, 3, seed=5)
    expected = compare.torch(equations(cell), case)
    compare.agree(compare.hand(cell, case), expected)
    for block, wrong in wrong_signs(cell):
        with pytest.raises(AssertionError, match=block):
            compare.agree(compare.hand(wrong, case), expected)


def test_teacher_forcing_cuts_every_path_back_through_time_at_the_target(compare):
    cell = Jordan(n_out=2, teacher_forced=True)
    case = compare.case(cell, 4, 3, 5, 3, seed=0)
    _, _, tape = unroll(cell, case.params, case.xs, case.state0)
    d_ys = np.zeros_like(case.d_ys)
    d_ys[2] = case.d_ys[2]
    d_xs = backpropagate(cell, case.params, tape, d_ys).d_xs
    reached = np.abs(d_xs).max(axis=1) > 0
    targets, inputs = [False] * 3 + [True] * 2, [True] * 3 + [False] * 2
    np.testing.assert_array_equal(reached, [[False] * 5, targets, inputs, [False] * 5])


def test_the_final_state_of_a_teacher_forced_sequence_is_its_last_target(compare):
    cell = Jordan(n_out=2, teacher_forced=True)
    case = compare.case(cell, 3, 2, 5, 3, seed=0)
    _, state_T, tape = unroll(cell, case.params, case.xs)
    np.testing.assert_array_equal(state_T, case.xs[-1, :, 3:])
    assert not np.shares_memory(state_T, case.xs)
    gradients = backpropagate(cell, case.params, tape, None, case.d_state_T)
    np.testing.assert_array_equal(gradients.d_xs[-1, :, 3:], case.d_state_T)
    assert not gradients.d_xs[-1, :, :3].any()
    assert not any(value.any() for value in gradients.d_params.values())


@pytest.mark.parametrize(
    ("cell", "n_in", "n_out", "columns"),
    [
        (Jordan(), 3, 3, 3),
        (Jordan(n_out=2), 1, 2, 1),
        (Jordan(teacher_forced=True), 5, 2, 3),
        (Jordan(teacher_forced=True), 1, 1, 0),
        (Jordan(n_out=3, teacher_forced=True), 3, 3, 0),
    ],
)
def test_the_number_of_outputs_and_of_input_columns_follows_the_options(cell, n_in, n_out, columns):
    params = cell.init(np.random.default_rng(0), n_in, 4)
    assert params["V"].shape == (n_out, 4)
    assert params["U"].shape == (4, columns)
    ys, _, tape = unroll(cell, params, np.ones((2, 3, n_in)))
    assert ys.shape == (2, 3, n_out)
    assert backpropagate(cell, params, tape, ys).d_params["U"].shape == (4, columns)


@pytest.mark.parametrize("n_out", [None, 1, 2])
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_the_declared_sizes_leave_the_cell_at_least_one_input_beside_the_target(n_out, data):
    cell = Jordan(n_out=n_out, teacher_forced=True)
    n_in, n_hidden = data.draw(cell.sizes)
    assert cell.init(np.random.default_rng(0), n_in, n_hidden)["U"].size


def test_a_free_running_cell_has_no_size_constraint():
    assert Jordan().sizes is None


def test_a_target_wider_than_the_input_is_refused():
    with pytest.raises(ContractError, match="n_in=2, expected at least n_out=3"):
        Jordan(n_out=3, teacher_forced=True).init(np.random.default_rng(0), 2, 4)


@pytest.mark.parametrize(
    "options", [{"n_out": 0}, {"activation": "x"}, {"output_activation": "softmax"}]
)
def test_impossible_options_are_refused_when_the_cell_is_made(options):
    with pytest.raises(ContractError):
        Jordan(**options)
