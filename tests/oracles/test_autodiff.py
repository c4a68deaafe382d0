"""JAX's gradients of a scanned step: padding is invisible, three programs agree."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpttcheck import trees
from bpttcheck.errors import Declined
from bpttcheck.oracles.autodiff.autodiff import Autodiff, Point

EPS = 2.0**-52


def step(params, state, x):
    h, c = state["h"], state["c"]
    c = jax.nn.sigmoid(x @ params["U"].T) * c + jnp.tanh(h @ params["W"].T)
    h = jnp.tanh(c)
    return {"h": h, "c": c, "t": state["t"] + 1}, h * 2


def point(seed=0, T=4, B=3, N=2, H=3):
    n = np.random.default_rng(seed).standard_normal
    state = {"h": n((B, H)), "c": n((B, H)), "t": np.zeros((B, 1), np.int64)}
    d_state = {"h": n((B, H)), "c": n((B, H)), "t": np.zeros((B, 1))}
    params = {"U": n((H, N)), "W": n((H, H))}
    mask = np.random.default_rng(seed).random((T, B)) < 0.8
    return Point(params, state, n((T, B, N)), mask, n((T, B, H)), d_state)


@pytest.fixture(scope="module")
def oracle():
    return Autodiff(step)


def test_padding_in_time_and_batch_is_invisible(oracle):
    p = point()
    plain, padded = oracle.gradients(p, EPS, 1), oracle.gradients(p, EPS, 1, (7, 5))
    for a, b in zip(
        [*plain.d_params.values(), plain.d_xs, plain.ys, *plain.d_state0.values()],
        [*padded.d_params.values(), padded.d_xs, padded.ys, *padded.d_state0.values()],
        strict=True,
    ):
        assert a.value.shape == b.value.shape
        np.testing.assert_allclose(a.value, b.value, rtol=1e-13, atol=1e-15)


def test_the_copies_scatter_around_the_value_by_rounding(oracle):
    g = oracle.gradients(point(), EPS, 1).d_params["W"]
    spread = np.abs(g.copies - g.value).max() / np.abs(g.value).max()
    assert EPS / 10 < spread < 1000 * EPS


def test_forward_mode_agrees_with_reverse_mode(oracle):
    p, v = point(), point(1)
    g = oracle.gradients(p, EPS, 1)
    reverse = sum((g.d_params[k].value * v.params[k]).sum() for k in p.params)
    reverse += (g.d_xs.value * v.xs).sum()
    reverse += sum((g.d_state0[k].value * v.state0[k]).sum() for k in ("h", "c"))
    for pad in (None, (7, 5)):
        forward = oracle.directional(p, v, EPS, 1, pad)
        assert float(forward.value) == pytest.approx(reverse, rel=1e-12)
        assert 0 < float(forward.error) < 1e-12 * abs(reverse)


def test_untied_contributions_add_up_to_the_gradient(oracle):
    p = point()
    g, untied = oracle.gradients(p, EPS, 1), oracle.untied(p)
    for k in p.params:
        np.testing.assert_allclose(untied.d_params[k].sum(0), g.d_params[k].value, rtol=1e-12)
    for k in ("h", "c"):
        np.testing.assert_allclose(untied.d_states[k][0], g.d_state0[k].value, rtol=1e-12)
        np.testing.assert_array_equal(untied.d_states[k][-1], p.d_state[k])


def test_integer_leaves_have_a_zero_gradient(oracle):
    g = oracle.gradients(point(), EPS, 1)
    assert (g.d_state0["t"].value == 0).all()


def test_one_program_serves_every_dtype_seed_and_value():
    oracle = Autodiff(step)
    for seed, eps in ((0, EPS), (1, 2.0**-23)):
        oracle.gradients(point(seed), eps, seed, (6, 4))
        oracle.gradients(replace(point(seed, T=2, B=1)), eps, seed, (6, 4))
    assert oracle.compilations == 1


def test_a_float32_point_is_used_as_it_is(oracle):
    p = point()
    single = Point(*(trees.map_leaves(_single, leaf) for leaf in vars(p).values()))
    g = oracle.gradients(single, EPS, 1)
    again = oracle.gradients(
        Point(*(trees.map_leaves(_double, leaf) for leaf in vars(single).values())), EPS, 1
    )
    np.testing.assert_array_equal(g.d_xs.value, again.d_xs.value)


def _single(leaf):
    return leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf


def _double(leaf):
    return leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf


def test_the_importing_programs_64_bit_flag_is_left_alone(oracle):
    before = jax.config.jax_enable_x64
    oracle.gradients(point(), EPS, 1)
    assert jax.config.jax_enable_x64 == before
    assert jnp.ones(3).dtype == (jnp.float64 if before else jnp.float32)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (lambda p, s, x: (s, float(x[0, 0])), "could not trace"),
        (lambda p, s, x: ({**s, "h": s["h"][:, :1]}, x), "turned a state"),
        (lambda p, s, x: 1 / 0, "ZeroDivisionError"),
        (lambda p, s, x: ({"h": s["h"]}, x), "KeyError"),
    ],
)
def test_a_step_that_cannot_be_traced_is_declined(bad, text):
    with pytest.raises(Declined, match=text):
        Autodiff(bad).gradients(point(), EPS, 1)
