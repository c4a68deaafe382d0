from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck.cells import LSTM

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
# T, B, n_in, n_hidden: few, because JAX compiles every one of them.
FEW_SIZES = [(1, 1, 1, 1), (5, 3, 2, 4)]


def torch_lstm(compare, case):
    torch = pytest.importorskip("torch", reason="torch is the peer that is compared with")
    N, H = case.params["W_ih"].shape[1], case.params["W_hh"].shape[1]
    lstm = torch.nn.LSTM(N, H, dtype=torch.float64)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.tensor(case.params["W_ih"]))
        lstm.weight_hh_l0.copy_(torch.tensor(case.params["W_hh"]))
        lstm.bias_ih_l0.copy_(torch.tensor(case.params["b"]))
        lstm.bias_hh_l0.zero_()
    xs = torch.tensor(case.xs, requires_grad=True)
    state0 = [torch.tensor(leaf[None], requires_grad=True) for leaf in case.state0]
    ys, state_T = lstm(xs, tuple(state0))
    loss = (ys * torch.tensor(case.d_ys)).sum()
    pairs = zip(state_T, case.d_state_T, strict=True)
    loss = loss + sum((leaf[0] * torch.tensor(d)).sum() for leaf, d in pairs)
    loss.backward()
    grads = {"W_ih": lstm.weight_ih_l0, "W_hh": lstm.weight_hh_l0, "b": lstm.bias_ih_l0}
    return compare.named(
        ys.detach(),
        tuple(leaf[0].detach().numpy() for leaf in state_T),
        {name: p.grad.numpy() for name, p in grads.items()},
        xs.grad,
        tuple(leaf.grad[0].numpy() for leaf in state0),
    )


@settings(deadline=None, max_examples=25)
@given(**SIZES)
def test_outputs_and_gradients_are_those_of_torch(compare, **sizes):
    case = compare.case(LSTM(), **sizes)
    compare.agree(compare.hand(LSTM(), case), torch_lstm(compare, case))


def test_every_wrong_sign_is_caught_by_the_comparison_with_torch(compare, wrong_signs):
    case = compare.case(LSTM(), 4, 3, 2, 3, seed=5)
    expected = torch_lstm(compare, case)
    compare.agree(compare.hand(LSTM(), case), expected)
    for block, cell in wrong_signs(LSTM()):
        with pytest.raises(AssertionError, match=block):
            compare.agree(compare.hand(cell, case), expected)


def test_two_gates_in_the_wrong_order_are_caught_by_the_comparison_with_torch(compare):
    class SwappedGates(LSTM):
        def step_vjp(self, params, cache, d_state, d_y):
            d_params, d_state, d_x = super().step_vjp(params, cache, d_state, d_y)
            i, f, g, o = np.split(d_params["W_hh"], 4)
            return {**d_params, "W_hh": np.concatenate([f, i, g, o])}, d_state, d_x

    case = compare.case(LSTM(), 4, 3, 2, 3, seed=5)
    with pytest.raises(AssertionError, match="'d_W_hh'"):
        compare.agree(compare.hand(SwappedGates(), case), torch_lstm(compare, case))


@pytest.mark.parametrize("sizes", FEW_SIZES)
def test_outputs_and_gradients_are_those_of_equinox(compare, sizes):
    eqx = pytest.importorskip("equinox", reason="equinox is the peer that is compared with")
    import jax

    case = compare.case(LSTM(), *sizes, seed=3)
    N, H = case.params["W_ih"].shape[1], case.params["W_hh"].shape[1]
    template = eqx.nn.LSTMCell(N, H, key=jax.random.key(0))

    def step(params, state, x):
        weights = (params["W_ih"], params["W_hh"], params["b"])
        peer = eqx.tree_at(lambda m: (m.weight_ih, m.weight_hh, m.bias), template, weights)
        h, c = jax.vmap(peer)(x, state)
        return (h, c), h

    compare.agree(compare.hand(LSTM(), case), compare.jax(step, case))


@pytest.mark.parametrize("sizes", FEW_SIZES)
def test_outputs_and_gradients_are_those_of_flax(compare, sizes):
    linen = pytest.importorskip("flax.linen", reason="flax is the peer that is compared with")
    import jax

    case = compare.case(LSTM(), *sizes, seed=3)

    def step(params, state, x):
        variables = {}
        split = [jax.numpy.split(params[name], 4) for name in ("W_ih", "W_hh", "b")]
        for gate, W_ih, W_hh, b in zip("ifgo", *split, strict=True):
            variables["i" + gate] = {"kernel": W_ih.T}
            variables["h" + gate] = {"kernel": W_hh.T, "bias": b}
        h, c = state
        peer = linen.LSTMCell(h.shape[1], param_dtype=x.dtype)
        (c, h), y = peer.apply({"params": variables}, (c, h), x)
        return (h, c), y

    compare.agree(compare.hand(LSTM(), case), compare.jax(step, case))
