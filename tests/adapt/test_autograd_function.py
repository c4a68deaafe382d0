from __future__ import annotations

import sys

import jax
import numpy as np
import pytest

from bpttcheck.adapt import from_autograd_function
from bpttcheck.contract import is_cell, is_layer
from bpttcheck.errors import ContractError

torch = pytest.importorskip("torch", reason="torch is not installed")

TABLE = {"W": ("n_hidden", "n_in"), "U": ("n_hidden", "n_hidden")}
DTYPES = [np.float64, np.float32]
Function = torch.autograd.Function


class Elman(Function):
    @staticmethod
    def forward(ctx, x, h, W, U):
        new = torch.tanh(x @ W.T + h @ U.T)
        ctx.save_for_backward(x, h, W, U, new)
        return new

    @staticmethod
    def backward(ctx, d_new):
        x, h, W, U, new = ctx.saved_tensors
        d_pre = d_new * (1 - new**2)
        return d_pre @ W, d_pre @ U, d_pre.T @ x, d_pre.T @ h


class TransposedElman(Elman):
    @staticmethod
    def backward(ctx, d_new):
        d_x, d_h, d_W, d_U = Elman.backward(ctx, d_new)
        return d_x, d_h, d_W, d_U.T


class TwoStates(Function):
    @staticmethod
    def forward(ctx, x, h, c, W, U):
        pre = torch.tanh(x @ W.T + h @ U.T)
        new_c = 0.5 * c + pre
        ctx.save_for_backward(x, h, W, U, pre)
        return 2 * new_c, torch.sin(pre), new_c

    @staticmethod
    def backward(ctx, d_y, d_h, d_c):
        x, h, W, U, pre = ctx.saved_tensors
        d_new_c = 2 * d_y + d_c
        d_pre = (d_new_c + d_h * torch.cos(pre)) * (1 - pre**2)
        return d_pre @ W, d_pre @ U, 0.5 * d_new_c, d_pre.T @ x, d_pre.T @ h


class Sequence(Function):
    @staticmethod
    def forward(ctx, xs, h, W, U):
        ys = [h]
        for x in xs:
            ys.append(torch.tanh(x @ W.T + ys[-1] @ U.T))
        ctx.save_for_backward(xs, W, U, torch.stack(ys))
        return torch.stack(ys)[1:]

    @staticmethod
    def backward(ctx, d_ys):
        xs, W, U, ys = ctx.saved_tensors
        d_h, d_W, d_U, d_xs = torch.zeros_like(ys[0]), W * 0, U * 0, torch.zeros_like(xs)
        for t in reversed(range(len(xs))):
            d_pre = (d_h + d_ys[t]) * (1 - ys[t + 1] ** 2)
            d_W, d_U = d_W + d_pre.T @ xs[t], d_U + d_pre.T @ ys[t]
            d_h, d_xs[t] = d_pre @ U, d_pre @ W
        return d_xs, d_h, d_W, d_U


def adapted(F, **options):
    return from_autograd_function(F, init=TABLE, **options)


def problem(cell, dtype=np.float64, T=None):
    rng = np.random.default_rng(0)
    params = {name: value.astype(dtype) for name, value in cell.init(rng, 3, 2).items()}
    lead = () if T is None else (T,)
    shapes = [(4, 2), (*lead, 4, 3), (4, 2), (*lead, 4, 2)]
    return params, *(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def hand_gradients(cell, dtype=np.float64):
    params, state, x, d_state, d_y = problem(cell, dtype)
    return cell.step_vjp(params, cell.step(params, state, x)[2], d_state, d_y)


def true_gradients(cell, dtype=np.float64):
    params, state, x, d_state, d_y = problem(cell, dtype)
    new = np.tanh(x @ params["W"].T + state @ params["U"].T)
    d_pre = (d_state + d_y) * (1 - new**2)
    return {"W": d_pre.T @ x, "U": d_pre.T @ state}, d_pre @ params["U"], d_pre @ params["W"]


def assert_close(found, expected, dtype=np.float64):
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert f.dtype == dtype
        np.testing.assert_allclose(f, e, rtol=0, atol=100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_backward_gives_the_true_gradient(dtype):
    cell = adapted(Elman)
    assert is_cell(cell)
    assert not is_layer(cell)
    assert_close(hand_gradients(cell, dtype), true_gradients(cell, dtype), dtype)


def test_the_forward_pass_is_that_of_the_function():
    cell = adapted(Elman)
    params, state, x, *_ = problem(cell)
    new, y, _ = cell.step(params, state, x)
    np.testing.assert_allclose(new, np.tanh(x @ params["W"].T + state @ params["U"].T), rtol=1e-13)
    np.testing.assert_array_equal(new, y)
    assert not np.shares_memory(new, y)


def test_a_wrong_block_is_the_only_one_that_differs():
    cell = adapted(TransposedElman)
    found, expected = hand_gradients(cell), true_gradients(cell)
    assert np.abs(found[0]["U"] - expected[0]["U"]).max() > 0.1
    expected[0]["U"] = expected[0]["U"].T
    assert_close(found, expected)


@pytest.mark.parametrize(
    "pack", [lambda h, c: (h, c), lambda h, c: {"h": h, "c": c}], ids=["tuple", "dict"]
)
def test_each_result_gets_its_own_cotangent(pack):
    cell = adapted(TwoStates)
    params, h, x, d_h, d_y = problem(cell)
    state, d_state = pack(h, h - 1), pack(d_h, d_h + 1)
    new, _, cache = cell.step(params, state, x)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    found = cell.step_vjp(params, cache, d_state, d_y)
    assert jax.tree.structure(found[1]) == jax.tree.structure(state)

    def loss(params, h, c, x):
        pre = np.tanh(x @ params["W"].T + h @ params["U"].T)
        new_c = 0.5 * c + pre
        return (np.sin(pre) * d_h + new_c * (d_h + 1) + 2 * new_c * d_y).sum()

    step = 1e-6
    along = np.random.default_rng(1).standard_normal(h.shape)
    for name, gradient in zip("hc", cell_leaves(found[1]), strict=True):
        at = {"h": h, "c": h - 1}
        up, down = ({**at, name: at[name] + s * along} for s in (step, -step))
        difference = (loss(params, x=x, **up) - loss(params, x=x, **down)) / (2 * step)
        np.testing.assert_allclose((gradient * along).sum(), difference, rtol=1e-7)


def cell_leaves(state):
    return list(state.values()) if isinstance(state, dict) else list(state)


@pytest.mark.parametrize("T", [0, 1, 5])
def test_a_sequence_makes_a_layer(T):
    layer = adapted(Sequence, sequence=True)
    assert is_layer(layer)
    assert not is_cell(layer)
    assert layer.supports_mask is False
    cell = adapted(Elman)
    params, state0, xs, d_last, d_ys = problem(layer, T=T)
    ys, last, tape = layer.forward(params, xs, state0)
    d_params, d_xs, d_state0 = layer.vjp(params, tape, d_ys, d_last)
    state, caches = state0, []
    for x in xs:
        state, _, cache = cell.step(params, state, x)
        caches.append(cache)
    np.testing.assert_allclose(last, state, rtol=1e-13)
    assert ys.shape == (T, 4, 2)
    d_state, d_W = d_last, np.zeros_like(params["W"])
    for t in reversed(range(T)):
        step, d_state, d_x = cell.step_vjp(params, caches[t], d_state, d_ys[t])
        d_W += step["W"]
        np.testing.assert_allclose(d_xs[t], d_x, rtol=1e-12)
    np.testing.assert_allclose(d_state0, d_state, rtol=1e-12)
    np.testing.assert_allclose(d_params["W"], d_W, rtol=1e-12)


def test_arguments_are_put_together_as_the_function_wants_them():
    class Fused(Function):
        @staticmethod
        def forward(ctx, weights, inputs):
            new = torch.tanh(inputs @ weights)
            ctx.save_for_backward(weights, inputs, new)
            return new, new.clone()

        @staticmethod
        def backward(ctx, d_y, d_state):
            weights, inputs, new = ctx.saved_tensors
            d_pre = (d_y + d_state) * (1 - new**2)
            return inputs.T @ d_pre, d_pre @ weights.T

    def arguments(params, state, x):
        return torch.cat([params["W"], params["U"]], 1).T, torch.cat([x, state], 1)

    cell = adapted(Fused, arguments=arguments)
    assert_close(hand_gradients(cell), true_gradients(cell))
    with pytest.raises(ContractError, match=r"arguments=3 .* is not callable"):
        adapted(Fused, arguments=3)
    listed = adapted(Fused, arguments=lambda *inputs: list(arguments(*inputs)))
    with pytest.raises(ContractError, match=r"expected a tuple of what Fused\.apply takes"):
        hand_gradients(listed)


def test_a_parameter_that_is_not_passed_has_the_gradient_zero():
    cell = from_autograd_function(
        Elman,
        init={**TABLE, "unused": (3,)},
        arguments=lambda params, state, x: (x, state, params["W"], params["U"]),
    )
    assert not hand_gradients(cell)[0]["unused"].any()


def test_results_that_carry_no_gradient_are_named():
    class Cut(Elman):
        @staticmethod
        def forward(ctx, x, h, W, U):
            new = Elman.forward(ctx, x, h, W, U)
            ctx.mark_non_differentiable(new)
            return new

    with pytest.raises(ContractError, match=r"no result of Cut\.apply carries a gradient"):
        hand_gradients(adapted(Cut))


def test_the_wrong_number_of_results_is_named():
    cell = adapted(Elman)
    params, state, x, *_ = problem(cell)
    both = adapted(Elman, arguments=lambda p, s, x: (x, s[0], p["W"], p["U"]))
    with pytest.raises(ContractError, match=r"1 tensors, expected 3.*a tuple of 2"):
        both.step(params, (state, state), x)


def test_integer_leaves_are_carried_and_have_zero_cotangents():
    class Counting(Function):
        @staticmethod
        def forward(ctx, x, h, count, W, U):
            new = Elman.forward(ctx, x, h, W, U)
            ctx.mark_non_differentiable(count)
            return new, new.clone(), count + 1

        @staticmethod
        def backward(ctx, d_y, d_h, _):
            d_x, d_h, d_W, d_U = Elman.backward(ctx, d_y + d_h)
            return d_x, d_h, None, d_W, d_U

    cell = adapted(Counting)
    params, h, x, d_h, d_y = problem(cell)
    count = np.full((4, 1), 5)
    new, _, cache = cell.step(params, (h, count), x)
    np.testing.assert_array_equal(new[1], count + 1)
    _, d_state, _ = cell.step_vjp(params, cache, (d_h, np.zeros_like(count)), d_y)
    np.testing.assert_array_equal(d_state[1], 0 * count)
    np.testing.assert_allclose(d_state[0], true_gradients(cell)[1], rtol=1e-12)


def test_the_cache_serves_twice_and_what_is_returned_is_the_callers_own():
    cell = adapted(Elman)
    params, state, x, d_state, d_y = problem(cell)
    _, _, cache = cell.step(params, state, x)
    first = cell.step_vjp(params, cache, d_state, d_y)
    second = cell.step_vjp(params, cache, d_state, d_y)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.shares_memory(a, b)


def test_a_forward_that_writes_into_its_input_is_not_hidden():
    class Careless(Elman):
        @staticmethod
        def forward(ctx, x, h, W, U):
            new = Elman.forward(ctx, x, h, W, U)
            h.copy_(new)
            return new

    cell = adapted(Careless)
    params, state, x, *_ = problem(cell)
    before = state.copy()
    cell.step(params, state, x)
    assert (state != before).all()


def test_read_only_reversed_and_transposed_arrays_are_accepted():
    cell = adapted(Elman)
    params, state, x, d_state, d_y = problem(cell)
    _, _, cache = cell.step(params, state, x)
    expected = cell.step_vjp(params, cache, d_state, d_y)
    state.flags.writeable = False
    x = x[::-1].copy()[::-1]
    params = {name: np.asfortranarray(value) for name, value in params.items()}
    _, _, cache = cell.step(params, state, x)
    assert_close(cell.step_vjp(params, cache, d_state, d_y), expected)


def test_an_init_written_in_torch_gives_arrays_of_its_own():
    weights = torch.nn.Linear(3, 2).weight

    def init(rng, n_in, n_hidden):
        return {"W": weights, "U": torch.eye(2)}

    cell = from_autograd_function(
        Elman, init=init, initial_state=lambda params, B: torch.zeros(B, 2)
    )
    params = cell.init(np.random.default_rng(0), 3, 2)
    assert all(isinstance(value, np.ndarray) for value in params.values())
    assert not np.shares_memory(params["W"], weights.detach().numpy())
    assert isinstance(cell.initial_state(params, 3), np.ndarray)


class NoBackward(Function):
    @staticmethod
    def forward(ctx, x):
        return x


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (Elman.apply, "give the class itself, not an instance and not F.apply"),
        (object(), "give the class itself"),
        (None, "give the class itself"),
        (torch.nn.RNNCell, "expected a subclass of torch.autograd.Function"),
        (NoBackward, "has no backward"),
    ],
    ids=["apply", "instance", "none", "module", "no backward"],
)
def test_what_is_no_function_with_a_backward_is_refused(wrong, says):
    with pytest.raises(ContractError, match=says):
        adapted(wrong)


def test_a_reference_is_carried_along():
    def step(params, state, x):
        raise NotImplementedError

    assert adapted(Elman).reference is None
    cell = adapted(Elman, reference=step)
    assert cell.reference is step
    assert repr(cell) == "<cell 'Elman' from_autograd_function, reference=step>"
    with pytest.raises(ContractError, match="reference=3"):
        adapted(Elman, reference=3)


def test_without_torch_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "torch.autograd", None)
    with pytest.raises(ContractError, match="pip install torch"):
        adapted(Elman)
