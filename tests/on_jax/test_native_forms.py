import ast
import dataclasses
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpttcheck import cells, on_jax
from bpttcheck.activations import ACTIVATIONS as NUMPY_ACTIVATIONS
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.on_jax.activations import ACTIVATIONS
from bpttcheck.on_jax.function import form_of

SOURCES = sorted(Path(importlib.util.find_spec("bpttcheck.on_jax").origin).parent.glob("*.py"))
AUTODIFF = {"grad", "value_and_grad", "vjp", "jvp", "jacrev", "jacfwd", "hessian", "linearize"}


@pytest.mark.sampled(4)
def test_gradients_are_those_of_autodiff_to_rounding(kit, x64, twin):
    cell, step = twin
    problem = kit.problem(cell)
    found = kit.pull_back(on_jax.layer(cell), problem)
    kit.assert_equal(found, kit.pull_back(kit.scan(step), problem))


@pytest.mark.sampled(3)
def test_masked_gradients_are_those_of_autodiff_to_rounding(kit, x64, gated):
    cell, step = gated
    problem = kit.problem(cell, masked=True)
    found = kit.pull_back(on_jax.layer(cell), problem)
    kit.assert_equal(found, kit.pull_back(kit.scan(step), problem))


def test_what_stands_in_the_padding_has_no_effect(kit, x64, two):
    cell, _ = two
    problem = kit.problem(cell, masked=True)
    params, xs, state0 = problem.arguments
    d_ys, d_state = problem.cotangents
    padding = ~problem.mask[..., None]
    filled = dataclasses.replace(
        problem,
        arguments=(params, np.where(padding, np.nan, xs), state0),
        cotangents=(np.where(padding, np.nan, d_ys), d_state),
    )
    f = on_jax.layer(cell)
    kit.assert_equal(kit.pull_back(f, filled), kit.pull_back(f, problem))


def test_float32_stays_float32(kit, two):
    cell, step = two
    problem = kit.problem(cell, dtype=np.float32)
    found = kit.pull_back(on_jax.layer(cell), problem)
    kit.assert_equal(found, kit.pull_back(kit.scan(step), problem), np.float32)


def test_a_sequence_of_no_steps_passes_the_state_through(kit, x64, two):
    cell, _ = two
    problem = kit.problem(cell, T=0)
    (ys, state_T), (d_params, d_xs, d_state0) = kit.pull_back(on_jax.layer(cell), problem)
    assert ys.shape[0] == d_xs.shape[0] == 0
    assert not any(value.any() for value in d_params.values())
    passed = jax.tree.map(jnp.asarray, (problem.arguments[2], problem.cotangents[1]))
    kit.assert_equal((state_T, d_state0), passed)


def loss_of(f):
    def loss(params, xs, state0):
        ys, state_T = f(params, xs, state0)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(state_T))

    return loss


def test_vmap_of_grad_over_sequences_is_one_grad_for_each(kit, x64, two):
    cell, step = two
    params, xs, state0 = kit.problem(cell).arguments
    many = np.stack([xs, 2 * xs, xs - 1])
    found, expected = (
        kit.run(jax.vmap(jax.grad(loss_of(f), (0, 1)), (None, 0, None)), params, many, state0)
        for f in (on_jax.layer(cell), kit.scan(step))
    )
    kit.assert_equal(found, expected)


def test_vmap_of_grad_over_parameters_is_one_grad_for_each(kit, x64):
    cell, step = kit.twins["gru_reset_after"]
    params, xs, state0 = kit.problem(cell).arguments
    many = {name: np.stack([value, -value]) for name, value in params.items()}
    found, expected = (
        kit.run(jax.vmap(jax.grad(loss_of(f)), (0, None, None)), many, xs, state0)
        for f in (on_jax.layer(cell), kit.scan(step))
    )
    kit.assert_equal(found, expected)


def test_grad_without_jit_is_grad_with_it(kit, x64):
    cell, _ = kit.twins["elman[tanh]"]
    arguments = kit.problem(cell).arguments
    gradient = jax.grad(loss_of(on_jax.layer(cell)), (0, 1, 2))
    kit.assert_equal(gradient(*arguments), kit.run(gradient, *arguments))


def test_grad_through_a_scan_over_windows_is_that_of_the_whole_sequence(kit, x64, two):
    cell, _ = two
    params, xs, state0 = kit.problem(cell, T=6).arguments
    f = on_jax.layer(cell)

    def in_windows(params, xs, state0):
        def window(state, x):
            ys, state = f(params, x, state)
            return state, ys

        state_T, ys = jax.lax.scan(window, state0, jnp.reshape(xs, (3, 2, *xs.shape[1:])))
        return ys.reshape(6, *ys.shape[2:]), state_T

    found, expected = (
        kit.run(jax.grad(loss_of(g), (0, 1, 2)), params, xs, state0) for g in (in_windows, f)
    )
    kit.assert_equal(found, expected)


def test_a_second_derivative_differentiates_the_hand_derived_pass(kit, x64):
    cell, step = kit.twins["gru_reset_before"]
    params, xs, state0 = kit.problem(cell, T=3).arguments

    def slope(f):
        def squares(params):
            leaves = jax.tree.leaves(jax.grad(loss_of(f))(params, xs, state0))
            return sum(jnp.sum(leaf**2) for leaf in leaves)

        return jax.grad(squares)

    found, expected = (kit.run(slope(f), params) for f in (on_jax.layer(cell), kit.scan(step)))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-11, atol=1e-11)


def test_gradients_of_an_lstm_are_those_of_equinox(kit, x64):
    eqx = pytest.importorskip("equinox", reason="equinox is the peer that is compared with")
    peer = eqx.nn.LSTMCell(2, 4, key=jax.random.key(0))

    def step(p, state, x):
        own = eqx.tree_at(
            lambda c: (c.weight_ih, c.weight_hh, c.bias), peer, (p["W_ih"], p["W_hh"], p["b"])
        )
        new = own(x, state)
        return new, new[0]

    problem = kit.problem(cells.LSTM())
    found = kit.pull_back(on_jax.layer(cells.LSTM()), problem)
    kit.assert_equal(found, kit.pull_back(kit.scan(step), problem))


def test_gradients_of_a_gru_are_those_of_equinox(kit, x64):
    eqx = pytest.importorskip("equinox", reason="equinox is the peer that is compared with")
    peer = eqx.nn.GRUCell(2, 4, key=jax.random.key(0))

    def step(p, h, x):
        own = eqx.tree_at(
            lambda c: (c.weight_ih, c.weight_hh, c.bias, c.bias_n),
            peer,
            (p["W_ih"], p["W_hh"], p["b"], p["b_hn"]),
        )
        new = own(x, h)
        return new, new

    problem = kit.problem(cells.GRUResetAfter())
    found = kit.pull_back(on_jax.layer(cells.GRUResetAfter()), problem)
    kit.assert_equal(found, kit.pull_back(kit.scan(step), problem))


def test_every_activation_has_a_native_form():
    assert set(ACTIVATIONS) == set(NUMPY_ACTIVATIONS)


@pytest.mark.parametrize("name", NUMPY_ACTIVATIONS)
def test_values_and_slopes_are_those_of_numpy(x64, name):
    z = np.linspace(-30, 30, 1201)
    z = np.concatenate([z, [-1000.0, 1000.0]])
    native, numpys = ACTIVATIONS[name], NUMPY_ACTIVATIONS[name]
    value = native.value(jnp.asarray(z))
    slope = native.slope(value if native.from_value else jnp.asarray(z))
    eps = np.finfo(float).eps
    np.testing.assert_allclose(value, numpys.value(z), rtol=50 * eps, atol=50 * eps)
    np.testing.assert_allclose(slope, numpys.derivative(z), rtol=50 * eps, atol=50 * eps)


def test_layers_that_fuse_a_built_in_cell_have_its_form():
    from bpttcheck.bptt.fused import FUSED

    assert form_of(CellLayer(cells.LSTM())) == form_of(cells.LSTM())
    for name, make in FUSED.items():
        assert form_of(make()) == form_of(cells.builtin(name)) is not None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_is_produced_by_autodiff(path):
    tree = ast.parse(path.read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("jax", "api", "lax")
    }
    assert not used & AUTODIFF
