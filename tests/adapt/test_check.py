from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import bpttcheck
from bpttcheck.adapt import from_autograd_function, from_callables, from_custom_vjp

pytestmark = pytest.mark.usefixtures("as_found")

TABLE = {"W": ("n_hidden", "n_in"), "U": ("n_hidden", "n_hidden")}
# One size, since each shape costs a compilation here.
check = functools.partial(
    bpttcheck.check,
    examples=6,
    sizes=st.just((3, 2)),
    checks=["contract", "purity", "step_vjp", "sequence_vjp"],
)


def right(gradients):
    return gradients


def transposed(gradients):
    return {**gradients[0], "U": gradients[0]["U"].T}, *gradients[1:]


def negated_x(gradients):
    return *gradients[:2], -gradients[2]


def zero_w(gradients):
    return {**gradients[0], "W": 0 * gradients[0]["W"]}, *gradients[1:]


def elman_vjp(params, cache, d_state, d_y):
    state, x, new = cache
    d_pre = (d_state + d_y) * (1 - new**2)
    return {"W": d_pre.T @ x, "U": d_pre.T @ state}, d_pre @ params["U"], d_pre @ params["W"]


def elman_with(squash):
    def step(params, state, x):
        new = squash(x @ params["W"].T + state @ params["U"].T)
        return new, new

    return step


jax_elman = elman_with(jnp.tanh)


def numpy_cell(change):
    def step(params, state, x):
        new = np.tanh(x @ params["W"].T + state @ params["U"].T)
        return new, new, (state, x, new)

    def step_vjp(params, cache, d_state, d_y):
        return change(elman_vjp(params, cache, d_state, d_y))

    return from_callables(step, step_vjp, init=TABLE)


def custom_cell(change, primal=jax_elman):
    step = jax.custom_vjp(primal)

    def fwd(params, state, x):
        new, y = step(params, state, x)
        return (new, y), (params, state, x, new)

    def bwd(saved, cotangents):
        params, *cache = saved
        return change(elman_vjp(params, cache, *cotangents))

    step.defvjp(fwd, bwd)
    return from_custom_vjp(step, init=TABLE)


def torch_cell(change, **options):
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Elman(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, h, W, U):
            new = torch.tanh(x @ W.T + h @ U.T)
            ctx.save_for_backward(x, h, W, U, new)
            return new

        @staticmethod
        def backward(ctx, d_new):
            x, h, W, U, new = ctx.saved_tensors
            params = {"W": W, "U": U}
            d_params, d_h, d_x = change(elman_vjp(params, (h, x, new), d_new, 0))
            return d_x, d_h, d_params["W"], d_params["U"]

    return from_autograd_function(Elman, init=TABLE, **options)


MAKERS = [numpy_cell, custom_cell, functools.partial(torch_cell, reference=jax_elman)]
NAMES = ["callables", "custom_vjp", "autograd_function"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_a_right_rule_passes(make):
    report = check(make(right))
    assert report.passed, str(report)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("make", "change", "block"),
    [
        *((make, transposed, "d_params['U']") for make in MAKERS),
        (custom_cell, negated_x, "d_x"),
        (custom_cell, zero_w, "d_params['W']"),
    ],
    ids=[*NAMES, "negated", "zero"],
)
def test_a_wrong_rule_is_a_mismatch_in_the_right_block(make, change, block):
    with pytest.raises(bpttcheck.GradientMismatch) as info:
        check(make(change), checks=["step_vjp"], examples=8)
    assert {finding.block for finding in info.value.report.findings} == {block}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_differences_alone_pass_a_right_rule_of_torch(dtype):
    report = check(torch_cell(right), dtypes=[dtype])
    assert report.passed, str(report)
    assert any("code of torch cannot be traced" in note for note in report.checks[2].notes)


def test_the_differences_alone_find_the_wrong_block_of_torch():
    report = check(torch_cell(transposed), dtypes=["float64"], raises=False, checks=["step_vjp"])
    assert {finding.block for finding in report.findings} == {"d_params['U']"}


def nested(slope):
    """A primal that calls a custom_vjp of its own, in which the derivative has a wrong slope."""

    @jax.custom_vjp
    def squash(z):
        return jnp.tanh(z)

    def bwd(y, d):
        return (slope * d * (1 - y**2),)

    squash.defvjp(lambda z: (squash(z), jnp.tanh(z)), bwd)
    return elman_with(squash)


def test_a_wrong_rule_nested_in_the_reference_judges_nobody():
    cell = custom_cell(right, primal=nested(7.0))
    report = check(cell, checks=["step_vjp"])
    assert report.passed, str(report)
    assert dict(report.checks[0].oracles)["jax"] > 0
    assert cell.nested_rules == ("squash",)


def test_a_wrong_rule_that_agrees_with_the_one_nested_in_the_reference_is_caught():
    def sevenfold(gradients):
        return jax.tree.map(lambda gradient: 7 * gradient, gradients)

    with pytest.raises(bpttcheck.GradientMismatch):
        check(custom_cell(sevenfold, primal=nested(7.0)), checks=["step_vjp"], examples=8)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_sequence_of_jax_is_checked_as_a_layer(scale):
    def primal(params, xs, state0):
        last, ys = jax.lax.scan(lambda state, x: jax_elman(params, state, x), state0, xs)
        return ys, last

    f = jax.custom_vjp(primal)

    def bwd(saved, cotangents):
        d_params, d_xs, d_state0 = jax.vjp(primal, *saved)[1](cotangents)
        return {**d_params, "W": scale * d_params["W"]}, d_xs, d_state0

    f.defvjp(lambda *arguments: (f(*arguments), arguments), bwd)
    layer = from_custom_vjp(f, init=TABLE, sequence=True)
    report = check(layer, raises=False, examples=6, dtypes=["float64"], checks=["sequence_vjp"])
    assert report.passed is (scale == 1.0), str(report)
    assert {finding.block for finding in report.findings} == (
        set() if scale == 1.0 else {"d_params['W']"}
    )


def test_a_fwd_that_computes_another_value_breaks_the_contract():
    step = jax.custom_vjp(jax_elman)

    def fwd(params, state, x):
        new, y = jax_elman(params, state, x)
        return (new, 0.9 * y), (params, state, x, new)

    step.defvjp(fwd, lambda saved, d: elman_vjp(saved[0], saved[1:], *d))
    with pytest.raises(bpttcheck.ContractError, match="fwd returns y"):
        check(from_custom_vjp(step, init=TABLE))
