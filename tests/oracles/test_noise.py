"""Monte Carlo arithmetic: exact where there is nothing to round, noisy where there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpttcheck.errors import Declined
from bpttcheck.jax_mode import enable_x64
from bpttcheck.oracles.autodiff.noise import COPIES_AXIS, Noise, count_draws, interpret, uniform

K = 64


def noisy(function, *args, eps=1e-10):
    """``K`` runs of ``function`` and of its gradient's sum, the first without noise."""
    with enable_x64():
        args = [jnp.asarray(a) for a in args]
        closed = jax.make_jaxpr(function)(*args)
        count = count_draws(closed.jaxpr)

        def one(copy, key):
            noise = Noise(jnp.where(copy == 0, 0.0, eps), eps, copy, uniform(key, count))

            def loss(args):
                out = interpret(closed.jaxpr, closed.consts, args, noise)
                assert noise.used <= count
                return out[0]

            value, pull = jax.vjp(loss, args)
            return value, pull(jnp.ones_like(value))[0][0]

        keys = jnp.arange(1, K + 1, dtype=jnp.uint32) * jnp.uint32(7919)
        copies = jax.jit(jax.vmap(one, axis_name=COPIES_AXIS))
        values, grads = copies(jnp.arange(K), keys)
        return np.asarray(values), np.asarray(grads)


def test_numbers_have_mean_zero_and_variance_one():
    with enable_x64():
        u = np.asarray(uniform(jnp.uint32(5), 200_000))
    assert abs(u.mean()) < 0.01
    assert abs(u.var() - 1) < 0.01
    assert np.abs(u).max() <= np.sqrt(3)


def test_numbers_of_different_keys_are_not_correlated():
    with enable_x64():
        a, b = (np.asarray(uniform(jnp.uint32(k), 100_000)) for k in (1, 2))
    assert abs((a * b).mean()) < 0.01


def test_the_reference_copy_is_the_exact_program():
    def f(x):
        return jnp.tanh(x * 3) / (1 + x**2)

    x = np.linspace(-2, 2, 5)
    values, grads = noisy(f, x)
    with enable_x64():
        exact, pull = jax.vjp(f, jnp.asarray(x))
        slope = pull(jnp.ones_like(exact))[0]
    np.testing.assert_allclose(values[0], exact, rtol=4e-16)
    np.testing.assert_allclose(grads[0], slope, rtol=1e-14)


@pytest.mark.parametrize(
    "exact",
    [lambda x: x.reshape(2, 2).T, lambda x: -x, lambda x: x[::-1], lambda x: jnp.roll(x, 1)],
)
def test_moving_data_is_exact(exact):
    values, _ = noisy(exact, np.arange(1.0, 5.0))
    assert (values == values[0]).all()


def test_rounding_operations_are_noisy_by_eps():
    values, _ = noisy(lambda x: x * 3.0, np.ones(100))
    spread = (values[1:] / values[0] - 1).std()
    assert 0.8e-10 < spread < 1.2e-10


def test_a_saturated_derivative_is_uncertain_by_eps_absolutely():
    _, grads = noisy(jnp.tanh, np.array([15.0]))
    assert abs(grads[0, 0]) < 1e-12
    assert 0.5e-10 < (grads[1:, 0] - grads[0, 0]).std() < 2e-10


@pytest.mark.parametrize(
    ("name", "function", "sides"),
    [
        ("maximum", lambda x: jnp.maximum(x, 0.0), (0, 1)),
        ("where", lambda x: jnp.where(x > 0, x, 0.0), (0, 1)),
        ("product", lambda x: x * (x > 0), (0, 1)),
        ("abs", jnp.abs, (-1, 1)),
        ("clip", lambda x: jnp.clip(x, 0.0, 1.0), (0, 1)),
        ("leaky", lambda x: jnp.where(x >= 0, x, 0.1 * x), (0.1, 1)),
        ("relu", jax.nn.relu, (0, 1)),
    ],
)
def test_at_a_kink_the_copies_take_both_sides(name, function, sides):
    _, grads = noisy(function, np.zeros(3))
    assert {round(float(g), 6) for g in grads[1:].ravel()} == {float(s) for s in sides}


@pytest.mark.parametrize("x", [-1e-3, 1e-3])
def test_away_from_a_kink_the_copies_agree_on_the_side(x):
    _, grads = noisy(lambda x: jnp.maximum(x, 0.0), np.array([x]))
    assert (grads == grads[0]).all()


def test_noise_that_reaches_the_threshold_frees_the_branch():
    # x - 1 is 1e-10, the rounding noise of x as large: nobody can know the side.
    _, grads = noisy(lambda x: jnp.maximum(x * 1.0 - 1.0, 0.0), np.array([1 + 1e-10]))
    assert len(np.unique(np.round(grads))) == 2


def test_nested_programs_are_noisy_too():
    @jax.jit
    def inner(x):
        return jnp.sin(x)

    def scanned(x):
        return jax.lax.scan(lambda c, _: (inner(c) * 1.5, None), x, None, length=3)[0]

    def branched(x):
        return jax.lax.cond(x.sum() > 0, lambda x: x * 3.0, lambda x: x * 2.0, x)

    for function in (scanned, branched, jax.checkpoint(lambda x: jnp.exp(x) * 2)):
        values, _ = noisy(function, np.array([0.3, 0.4]))
        with enable_x64():
            np.testing.assert_allclose(values[0], function(jnp.array([0.3, 0.4])), rtol=1e-15)
        assert (values[1:].std(axis=0) > 0).all()


def test_a_custom_rule_is_replaced_by_its_primal():
    @jax.custom_vjp
    def f(x):
        return jnp.sin(x)

    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, c: (c * 99.0,))
    _, grads = noisy(f, np.array([0.3]))
    assert grads[0, 0] == pytest.approx(np.cos(0.3))


def test_a_host_callback_is_declined():
    def f(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    with pytest.raises(Declined, match="pure_callback"):
        noisy(f, np.array([0.3]))


def test_a_power_gets_derivative_noise_of_its_own_scale():
    # The textbook derivative of x / sqrt(1 + x^2) is (1 - y^2)^1.5, which cancels for large x.
    _, grads = noisy(lambda x: x / jnp.sqrt(1 + x**2), np.array([300.0]))
    assert (grads[1:, 0] - grads[0, 0]).std() > 1e-13
    # A root of 1e30 has a derivative of 5e-16: noise of 1e-10 would drown it.
    _, grads = noisy(jnp.sqrt, np.array([1e30]))
    assert (grads[1:, 0] - grads[0, 0]).std() < 1e-24
