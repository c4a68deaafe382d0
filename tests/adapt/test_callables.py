from __future__ import annotations

import functools
import subprocess
import sys

import numpy as np
import pytest

import bpttcheck
from bpttcheck.adapt import from_callables
from bpttcheck.contract import is_cell, is_layer
from bpttcheck.errors import ContractError

TABLE = {"W": ("n_hidden", "n_in"), "U": ("n_hidden", "n_hidden")}


def step(params, state, x):
    new = np.tanh(x @ params["W"].T + state @ params["U"].T)
    return new, new, (state, x, new)


def step_vjp(params, cache, d_state, d_y):
    state, x, new = cache
    d_pre = (d_state + d_y) * (1 - new**2)
    return {"W": d_pre.T @ x, "U": d_pre.T @ state}, d_pre @ params["U"], d_pre @ params["W"]


def wrong_step_vjp(params, cache, d_state, d_y):
    d_params, d_state, d_x = step_vjp(params, cache, d_state, d_y)
    return {**d_params, "U": d_params["U"].T}, d_state, d_x


def forward(params, xs, state0, mask=None):
    state, ys, caches = state0, [], []
    for t in range(len(xs)):
        new, y, cache = step(params, state, xs[t])
        if mask is not None:
            new = np.where(mask[t][:, None], new, state)
            y = y * mask[t][:, None]
        state = new
        ys.append(y)
        caches.append(cache)
    return np.array(ys).reshape(*xs.shape[:2], state0.shape[1]), state, (caches, mask)


def vjp(params, tape, d_ys, d_state_T):
    caches, mask = tape
    total = {name: np.zeros_like(value) for name, value in params.items()}
    d_state, d_xs = d_state_T, []
    for t in reversed(range(len(caches))):
        real = np.ones(d_state.shape[0], bool) if mask is None else mask[t]
        d_params, d_previous, d_x = step_vjp(
            params, caches[t], d_state * real[:, None], d_ys[t] * real[:, None]
        )
        total = {name: total[name] + d_params[name] for name in total}
        d_state = np.where(real[:, None], d_previous, d_state)
        d_xs.append(d_x)
    return total, np.array(d_xs[::-1]).reshape(*d_ys.shape[:2], params["W"].shape[1]), d_state


def forward_without_mask(params, xs, state0):
    return forward(params, xs, state0)


def cell_of(backward=step_vjp, **options):
    return from_callables(step, backward, init=TABLE, **options)


def a_step(cell):
    rng = np.random.default_rng(0)
    params = cell.init(rng, 3, 2)
    return params, rng.standard_normal((4, 2)), rng.standard_normal((4, 3))


def test_the_result_is_a_cell_that_calls_the_functions_given():
    cell = cell_of()
    assert is_cell(cell)
    assert not is_layer(cell)
    params, state, x = a_step(cell)
    new, y, cache = cell.step(params, state, x)
    np.testing.assert_array_equal(new, step(params, state, x)[0])
    found = cell.step_vjp(params, cache, new, y)
    expected = step_vjp(params, cache, new, y)
    np.testing.assert_array_equal(found[0]["U"], expected[0]["U"])
    np.testing.assert_array_equal(found[2], expected[2])
    assert cell.initial_state(params, 5).shape == (5, 2)


def test_the_result_is_a_layer_with_sequence():
    layer = from_callables(forward, vjp, init=TABLE, sequence=True)
    assert is_layer(layer)
    assert not is_cell(layer)
    assert layer.supports_mask
    params, state, x = a_step(layer)
    xs, mask = np.stack([x, x]), np.array([[True] * 4, [True, False] * 2])
    ys, last, tape = layer.forward(params, xs, state, mask)
    np.testing.assert_array_equal(ys, forward(params, xs, state, mask)[0])
    np.testing.assert_array_equal(
        layer.vjp(params, tape, ys, last)[2], vjp(params, tape, ys, last)[2]
    )


def test_a_forward_without_a_mask_makes_a_layer_that_says_so():
    layer = from_callables(forward_without_mask, vjp, init=TABLE, sequence=True)
    assert layer.supports_mask is False
    params, state, x = a_step(layer)
    assert layer.forward(params, x[None], state)[0].shape == (1, 4, 2)
    with pytest.raises(ContractError, match="given a mask, expected none"):
        layer.forward(params, x[None], state, np.ones((1, 4), bool))


@pytest.mark.parametrize("kind", ["positional", "keyword"])
def test_a_mask_may_be_required_or_a_keyword(kind):
    seen = []

    def positional(params, xs, state0, mask):
        seen.append(mask)
        return forward(params, xs, state0, mask)

    def keyword(params, xs, state0, *, mask):
        return positional(params, xs, state0, mask)

    chosen = {"positional": positional, "keyword": keyword}[kind]
    layer = from_callables(chosen, vjp, init=TABLE, sequence=True)
    params, state, x = a_step(layer)
    layer.forward(params, x[None], state)
    layer.forward(params, x[None], state, np.ones((1, 4), bool))
    assert seen[0] is None
    assert seen[1].shape == (1, 4)


def test_names_and_representation_say_what_it_is():
    assert cell_of().name == "step"
    assert cell_of(name="mine").name == "mine"
    assert repr(cell_of()) == "<cell 'step' from_callables, reference=None>"
    assert repr(cell_of(reference=step)) == "<cell 'step' from_callables, reference=step>"
    partial = from_callables(functools.partial(step), step_vjp, init=TABLE)
    assert partial.name == "step"
    layer = from_callables(forward, vjp, init=TABLE, sequence=True)
    assert repr(layer) == "<layer 'forward' from_callables, reference=None>"


def test_the_result_cannot_be_changed():
    with pytest.raises(AttributeError):
        cell_of().name = "other"


def test_a_reference_is_carried_along_and_must_be_one():
    other = cell_of()
    assert cell_of(reference=other).reference is other
    assert cell_of(reference=step).reference is step
    for wrong in (5, "elman", dict, lambda x: x):
        with pytest.raises(ContractError, match="reference"):
            cell_of(reference=wrong)


@pytest.mark.parametrize("wrong", [None, 3, "step", type("Cell", (), {}), lambda params: None])
def test_what_is_no_function_of_the_right_arguments_is_refused(wrong):
    with pytest.raises(ContractError, match=r"forward=.*expected a function of \(params, state"):
        from_callables(wrong, step_vjp, init=TABLE)
    with pytest.raises(ContractError, match=r"vjp=.*expected a function of \(params, cache"):
        from_callables(step, wrong, init=TABLE)
    with pytest.raises(ContractError, match=r"forward=.*expected a function of \(params, xs"):
        from_callables(wrong, vjp, init=TABLE, sequence=True)


def test_compiled_code_that_does_not_tell_its_signature_is_accepted():
    # `max` stands for a function of a C extension: inspect knows no signature of it.
    layer = from_callables(max, max, init=TABLE, sequence=True)
    assert layer.supports_mask is False


def test_the_module_names_its_adapters_without_importing_jax_or_torch():
    code = (
        "import sys, bpttcheck.adapt as a; a.from_callables; a.from_custom_vjp; "
        "a.from_autograd_function; assert not {'jax', 'torch'} & set(sys.modules); "
        "assert 'from_callables' in dir(a)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'from_nothing'"):
        bpttcheck.adapt.from_nothing  # noqa: B018 - the access is what is tested
