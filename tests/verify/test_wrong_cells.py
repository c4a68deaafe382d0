"""Wrong cells of about ten lines each: all caught, and the finding names the right block."""

import numpy as np
import pytest
from subjects import Plain

import bpttcheck

pytestmark = pytest.mark.usefixtures("shared_runs", "as_found")


def wrong(change):
    """A cell whose ``step_vjp`` returns ``change(d_params, d_h, d_x)``."""

    class Wrong(Plain):
        def step_vjp(self, params, cache, d_state, d_y):
            return change(*super().step_vjp(params, cache, d_state, d_y))

    return Wrong()


def scaled(block, factor):
    def change(d_params, d_h, d_x):
        if block == "d_h":
            d_h = d_h * factor
        elif block == "d_x":
            d_x = d_x * factor
        else:
            d_params = {**d_params, block: d_params[block] * factor}
        return d_params, d_h, d_x

    return wrong(change)


def one_entry_zeroed(d_params, d_h, d_x):
    W = d_params["W"].copy()
    W.flat[0] = 0
    return {**d_params, "W": W}, d_h, d_x


class Tiny(Plain):
    """Outputs times 1e-6 and a backward pass that is all zero."""

    def step(self, params, state, x):
        h, _, cache = super().step(params, state, x)
        return h, h * x.dtype.type(1e-6), cache

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {k: 0 * v for k, v in d_params.items()}, 0 * d_h, 0 * d_x


class Accumulates(Plain):
    """Parameter gradients pile up across calls."""

    def __init__(self):
        self.total = {}

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        for k, v in d_params.items():
            old = self.total.get(k)
            same = old is not None and (old.shape, old.dtype) == (v.shape, v.dtype)
            self.total[k] = v + old if same else v
        return dict(self.total), d_h, d_x


class SpoilsItsCotangent(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        out = super().step_vjp(params, cache, d_state, d_y)
        d_y *= 0
        return out


BLOCKS = {
    "U": "d_params['U']",
    "W": "d_params['W']",
    "b": "d_params['b']",
    "d_h": "d_previous_state",
    "d_x": "d_x",
}
SCALED = [(block, factor) for block in BLOCKS for factor in (1.001, 1.01)]


def failed(cell, **options):
    """The blocks named by the findings of the gradient checks and of purity."""
    report = bpttcheck.check(cell, examples=30, raises=False, **options)
    assert report.verdict is bpttcheck.Verdict.FAILED
    return {(finding.check, finding.block) for finding in report.findings}


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("block", "factor"), SCALED)
def test_a_scaled_block_is_caught_and_named(block, factor):
    found = failed(scaled(block, factor), checks=["step_vjp"])
    assert found == {("step_vjp", BLOCKS[block])}


def test_a_zeroed_entry_is_caught_and_named():
    assert ("step_vjp", "d_params['W']") in failed(wrong(one_entry_zeroed))


def test_an_all_zero_backward_of_tiny_outputs_is_caught_in_every_block():
    found = failed(Tiny(), checks=["step_vjp"])
    assert {block for _, block in found} == set(BLOCKS.values())


def test_stale_accumulators_are_caught_and_named():
    found = failed(Accumulates(), checks=["purity"])
    assert ("purity", "d_params['U']") in found


def test_a_spoilt_cotangent_is_caught_and_named():
    assert ("purity", "d_y") in failed(SpoilsItsCotangent(), checks=["purity"])


def test_a_lost_carry_is_caught_and_named():
    found = failed(wrong(lambda p, h, x: (p, 0 * h, x)))
    assert ("step_vjp", "d_previous_state") in found
    assert ("sequence_vjp", "d_state0") in found


@pytest.mark.nightly
def test_the_mean_over_the_batch_is_caught_by_gradient_and_law():
    def mean(d_params, d_h, d_x):
        return {**d_params, "b": d_params["b"] / len(d_x)}, d_h, d_x

    found = failed(wrong(mean))
    assert {("step_vjp", "d_params['b']"), ("batch_additivity", "d_params['b']")} <= found


@pytest.mark.nightly
def test_a_clip_is_caught_by_gradient_and_law():
    found = failed(wrong(lambda p, h, x: (p, np.clip(h, -5, 5), x)))
    assert ("step_vjp", "d_previous_state") in found
    assert any(check == "linearity" for check, _ in found)


@pytest.mark.parametrize(("dtype", "factor"), [("float64", 1 + 1e-12), ("float32", 1 + 1e-4)])
def test_the_smallest_promised_error_is_caught(dtype, factor):
    class Scaled(Plain):
        def step_vjp(self, params, cache, d_state, d_y):
            d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
            return {**d_params, "W": d_params["W"] * x_type(d_x, factor)}, d_h, d_x

    def x_type(array, value):
        return array.dtype.type(value)

    assert ("step_vjp", "d_params['W']") in failed(Scaled(), dtypes=[dtype], checks=["step_vjp"])


def test_the_right_cell_passes_every_check():
    report = bpttcheck.check(Plain(), examples=40)
    assert report.passed
    assert {c.name for c in report.checks if c.verdict is None} == {"initial_state"}
