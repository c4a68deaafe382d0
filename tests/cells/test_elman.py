from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bpttcheck import activations, unroll
from bpttcheck.cells import Elman
from bpttcheck.errors import ContractError

SIZES = {
    "T": st.integers(1, 6),
    "B": st.integers(1, 4),
    # No size of one: the only entry of a block may cancel to less than 1e-12 can be asked of.
    "n_in": st.integers(2, 4),
    "n_hidden": st.integers(2, 5),
    "seed": st.integers(0, 2**32 - 1),
    "scale": st.sampled_from([0.2, 1.0, 3.0]),
}
# T, B, n_in, n_hidden: few, because JAX compiles every one of them.
FEW_SIZES = [(1, 1, 1, 1), (5, 3, 2, 4)]


def torch_rnn(compare, case, nonlinearity):
    torch = pytest.importorskip("torch", reason="torch is the peer that is compared with")
    H, N = case.params["U"].shape
    rnn = torch.nn.RNN(N, H, nonlinearity=nonlinearity, dtype=torch.float64)
    with torch.no_grad():
        rnn.weight_ih_l0.copy_(torch.tensor(case.params["U"]))
        rnn.weight_hh_l0.copy_(torch.tensor(case.params["W"]))
        rnn.bias_ih_l0.copy_(torch.tensor(case.params["b"]))
        rnn.bias_hh_l0.zero_()
    xs = torch.tensor(case.xs, requires_grad=True)
    h0 = torch.tensor(case.state0[None], requires_grad=True)
    ys, h_T = rnn(xs, h0)
    loss = (ys * torch.tensor(case.d_ys)).sum() + (h_T[0] * torch.tensor(case.d_state_T)).sum()
    loss.backward()
    grads = {"U": rnn.weight_ih_l0, "W": rnn.weight_hh_l0, "b": rnn.bias_ih_l0}
    return compare.named(
        ys.detach(),
        h_T[0].detach().numpy(),
        {name: p.grad.numpy() for name, p in grads.items()},
        xs.grad,
        h0.grad[0].numpy(),
    )


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@settings(deadline=None, max_examples=25)
@given(**SIZES)
def test_outputs_and_gradients_are_those_of_torch(compare, nonlinearity, **sizes):
    cell = Elman(activation=nonlinearity)
    case = compare.case(cell, **sizes)
    expected = torch_rnn(compare, case, nonlinearity)
    # Where tanh is saturated, 1 - tanh² of torch has lost the digits that are compared.
    assume(nonlinearity == "relu" or np.abs(expected["ys"]).max() < 0.999)
    compare.agree(compare.hand(cell, case), expected)


def test_every_wrong_sign_is_caught_by_the_comparison_with_torch(compare, wrong_signs):
    case = compare.case(Elman(), 4, 3, 2, 3, seed=5)
    expected = torch_rnn(compare, case, "tanh")
    compare.agree(compare.hand(Elman(), case), expected)
    for block, cell in wrong_signs(Elman()):
        with pytest.raises(AssertionError, match=block):
            compare.agree(compare.hand(cell, case), expected)


@pytest.mark.parametrize("sizes", FEW_SIZES)
def test_outputs_and_gradients_are_those_of_flax(compare, sizes):
    linen = pytest.importorskip("flax.linen", reason="flax is the peer that is compared with")
    case = compare.case(Elman(), *sizes, seed=3)

    def step(params, h, x):
        peer = linen.SimpleCell(params["b"].shape[0], param_dtype=x.dtype)
        variables = {
            "i": {"kernel": params["U"].T, "bias": params["b"]},
            "h": {"kernel": params["W"].T},
        }
        return peer.apply({"params": variables}, h, x)

    compare.agree(compare.hand(Elman(), case), compare.jax(step, case))


@pytest.mark.parametrize("activation", list(activations.ACTIVATIONS))
def test_every_activation_can_be_chosen_by_name(activation):
    cell = Elman(activation=activation)
    params = cell.init(np.random.default_rng(0), 2, 3)
    xs = np.random.default_rng(1).standard_normal((1, 4, 2))
    ys, _, _ = unroll(cell, params, xs)
    z = xs[0] @ params["U"].T + params["b"]
    np.testing.assert_allclose(ys[0], activations.get(activation).value(z), rtol=1e-14)


def test_an_unknown_activation_is_refused_when_the_cell_is_made():
    with pytest.raises(ContractError, match="expected one of identity, tanh"):
        Elman(activation="tanhh")


def test_an_activation_of_ones_own_is_used():
    square = activations.Activation("square", np.square, lambda z: 2 * z)
    cell = Elman(activation=square)
    params = {"U": np.ones((1, 1)), "W": np.ones((1, 1)), "b": np.zeros(1)}
    _, y, cache = cell.step(params, np.array([[1.0]]), np.array([[2.0]]))
    _, d_h, _ = cell.step_vjp(params, cache, np.array([[0.0]]), np.array([[1.0]]))
    assert (y.item(), d_h.item()) == (9.0, 6.0)
