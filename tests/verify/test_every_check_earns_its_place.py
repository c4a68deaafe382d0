"""For every check a small bug that it finds and names, beside the same code without the bug."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from subjects import Plain, PlainLayer

import bpttcheck
from bpttcheck import Verdict
from bpttcheck.verify.checks import NAMES


class TransposedInput(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, d_x.T


class Accumulates(Plain):
    """The gradient of b piles up from call to call."""

    def __init__(self):
        self.total = 0.0

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        same = np.shape(self.total) == d_params["b"].shape
        self.total = d_params["b"] + (self.total if same else 0)
        return {**d_params, "b": self.total.copy()}, d_h, d_x


class RawCotangent(Plain):
    """Reads d_y in the order of its memory."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        raw = np.ravel(d_y, order="K").reshape(d_y.shape)
        return d_params, d_h + (raw - d_y) @ params["W"], d_x


class PreActivation(Plain):
    """The slope of tanh taken at its value, not at its argument."""

    def step_vjp(self, params, cache, d_state, d_y):
        _, h_prev, h = cache
        d_z = (d_state + d_y) * (1 - np.tanh(h) ** 2)
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "W": d_z.T @ h_prev}, d_h, d_x


class ForgetsTheLastState(PlainLayer):
    """Nothing flows back from the final state."""

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, _ = super().vjp(params, tape, d_ys, d_state_T)
        _, _, d_state0 = super().vjp(params, tape, d_ys, 0 * d_state_T)
        return d_params, d_xs, d_state0


class Trainable(Plain):
    """The state begins at a parameter."""

    factor = 1.0

    def init(self, rng, n_in, n_hidden):
        return {**super().init(rng, n_in, n_hidden), "h0": rng.standard_normal(n_hidden)}

    def initial_state(self, params, batch_size):
        return np.repeat(params["h0"][None], batch_size, axis=0)

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "h0": np.zeros_like(params["h0"])}, d_h, d_x

    def initial_state_vjp(self, params, d_state0):
        zeros = {key: np.zeros_like(value) for key, value in params.items()}
        return {**zeros, "h0": d_state0.sum(axis=0)}


class FirstRowOfTheState(Trainable):
    def initial_state_vjp(self, params, d_state0):
        d_params = super().initial_state_vjp(params, d_state0)
        return {**d_params, "h0": 1.0 * d_state0[0]}


class ClippedInput(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, np.clip(d_x, -1, 1)


class MeanOverTheBatch(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "b": d_params["b"] / len(d_x)}, d_h, d_x


class WithoutTheFirstStep(PlainLayer):
    """The loop over the terms of W begins at t = 1."""

    def gradients(self, xs, hs, d_zs):
        W = np.einsum("tbi,tbj->ij", d_zs[1:], hs[1:-1])
        return {**super().gradients(xs, hs, d_zs), "W": W}


class LooksAhead(PlainLayer):
    """Each step reads the next one's input."""

    supports_mask = False

    def forward(self, params, xs, state0):
        return super().forward(params, np.concatenate([xs[1:], xs[:1]]), state0)

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_state0 = super().vjp(params, tape, d_ys, d_state_T)
        return d_params, np.concatenate([d_xs[-1:], d_xs[:-1]]), d_state0


class ShiftedInputGradient(PlainLayer):
    """The gradient of each input lies one step too late."""

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_state0 = super().vjp(params, tape, d_ys, d_state_T)
        return d_params, np.concatenate([d_xs[-1:], d_xs[:-1]]), d_state0


class UnmaskedBackward(PlainLayer):
    """The mask is applied forward, and backward everywhere but in the gradient of the input."""

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_state0 = super().vjp(params, tape, d_ys, d_state_T)
        padding = ~tape[2][:, :, None]
        return d_params, d_xs + padding * (d_ys @ params["U"]), d_state0


class UnmaskedOutput(PlainLayer):
    """A masked step outputs the state that it carries."""

    def forward(self, params, xs, state0, mask=None):
        _, state, (xs, hs, mask) = super().forward(params, xs, state0, mask)
        return hs[1:].copy(), state, (xs, hs, mask)


class AssumesAStep(PlainLayer):
    """The cotangent of the final state is added to that of the last output."""

    supports_mask = False

    def vjp(self, params, tape, d_ys, d_state_T):
        d_ys = d_ys.copy()
        d_ys[-1] += d_state_T
        return super().vjp(params, tape, d_ys, np.zeros_like(d_state_T))


class DecaysWeights(PlainLayer):
    """A gradient even where nothing ran: that of a penalty that is no part of the layer."""

    def gradients(self, xs, hs, d_zs):
        d_params = super().gradients(xs, hs, d_zs)
        return d_params if len(xs) else {**d_params, "b": d_params["b"] + 1e-3}


class Tangents(Plain):
    """Forward mode, which the last line of a bug gets wrong."""

    factor = 1.0

    def step_jvp(self, params, state, x, v_params, v_state, v_x):
        new, _, _ = self.step(params, state, x)
        v_z = v_x @ params["U"].T + x @ v_params["U"].T + v_params["b"]
        v_z = v_z + v_state @ params["W"].T + self.factor * (state @ v_params["W"].T)
        v_new = (1 - new**2) * v_z
        return v_new, v_new


class LosesATangent(Tangents):
    factor = 0.0


def product(x, W):
    return np.tanh(x @ W), (x, W)


def product_vjp(dy, cache):
    x, W = cache
    da = dy * (1 - np.tanh(x @ W) ** 2)
    return da @ W.T, x.T @ da


def without_derivative(dy, cache):
    _, W = cache
    return dy @ W.T, product_vjp(dy, cache)[1]


def function(vjp):
    return bpttcheck.adapt.from_vjp(product, vjp, "x: N D, W: D H -> y: N H", grads="dx, dW")


@dataclass(frozen=True)
class Row:
    """A check, a bug that it finds, the same code without it, the finding's block and words."""

    check: str
    wrong: Any
    right: Any
    block: str
    says: str = ""


TABLE = [
    Row("contract", TransposedInput(), Plain(), "d_x", "transposed"),
    Row("purity", Accumulates(), Plain(), "d_params['b']"),
    Row("arguments", RawCotangent(), Plain(), "d_previous_state", "d_y in Fortran order"),
    Row("step_vjp", PreActivation(), Plain(), "d_params['W']"),
    Row("sequence_vjp", ForgetsTheLastState(), PlainLayer(), "d_state0"),
    Row("initial_state", FirstRowOfTheState(), Trainable(), "d_params['h0']"),
    Row("vjp", function(without_derivative), function(product_vjp), "dx"),
    Row("jvp", LosesATangent(), Tangents(), "<cotangent, tangent of the outputs>"),
    Row("linearity", ClippedInput(), Plain(), "d_xs", "clipped"),
    Row("batch_additivity", MeanOverTheBatch(), Plain(), "d_params['b']", "mean"),
    Row("time_splitting", WithoutTheFirstStep(), PlainLayer(), "d_params['W']"),
    Row("causality", LooksAhead(), PlainLayer(), "ys before the change"),
    Row("causality", ShiftedInputGradient(), PlainLayer(), "d_xs of later steps"),
    Row("masking", UnmaskedBackward(), PlainLayer(), "d_xs of masked steps", "mask"),
    Row("masking", UnmaskedOutput(), PlainLayer(), "ys of masked steps", "mask"),
    Row("zero_length", AssumesAStep(), PlainLayer(), "vjp", "IndexError"),
    Row("zero_length", DecaysWeights(), PlainLayer(), "d_params['b']"),
]


def run(subject, check, strict=None):
    return bpttcheck.check(
        subject, checks=[check], examples=10, dtypes=["float64"], raises=False, strict=strict
    )


@pytest.mark.sampled(6)
@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.check}-{type(row.wrong).__name__}")
def test_the_check_finds_its_bug_and_passes_the_code_without_it(row):
    report = run(row.wrong, row.check)
    assert report.verdict is Verdict.FAILED
    assert {(f.check, f.block) for f in report.findings} == {(row.check, row.block)}
    assert row.says in report.findings[0].message
    assert run(row.right, row.check, strict=False).verdict is Verdict.PASSED


def test_every_check_has_a_bug_of_its_own():
    assert {row.check for row in TABLE} == set(NAMES)


def test_a_law_that_is_broken_everywhere_asks_jax_a_few_times(monkeypatch, as_found):
    """JAX needs a program for each new shape; a block that is settled is asked for no more."""
    from bpttcheck.verify import law

    asked = []
    ask = law._beside_jax
    monkeypatch.setattr(law, "_beside_jax", lambda *given: asked.append(given) or ask(*given))
    report = bpttcheck.check(
        WithoutTheFirstStep(), checks=["time_splitting"], examples=60, raises=False
    )
    assert report.checks[-1].cases >= 15
    assert 1 <= len(asked) <= 4
    asked.clear()
    bpttcheck.check(UnmaskedOutput(), checks=["masking"], examples=60, raises=False)
    assert asked == []  # JAX says nothing of what a masked step outputs
