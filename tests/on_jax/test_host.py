import importlib.util
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpttcheck import cells
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.errors import ContractError
from bpttcheck.on_jax import HostCallbackWarning, layer

EXAMPLE = Path(__file__).parents[2] / "examples" / "leaky.py"


def leaky():
    spec = importlib.util.spec_from_file_location("leaky_on_jax", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Leaky()


def leaky_twin(p, h, x):
    new = p["a"] * h + (1 - p["a"]) * jnp.tanh(p["U"] @ x + p["W"] @ h + p["b"])
    return new, new


def on_host(subject):
    return layer(subject, form="host")


class Untraceable(cells.Elman):
    def step(self, params, state, x):
        return super().step(params, state, x if float(x.sum()) > 0 else x * 2)


def test_a_cell_that_cannot_be_traced_is_announced_once_with_the_reason():
    with pytest.warns(
        HostCallbackWarning, match=r"Untraceable has no form in JAX .*float"
    ) as caught:
        layer(Untraceable())
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_from_the_host_are_those_of_autodiff(kit, x64, masked):
    problem = kit.problem(leaky(), masked=masked)
    found = kit.pull_back(on_host(leaky()), problem)
    kit.assert_equal(found, kit.pull_back(kit.scan(leaky_twin), problem))


def test_vmap_runs_the_host_for_each(kit):
    params, xs, state0 = kit.problem(leaky(), dtype=np.float32).arguments
    many = np.stack([xs, 2 * xs])

    def loss(f):
        return jax.grad(lambda params, xs: jnp.sum(f(params, xs, state0)[0] ** 2), (0, 1))

    found = kit.run(jax.vmap(loss(on_host(leaky())), (None, 0)), params, many)
    expected = kit.run(jax.vmap(loss(kit.scan(leaky_twin)), (None, 0)), params, many)
    kit.assert_equal(found, expected, np.float32)


class Both(NamedTuple):
    h: object
    count: object


class Counting:
    """A NamedTuple with a counter as the state."""

    def init(self, rng, n_in, n_hidden):
        return {"U": rng.standard_normal((n_hidden, n_in))}

    def initial_state(self, params, batch_size):
        return Both(
            np.zeros((batch_size, len(params["U"])), params["U"].dtype), np.zeros(batch_size, int)
        )

    def step(self, params, state, x):
        new = state.h + x @ params["U"].T
        return Both(new, state.count + 1), new, x

    def step_vjp(self, params, x, d_state, d_y):
        d = d_state.h + d_y
        return {"U": d.T @ x}, Both(d, np.zeros(len(x))), d @ params["U"]


def test_an_integer_leaf_is_carried_and_has_a_float0_cotangent(kit, x64):
    params, xs, state0 = kit.problem(Counting()).arguments
    f = on_host(Counting())
    (ys, state_T), pull = jax.vjp(
        lambda state: f(params, xs, state), jax.tree.map(jnp.asarray, state0)
    )
    assert state_T.count.tolist() == [5, 5, 5]
    (d_state0,) = pull(
        (jnp.ones_like(ys), Both(jnp.zeros_like(state_T.h), np.zeros(3, jax.dtypes.float0)))
    )
    np.testing.assert_array_equal(d_state0.h, np.full((3, 4), 5.0))
    assert d_state0.count.dtype == jax.dtypes.float0


class Broken(Counting):
    def __init__(self, change):
        self.change = change

    def step_vjp(self, params, x, d_state, d_y):
        d_params, d_state, d_x = super().step_vjp(params, x, d_state, d_y)
        return self.change(d_params, d_state, d_x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, s, x: ({"U": p["U"].T}, s, x), r"d_params\['U'\].shape=\(2, 4\)"),
        (lambda p, s, x: (p, Both(s.h[:, :1], s.count), x), r"d_state0.h.shape=\(3, 1\)"),
    ],
    ids=["d_params", "d_state0"],
)
def test_a_gradient_of_another_shape_is_named(kit, x64, change, message):
    params, xs, state0 = kit.problem(Counting()).arguments
    f = on_host(Broken(change))
    with pytest.raises(ContractError, match=message):
        jax.grad(lambda params: jnp.sum(f(params, xs, state0)[0]))(params)


class Nameless(CellLayer):
    def vjp(self, params, tape, d_ys, d_state_T=None):
        return {}, *super().vjp(params, tape, d_ys, d_state_T)[1:]


def test_a_gradient_without_its_name_is_refused(kit):
    params, xs, state0 = kit.problem(cells.Elman(), dtype=np.float32).arguments
    f = on_host(Nameless(cells.Elman()))
    with pytest.raises(ContractError, match="expected a dict with keys 'U', 'W', 'b'"):
        jax.grad(lambda params: jnp.sum(f(params, xs, state0)[0]))(params)


def test_a_cell_that_turns_float64_is_named(kit):
    class Turns(Counting):
        def step(self, params, state, x):
            new, y, cache = super().step(params, state, x)
            return new, y * np.float64(2), cache

    with pytest.raises(
        ContractError, match=r"ys\.dtype=float64, but should be that of xs, float32"
    ):
        on_host(Turns())(*kit.problem(Counting(), dtype=np.float32).arguments)


def test_a_mask_for_a_layer_without_masks_is_refused(kit):
    class Unmasked(kit.layer):
        pass

    subject = Unmasked(cells.LSTM(), supports_mask=False)
    problem = kit.problem(cells.LSTM(), masked=True, dtype=np.float32)
    with pytest.raises(ContractError, match="supports_mask is False"):
        on_host(subject)(*problem.arguments, problem.mask)
