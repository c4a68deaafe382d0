from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck import backpropagate, trees, unroll
from bpttcheck.cells import BUILTINS, LSTM, Elman, builtin
from bpttcheck.errors import ContractError

SIZES = {
    "T": st.integers(0, 6),
    "B": st.integers(1, 4),
    "seed": st.integers(0, 2**32 - 1),
}


class HC(NamedTuple):
    h: np.ndarray
    c: np.ndarray


class Wrapped:
    """A cell whose state is another tree, with the same leaves."""

    def __init__(self, cell, wrap, unwrap):
        self.cell, self.wrap, self.unwrap = cell, wrap, unwrap
        self.init = cell.init

    def initial_state(self, params, batch_size):
        return self.wrap(self.cell.initial_state(params, batch_size))

    def step(self, params, state, x):
        state, y, cache = self.cell.step(params, self.unwrap(state), x)
        return self.wrap(state), y, cache

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_state, d_x = self.cell.step_vjp(params, cache, self.unwrap(d_state), d_y)
        return d_params, self.wrap(d_state), d_x


class Decaying:
    """``h' = h / (1 + n) + tanh(x w)`` with a counter ``n`` of the steps, and a switch, carried."""

    def init(self, rng, n_in, n_hidden):
        return {"w": rng.standard_normal((n_in, n_hidden))}

    def initial_state(self, params, batch_size):
        h = np.zeros((batch_size, params["w"].shape[1]), params["w"].dtype)
        return {"h": h, "n": np.zeros(batch_size, np.int64), "on": np.ones(batch_size, bool)}

    def step(self, params, state, x):
        gain = (1 / (1 + state["n"])).astype(x.dtype)[:, None]
        squashed = np.tanh(x @ params["w"])
        h = state["h"] * gain + squashed
        return {"h": h, "n": state["n"] + 1, "on": state["on"]}, h, (x, gain, squashed)

    def step_vjp(self, params, cache, d_state, d_y):
        x, gain, squashed = cache
        assert d_state["n"].shape == d_state["on"].shape == (len(x),)
        assert not d_state["n"].any()
        d_h = d_state["h"] + d_y
        d_z = d_h * (1 - squashed**2)
        # Garbage where zeros are due: the engine must not let it spread.
        d_previous = {"h": d_h * gain, "n": np.full(len(x), 7), "on": np.ones(len(x), bool)}
        return {"w": x.T @ d_z}, d_previous, d_z @ params["w"].T


TREES = {
    "a tuple": (lambda s: s, lambda s: s),
    "a NamedTuple": (lambda s: HC(*s), tuple),
    "a dict": (lambda s: {"h": s[0], "c": s[1]}, lambda s: (s["h"], s["c"])),
    "nested": (lambda s: ({"h": s[0]}, (s[1],)), lambda s: (s[0]["h"], s[1][0])),
}


def problem(cell, T, B, seed, n_in=3, n_hidden=2):
    """Parameters, inputs, an initial state, cotangents for both outputs, and a mask."""
    rng = np.random.default_rng(seed)
    params = cell.init(rng, n_in, n_hidden)

    def draw(leaf):
        floating = np.issubdtype(leaf.dtype, np.floating)
        return rng.standard_normal(leaf.shape) if floating else leaf

    xs, mask = rng.standard_normal((T, B, n_in)), rng.random((T, B)) < 0.6
    state0 = trees.map_leaves(draw, cell.initial_state(params, B))
    ys, state_T, _ = unroll(cell, params, xs, state0)
    return params, xs, state0, draw(ys), trees.map_leaves(draw, state_T), mask


def gradients_of(cell, params, xs, state0, d_ys, d_state_T, mask=None):
    _, _, tape = unroll(cell, params, xs, state0, mask)
    return backpropagate(cell, params, tape, d_ys, d_state_T)


def assert_same(got, expected, rtol=1e-12):
    for a, b in zip(trees.leaves(got), trees.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13)


def row(tree, b):
    return trees.map_leaves(lambda leaf: leaf[b : b + 1], tree)


def fingerprint(*trees_):
    leaves = [leaf for tree in trees_ for leaf in trees.leaves(tree)]
    return [hashlib.sha256(np.ascontiguousarray(leaf)).hexdigest() for leaf in leaves]


@pytest.mark.parametrize("name", list(BUILTINS))
@settings(deadline=None, max_examples=10)
@given(**SIZES)
def test_the_gradient_is_the_chain_of_the_steps_from_last_to_first(name, T, B, seed):
    cell = builtin(name)
    params, xs, state0, d_ys, d_state_T, _ = problem(cell, T, B, seed)
    _, _, tape = unroll(cell, params, xs, state0)
    got = backpropagate(cell, params, tape, d_ys, d_state_T)
    d_state, total = d_state_T, {k: np.zeros_like(v) for k, v in params.items()}
    for t in reversed(range(T)):
        assert_same(got.d_states[t + 1], d_state)
        _, _, cache = cell.step(params, tape.states[t], xs[t])
        d_step, d_state, d_x = cell.step_vjp(params, cache, d_state, d_ys[t])
        total = {k: total[k] + d_step[k] for k in total}
        np.testing.assert_array_equal(got.d_xs[t], d_x)
    assert_same(got.d_state0, d_state)
    assert_same(got.d_params, total)
    assert len(got.d_states) == T + 1
    assert got.d_states[0] is got.d_state0


@pytest.mark.parametrize("name", [*BUILTINS, "decaying"])
@settings(deadline=None, max_examples=10)
@given(**SIZES)
def test_a_masked_row_has_the_gradients_of_its_real_steps_alone(name, T, B, seed):
    cell = Decaying() if name == "decaying" else builtin(name)
    params, xs, state0, d_ys, d_state_T, mask = problem(cell, T, B, seed)
    got = gradients_of(cell, params, xs, state0, d_ys, d_state_T, mask)
    total = {k: np.zeros_like(v) for k, v in params.items()}
    for b in range(B):
        kept = mask[:, b]
        alone = gradients_of(
            cell, params, xs[kept, b : b + 1], row(state0, b), d_ys[kept, b : b + 1],
            row(d_state_T, b),
        )  # fmt: skip
        total = {k: total[k] + alone.d_params[k] for k in total}
        assert_same(got.d_xs[kept, b : b + 1], alone.d_xs)
        assert not got.d_xs[~kept, b].any()
        assert_same(row(got.d_state0, b), alone.d_state0)
        at = [0, *np.flatnonzero(kept) + 1]
        for t, adjoint in zip(at[1:], alone.d_states[1:], strict=True):
            assert_same(row(got.d_states[t], b), adjoint)
    assert_same(got.d_params, total)


@pytest.mark.parametrize("name", list(BUILTINS))
def test_nan_in_the_padding_of_inputs_and_cotangents_reaches_no_gradient(name):
    cell = builtin(name)
    params, xs, state0, d_ys, d_state_T, mask = problem(cell, 5, 3, seed=1)
    expected = gradients_of(cell, params, xs, state0, d_ys, d_state_T, mask)
    xs, d_ys = (np.where(mask[..., None], a, np.nan) for a in (xs, d_ys))
    got = gradients_of(cell, params, xs, state0, d_ys, d_state_T, mask)
    assert fingerprint(*got) == fingerprint(*expected)
    assert all(np.isfinite(leaf).all() for leaf in trees.leaves(tuple(got[:3])))


def test_multiplying_by_the_mask_would_not_have_been_enough():
    """The planted bug: zero cotangents for the masked rows, whose cache holds NaN."""
    params, xs, state0, d_ys, d_state_T, mask = problem(Elman(), 5, 3, seed=1)
    xs = np.where(mask[..., None], xs, np.nan)
    _, _, cache = Elman().step(params, state0, xs[0])
    assert not mask[0].all()
    d_params, _, _ = Elman().step_vjp(
        params, cache, d_state_T * mask[0][:, None], d_ys[0] * mask[0][:, None]
    )
    assert np.isnan(d_params["U"]).any()


@pytest.mark.parametrize("tree", list(TREES))
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("given_final", [False, True])
def test_the_kind_of_tree_that_the_state_is_makes_no_difference(tree, masked, given_final):
    wrap, unwrap = TREES[tree]
    params, xs, state0, d_ys, d_state_T, mask = problem(LSTM(), 5, 3, seed=2)
    mask, d_state_T = mask if masked else None, d_state_T if given_final else None
    expected = gradients_of(LSTM(), params, xs, state0, d_ys, d_state_T, mask)
    cell = Wrapped(LSTM(), wrap, unwrap)
    d_final = wrap(d_state_T) if given_final else None
    got = gradients_of(cell, params, xs, wrap(state0), d_ys, d_final, mask)
    assert trees.structure(got.d_state0) == trees.structure(wrap(state0))
    assert fingerprint(*got[:3], *got.d_states) == fingerprint(*expected[:3], *expected.d_states)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("given_final", [False, True])
def test_integer_and_boolean_leaves_are_carried_and_their_cotangent_is_zero(
    dtype, masked, given_final
):
    cell = Decaying()
    params, xs, state0, d_ys, _, mask = problem(cell, 5, 3, seed=3)
    params, xs, d_ys = trees.map_leaves(dtype, (params, xs, d_ys))
    state0 = {**state0, "h": state0["h"].astype(dtype)}
    mask = mask if masked else None
    _, state_T, tape = unroll(cell, params, xs, state0, mask)
    np.testing.assert_array_equal(state_T["n"], mask.sum(axis=0) if masked else [5, 5, 5])
    d_state_T = {"h": state_T["h"], "n": np.full(3, 9), "on": None} if given_final else None
    got = backpropagate(cell, params, tape, d_ys, d_state_T)
    for d_state in got.d_states:
        for leaf in ("n", "on"):
            assert (d_state[leaf].shape, d_state[leaf].dtype) == ((3,), np.dtype(dtype))
            assert not d_state[leaf].any()
        assert d_state["h"].dtype == dtype
    assert got.d_params["w"].dtype == dtype


def test_the_gradients_of_a_cell_with_a_counter_agree_with_autograd():
    torch = pytest.importorskip("torch", reason="torch is the peer that is compared with")
    cell = Decaying()
    params, xs, state0, d_ys, d_state_T, _ = problem(cell, 5, 3, seed=3)
    got = gradients_of(cell, params, xs, state0, d_ys, d_state_T)
    w, inputs, h0 = (torch.tensor(a, requires_grad=True) for a in (params["w"], xs, state0["h"]))
    h, loss = h0, 0.0
    for n, x in enumerate(inputs):
        h = h / (1 + n) + torch.tanh(x @ w)
        loss = loss + (torch.tensor(d_ys[n]) * h).sum()
    loss = loss + (torch.tensor(d_state_T["h"]) * h).sum()
    loss.backward()
    assert_same((got.d_params["w"], got.d_xs, got.d_state0["h"]), (w.grad, inputs.grad, h0.grad))


@pytest.mark.parametrize("name", list(BUILTINS))
def test_a_sequence_of_no_steps_gives_zero_gradients_and_passes_the_adjoint_through(name):
    cell = builtin(name)
    params, xs, state0, d_ys, d_state_T, _ = problem(cell, 0, 3, seed=0)
    got = gradients_of(cell, params, xs, state0, d_ys, d_state_T)
    assert not any(value.any() for value in got.d_params.values())
    assert got.d_xs.shape == (0, 3, 3)
    assert_same(got.d_state0, d_state_T)
    assert len(got.d_states) == 1


def test_a_mask_that_is_false_everywhere_passes_the_adjoint_through():
    params, xs, state0, d_ys, d_state_T, _ = problem(LSTM(), 4, 3, seed=0)
    got = gradients_of(LSTM(), params, xs, state0, d_ys, d_state_T, np.zeros((4, 3), bool))
    assert not any(a.any() for a in (got.d_xs, *got.d_params.values()))
    for d_state in got.d_states:
        assert_same(d_state, d_state_T)


@pytest.mark.parametrize("name", list(BUILTINS))
def test_cotangents_that_are_left_out_are_zero(name):
    cell = builtin(name)
    params, xs, state0, d_ys, d_state_T, mask = problem(cell, 4, 3, seed=0)
    zero_ys, zero_state = trees.map_leaves(np.zeros_like, (d_ys, d_state_T))
    _, _, tape = unroll(cell, params, xs, state0, mask)
    for given_ys, given_state in ((None, d_state_T), (d_ys, None), (None, None)):
        got = backpropagate(cell, params, tape, given_ys, given_state)
        full = backpropagate(
            cell,
            params,
            tape,
            zero_ys if given_ys is None else given_ys,
            zero_state if given_state is None else given_state,
        )
        assert fingerprint(*got[:3]) == fingerprint(*full[:3])


@pytest.mark.parametrize("name", list(BUILTINS))
@pytest.mark.parametrize("masked", [False, True])
def test_nothing_that_is_passed_in_is_changed_and_the_tape_serves_twice(name, masked):
    cell = builtin(name)
    params, xs, state0, d_ys, d_state_T, mask = problem(cell, 4, 3, seed=0)
    given = (params, xs, state0, d_ys, d_state_T, mask)
    before = fingerprint(*given)
    _, _, tape = unroll(cell, params, xs, state0, mask if masked else None)
    first = backpropagate(cell, params, tape, d_ys, d_state_T)
    kept = fingerprint(*first[:3], *first.d_states)
    other = backpropagate(cell, params, tape, -d_ys, None)
    second = backpropagate(cell, params, tape, d_ys, d_state_T)
    assert fingerprint(*given) == before
    assert fingerprint(*first[:3], *first.d_states) == kept
    assert fingerprint(*second[:3], *second.d_states) == kept
    assert fingerprint(other.d_xs) != fingerprint(first.d_xs)


@pytest.mark.parametrize("name", list(BUILTINS))
@pytest.mark.parametrize("masked", [False, True])
def test_float32_stays_float32(name, masked):
    cell = builtin(name)
    *floats, mask = problem(cell, 4, 3, seed=0)
    params, xs, state0, d_ys, d_state_T = trees.map_leaves(np.float32, tuple(floats))
    _, _, tape = unroll(cell, params, xs, state0, mask if masked else None)
    for cotangents in ((d_ys, d_state_T), (d_ys, None), (None, d_state_T)):
        got = backpropagate(cell, params, tape, *cotangents)
        assert {leaf.dtype for leaf in trees.leaves((*got[:3], *got.d_states))} == {np.dtype("f4")}


@pytest.mark.parametrize("name", list(BUILTINS))
@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_adjoint_of_a_state_is_the_derivative_of_the_loss_from_there_on(name, seed):
    cell = builtin(name)
    params, xs, state0, d_ys, d_state_T, _ = problem(cell, 5, 2, seed)
    _, _, tape = unroll(cell, params, xs, state0)
    got = backpropagate(cell, params, tape, d_ys, d_state_T)
    for t in range(5):
        suffix = gradients_of(cell, params, xs[t:], tape.states[t], d_ys[t:], d_state_T)
        assert fingerprint(got.d_states[t]) == fingerprint(suffix.d_state0)


class Returning(Elman):
    """An Elman cell whose backward step returns something else than it should."""

    def step_vjp(self, params, cache, d_state, d_y):
        return self.spoil(*super().step_vjp(params, cache, d_state, d_y))


def without_b(d_params, d_state, d_x):
    return {k: v for k, v in d_params.items() if k != "b"}, d_state, d_x


def with_one_more(d_params, d_state, d_x):
    return {**d_params, "extra": d_x}, d_state, d_x


def with_a_bias_for_a_matrix(d_params, d_state, d_x):
    return {**d_params, "W": d_params["b"]}, d_state, d_x


def with_the_batch_summed(d_params, d_state, d_x):
    return d_params, d_state, d_x.sum(axis=0)


def with_the_state_summed(d_params, d_state, d_x):
    return d_params, d_state.sum(axis=0), d_x


@pytest.mark.parametrize(
    ("spoil", "item", "message"),
    [
        (without_b, "d_params", r"\['U', 'W'\], expected .*\['U', 'W', 'b'\]"),
        (with_one_more, "d_params", r"\['U', 'W', 'b', 'extra'\], expected"),
        (with_a_bias_for_a_matrix, "d_params['W']", r"\.shape=\(2,\), but should be \(2, 2\)"),
        (with_the_batch_summed, "d_x", r"d_x\.shape=\(3,\), but should be \(\d, 3\)"),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_what_would_vanish_or_be_broadcast_is_refused(spoil, item, message, masked):
    cell = type("Spoilt", (Returning,), {"spoil": staticmethod(spoil)})()
    params, xs, state0, d_ys, d_state_T, mask = problem(cell, 4, 3, seed=0)
    with pytest.raises(ContractError, match=message) as error:
        gradients_of(cell, params, xs, state0, d_ys, d_state_T, mask if masked else None)
    assert (error.value.method, error.value.item) == ("step_vjp", item)


def test_a_masked_state_cotangent_that_would_be_broadcast_is_refused():
    cell = type("Spoilt", (Returning,), {"spoil": staticmethod(with_the_state_summed)})()
    params, xs, state0, d_ys, d_state_T, _ = problem(cell, 1, 3, seed=0)
    mask = np.array([[True, False, True]])
    with pytest.raises(ContractError, match=r"d_previous_state\.shape=\(2,\), .*\(2, 2\)"):
        gradients_of(cell, params, xs, state0, d_ys, d_state_T, mask)


def test_output_cotangents_of_another_shape_than_the_outputs_are_refused():
    params, xs, state0, d_ys, _, _ = problem(Elman(), 4, 3, seed=0)
    _, _, tape = unroll(Elman(), params, xs, state0)
    with pytest.raises(ContractError, match=r"d_ys\.shape=\(4, 3, 1\), .* \(4, 3, 2\)"):
        backpropagate(Elman(), params, tape, d_ys[..., :1])


def test_the_gradient_through_seventy_steps_is_not_truncated():
    class Integrator(Elman):
        def step(self, params, state, x):
            new = state + x @ params["U"].T
            return new, new, x

        def step_vjp(self, params, cache, d_state, d_y):
            d = d_state + d_y
            zeros = {"W": np.zeros_like(params["W"]), "b": np.zeros_like(params["b"])}
            return {"U": d.T @ cache, **zeros}, d, d @ params["U"]

    params, xs, state0, _, d_state_T, _ = problem(Integrator(), 70, 2, seed=0)
    got = gradients_of(Integrator(), params, xs, state0, None, d_state_T)
    np.testing.assert_array_equal(got.d_state0, d_state_T)
    assert_same(got.d_params["U"], d_state_T.T @ xs.sum(axis=0))


def test_masked_lstm_gradients_are_those_of_torch_on_packed_sequences():
    torch = pytest.importorskip("torch", reason="torch is the peer that is compared with")
    params, xs, state0, d_ys, d_state_T, _ = problem(LSTM(), 6, 3, seed=4)
    lengths = [6, 4, 1]
    mask = np.arange(6)[:, None] < np.array(lengths)
    got = gradients_of(LSTM(), params, xs, state0, d_ys, d_state_T, mask)
    peer = torch.nn.LSTM(3, 2, dtype=torch.float64)
    with torch.no_grad():
        peer.weight_ih_l0.copy_(torch.tensor(params["W_ih"]))
        peer.weight_hh_l0.copy_(torch.tensor(params["W_hh"]))
        peer.bias_ih_l0.copy_(torch.tensor(params["b"]))
        peer.bias_hh_l0.zero_()
    inputs = torch.tensor(xs, requires_grad=True)
    h0, c0 = (torch.tensor(leaf[None], requires_grad=True) for leaf in state0)
    packed = torch.nn.utils.rnn.pack_padded_sequence(inputs, lengths)
    outputs, (h_T, c_T) = peer(packed, (h0, c0))
    ys, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs)
    loss = (ys * torch.tensor(d_ys)).sum()
    loss = loss + (h_T[0] * torch.tensor(d_state_T[0])).sum()
    loss = loss + (c_T[0] * torch.tensor(d_state_T[1])).sum()
    loss.backward()
    expected = {
        "W_ih": peer.weight_ih_l0.grad.numpy(),
        "W_hh": peer.weight_hh_l0.grad.numpy(),
        "b": peer.bias_ih_l0.grad.numpy(),
    }
    assert_same(got.d_params, expected)
    assert_same((got.d_xs, *got.d_state0), (inputs.grad, h0.grad[0], c0.grad[0]))
    assert_same(unroll(LSTM(), params, xs, state0, mask)[0], ys.detach().numpy())
