from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpttcheck.adapt import from_custom_vjp
from bpttcheck.adapt.jax_rule import JaxRule
from bpttcheck.errors import ContractError
from bpttcheck.jax_mode import enable_x64

pytestmark = pytest.mark.usefixtures("as_found")

TABLE = {"a": ("n_hidden",), "U": ("n_hidden", "n_in")}
SymbolicZero = jax.custom_derivatives.SymbolicZero


def plain(params, xs, state0):
    def step(h, x):
        new = params["a"] * h + x @ params["U"].T
        return new, new

    last, ys = jax.lax.scan(step, state0, xs)
    return ys, last


def by_hand(saved, d_ys, d_last):
    params, xs, state0, ys = saved

    def step(d, given):
        d_y, x, h = given
        d = d + d_y
        return d * params["a"], ((d * h).sum(0), d.T @ x, d @ params["U"])

    before = jnp.concatenate([state0[None], ys])[:-1]
    d_state0, (d_a, d_U, d_xs) = jax.lax.scan(step, d_last, (d_ys, xs, before), reverse=True)
    return {"a": d_a.sum(0), "U": d_U.sum(0)}, d_xs, d_state0


def is_zero(cotangent):
    return isinstance(cotangent, SymbolicZero)


def filled(cotangent):
    return jnp.zeros(cotangent.shape, cotangent.dtype) if is_zero(cotangent) else cotangent


def right(saved, cotangents):
    return by_hand(saved, *map(filled, cotangents))


def loses_the_state(saved, cotangents):
    """Where no output is used, the final state is forgotten too."""
    d_ys, d_last = cotangents
    return by_hand(saved, filled(d_ys), filled(d_last) * (0 if is_zero(d_ys) else 1))


def loses_the_outputs(saved, cotangents):
    d_ys, d_last = cotangents
    return by_hand(saved, filled(d_ys) * (0 if is_zero(d_last) else 1), filled(d_last))


def needs_arrays(saved, cotangents):
    return by_hand(saved, *cotangents)


def adapted(bwd, symbolic_zeros=True, wrapped=False):
    f = jax.custom_vjp(lambda params, xs, state0: plain(params, xs, state0))

    def fwd(params, xs, state0):
        if symbolic_zeros:
            params = {name: primal.value for name, primal in params.items()}
            xs, state0 = xs.value, state0.value
        ys, last = plain(params, xs, state0)
        return (ys, last), (params, xs, state0, ys)

    f.defvjp(fwd, bwd, symbolic_zeros=symbolic_zeros)
    if not wrapped:
        return from_custom_vjp(f, init=TABLE, sequence=True)
    outer = jax.jit(lambda params, xs, state0: f(params, xs, state0))
    return from_custom_vjp(
        lambda *arguments: outer(*arguments), primal=plain, init=TABLE, sequence=True
    )


def both(d_ys, d_last):
    return d_ys, d_last


def no_outputs(d_ys, d_last):
    return 0 * d_ys, d_last


def no_state(d_ys, d_last):
    return d_ys, 0 * d_last


def nothing(d_ys, d_last):
    return 0 * d_ys, 0 * d_last


def problem(change):
    rng = np.random.default_rng(0)
    params = {"U": rng.standard_normal((3, 2)), "a": rng.standard_normal(3)}
    arguments = params, rng.standard_normal((5, 2, 2)), rng.standard_normal((2, 3))
    return arguments, change(rng.standard_normal((5, 2, 3)), rng.standard_normal((2, 3)))


def gradients(layer, change):
    (params, xs, state0), cotangents = problem(change)
    _, _, tape = layer.forward(params, xs, state0)
    return layer.vjp(params, tape, *cotangents)


def distance(layer, change):
    """How far the rule is from JAX's own gradient of the plain code, relative to its largest."""
    arguments, cotangents = problem(change)
    with enable_x64(True):
        _, pull = jax.vjp(plain, *arguments)
        expected = jax.tree.leaves(
            jax.tree.map(np.asarray, pull(jax.tree.map(jnp.asarray, cotangents)))
        )
    found = jax.tree.leaves(gradients(layer, change))
    size = max(float(np.abs(e).max()) for e in expected) or 1.0
    return max(float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True)) / size


@pytest.mark.sampled(2)
@pytest.mark.parametrize("change", [both, no_outputs, no_state, nothing])
def test_a_right_rule_is_right_whichever_result_takes_part_in_the_loss(change):
    assert distance(adapted(right), change) < 1e-13
    assert distance(adapted(needs_arrays, symbolic_zeros=False), change) < 1e-13


@pytest.mark.sampled(1)
@pytest.mark.parametrize("wrapped", [False, True], ids=["decorated", "called inside"])
@pytest.mark.parametrize(
    ("bwd", "shows"), [(loses_the_state, no_outputs), (loses_the_outputs, no_state)]
)
def test_a_rule_that_takes_one_zero_for_both_is_found_where_it_shows(bwd, shows, wrapped):
    layer = adapted(bwd, wrapped=wrapped)
    with pytest.raises(ContractError, match="summed over losses of one result each"):
        gradients(layer, both)
    layer.vjp_function.__self__.remarks["said"] = ()  # from here on it is asked once
    hides = [change for change in (both, no_outputs, no_state, nothing) if change is not shows]
    assert distance(layer, shows) > 0.1
    for change in hides:
        assert distance(layer, change) < 1e-13


@pytest.mark.parametrize(("change", "name"), [(no_outputs, "ys"), (no_state, "state_T")])
def test_a_rule_that_fails_at_a_symbolic_zero_is_named(change, name):
    layer = adapted(needs_arrays)
    with pytest.raises(ContractError, match=r"raised .* summed over losses of one result each"):
        gradients(layer, both)
    layer.vjp_function.__self__.remarks["said"] = ()
    assert distance(layer, both) < 1e-13
    assert distance(layer, nothing) < 1e-13
    with pytest.raises(ContractError, match=f"bwd raised .* where {name} takes no part") as info:
        gradients(layer, change)
    assert (info.value.method, info.value.item) == ("bwd", f"d_{name}")


def test_a_rule_that_fails_in_any_case_says_so_itself():
    def broken(saved, cotangents):
        raise ZeroDivisionError("by design")

    for change in (both, no_outputs):
        with pytest.raises(ZeroDivisionError, match="by design"):
            gradients(adapted(broken), change)


@pytest.mark.parametrize(("symbolic_zeros", "programs"), [(False, 2), (True, 4)])
def test_only_rules_that_ask_for_symbolic_zeros_cost_more_programs(symbolic_zeros, programs):
    layer = adapted(right, symbolic_zeros)
    rule = layer.vjp_function.__self__
    assert isinstance(rule, JaxRule)
    for change in (both, nothing, both):
        gradients(layer, change)
    assert len(rule.programs.held) == 2
    for change in (no_outputs, no_state, no_outputs, no_state):
        gradients(layer, change)
    assert len(rule.programs.held) == programs


def test_a_state_of_integers_leaves_the_output_in_the_loss():
    f = jax.custom_vjp(lambda params, state, x: (state + 1, x * params["a"]))

    def bwd(saved, cotangents):
        a, state, x = saved
        d_y = filled(cotangents[1])
        return {"a": (d_y * x).sum(0)}, np.zeros(state.shape, jax.dtypes.float0), d_y * a

    def fwd(params, state, x):
        a, state, x = params["a"].value, state.value, x.value
        return (state + 1, x * a), (a, state, x)

    f.defvjp(fwd, bwd, symbolic_zeros=True)
    cell = from_custom_vjp(
        f, init={"a": ("n_hidden",)}, initial_state=lambda params, B: np.zeros((B, 1), int)
    )
    params, count = {"a": np.array([2.0, 3.0])}, np.zeros((4, 1), int)
    for d_y in (np.ones((4, 2)), np.zeros((4, 2))):
        _, _, cache = cell.step(params, count, np.ones((4, 2)))
        d_params, _, d_x = cell.step_vjp(params, cache, 0 * count, d_y)
        np.testing.assert_array_equal(d_params["a"], d_y.sum(0))
        np.testing.assert_array_equal(d_x, d_y * params["a"])
