from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck.cells import GRUResetAfter

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


def torch_gru(compare, case):
    torch = pytest.importorskip("torch", reason="torch is the peer that is compared with")
    N, H = case.params["W_ih"].shape[1], case.params["W_hh"].shape[1]
    gru = torch.nn.GRU(N, H, dtype=torch.float64)
    with torch.no_grad():
        gru.weight_ih_l0.copy_(torch.tensor(case.params["W_ih"]))
        gru.weight_hh_l0.copy_(torch.tensor(case.params["W_hh"]))
        gru.bias_ih_l0.copy_(torch.tensor(case.params["b"]))
        gru.bias_hh_l0.zero_()
        gru.bias_hh_l0[2 * H :] = torch.tensor(case.params["b_hn"])
    xs = torch.tensor(case.xs, requires_grad=True)
    h0 = torch.tensor(case.state0[None], requires_grad=True)
    ys, h_T = gru(xs, h0)
    loss = (ys * torch.tensor(case.d_ys)).sum() + (h_T[0] * torch.tensor(case.d_state_T)).sum()
    loss.backward()
    return compare.named(
        ys.detach(),
        h_T[0].detach().numpy(),
        {
            "W_ih": gru.weight_ih_l0.grad.numpy(),
            "W_hh": gru.weight_hh_l0.grad.numpy(),
            "b": gru.bias_ih_l0.grad.numpy(),
            "b_hn": gru.bias_hh_l0.grad[2 * H :].numpy(),
        },
        xs.grad,
        h0.grad[0].numpy(),
    )


@settings(deadline=None, max_examples=25)
@given(**SIZES)
def test_outputs_and_gradients_are_those_of_torch(compare, **sizes):
    case = compare.case(GRUResetAfter(), **sizes)
    compare.agree(compare.hand(GRUResetAfter(), case), torch_gru(compare, case))


def test_every_wrong_sign_is_caught_by_the_comparison_with_torch(compare, wrong_signs):
    case = compare.case(GRUResetAfter(), 4, 3, 2, 3, seed=5)
    expected = torch_gru(compare, case)
    compare.agree(compare.hand(GRUResetAfter(), case), expected)
    for block, cell in wrong_signs(GRUResetAfter()):
        with pytest.raises(AssertionError, match=block):
            compare.agree(compare.hand(cell, case), expected)


@pytest.mark.parametrize("sizes", FEW_SIZES)
def test_outputs_and_gradients_are_those_of_equinox(compare, sizes):
    eqx = pytest.importorskip("equinox", reason="equinox is the peer that is compared with")
    import jax

    case = compare.case(GRUResetAfter(), *sizes, seed=3)
    N, H = case.params["W_ih"].shape[1], case.params["W_hh"].shape[1]
    template = eqx.nn.GRUCell(N, H, key=jax.random.key(0))

    def step(params, h, x):
        weights = tuple(params[name] for name in ("W_ih", "W_hh", "b", "b_hn"))
        peer = eqx.tree_at(
            lambda m: (m.weight_ih, m.weight_hh, m.bias, m.bias_n), template, weights
        )
        h = jax.vmap(peer)(x, h)
        return h, h

    compare.agree(compare.hand(GRUResetAfter(), case), compare.jax(step, case))


@pytest.mark.parametrize("sizes", FEW_SIZES)
def test_outputs_and_gradients_are_those_of_flax(compare, sizes):
    linen = pytest.importorskip("flax.linen", reason="flax is the peer that is compared with")
    import jax

    case = compare.case(GRUResetAfter(), *sizes, seed=3)

    def step(params, h, x):
        variables = {}
        split = [jax.numpy.split(params[name], 3) for name in ("W_ih", "W_hh", "b")]
        for gate, W_ih, W_hh, b in zip("rzn", *split, strict=True):
            variables["i" + gate] = {"kernel": W_ih.T, "bias": b}
            variables["h" + gate] = {"kernel": W_hh.T}
        variables["hn"]["bias"] = params["b_hn"]
        return linen.GRUCell(h.shape[1], param_dtype=x.dtype).apply({"params": variables}, h, x)

    compare.agree(compare.hand(GRUResetAfter(), case), compare.jax(step, case))


def test_the_two_biases_of_the_candidate_have_gradients_of_their_own(compare):
    case = compare.case(GRUResetAfter(), 3, 2, 2, 3, seed=1)
    gradients = compare.hand(GRUResetAfter(), case)
    assert not np.allclose(gradients["d_b"][6:], gradients["d_b_hn"], rtol=1e-2)
