"""For every check a small bug that it finds and names, beside the same code without the bug."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import bpttcheck
from bpttcheck import Verdict
from bpttcheck.verify.checks import NAMES


class Cell:
    """h' = tanh(U x + W h + b), y = h', right."""

    def init(self, rng, n_in, n_hidden):
        shapes = {"U": (n_hidden, n_in), "W": (n_hidden, n_hidden), "b": (n_hidden,)}
        return {k: rng.standard_normal(s) / np.sqrt(s[-1]) for k, s in shapes.items()}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b"])), params["b"].dtype)

    def step(self, params, state, x):
        h = np.tanh(x @ params["U"].T + state @ params["W"].T + params["b"])
        return h, h, (x, state, h)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h_prev, h = cache
        d_z = (d_state + d_y) * (1 - h**2)
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h_prev, "b": d_z.sum(axis=0)}
        return d_params, d_z @ params["W"], d_z @ params["U"]


class Layer(Cell):
    """The same over time in one piece, right; a masked step keeps the state and outputs zero."""

    step = step_vjp = None

    def forward(self, params, xs, state0, mask=None):
        mask = np.ones(xs.shape[:2], bool) if mask is None else mask
        hs = np.empty((len(xs) + 1, *state0.shape), state0.dtype)
        hs[0] = state0
        for t, (x, real) in enumerate(zip(xs, mask[:, :, None], strict=True)):
            new = np.tanh(x @ params["U"].T + hs[t] @ params["W"].T + params["b"])
            hs[t + 1] = np.where(real, new, hs[t])
        return hs[1:] * mask[:, :, None], hs[-1].copy(), (xs, hs, mask)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, mask = tape
        d_zs, d_h = np.zeros_like(hs[1:]), d_state_T
        for t in reversed(range(len(xs))):
            d_zs[t] = (d_h + d_ys[t]) * (1 - hs[t + 1] ** 2) * mask[t][:, None]
            d_h = np.where(mask[t][:, None], d_zs[t] @ params["W"], d_h)
        return self.gradients(xs, hs, d_zs), d_zs @ params["U"], d_h

    def gradients(self, xs, hs, d_zs):
        return {
            "U": np.einsum("tbi,tbj->ij", d_zs, xs),
            "W": np.einsum("tbi,tbj->ij", d_zs, hs[:-1]),
            "b": d_zs.sum(axis=(0, 1)),
        }


class TransposedInput(Cell):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, d_x.T


class Accumulates(Cell):
    """The gradient of b piles up from call to call."""

    def __init__(self):
        self.total = 0.0

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        same = np.shape(self.total) == d_params["b"].shape
        self.total = d_params["b"] + (self.total if same else 0)
        return {**d_params, "b": self.total.copy()}, d_h, d_x


class RawCotangent(Cell):
    """Reads d_y in the order of its memory."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        raw = np.ravel(d_y, order="K").reshape(d_y.shape)
        return d_params, d_h + (raw - d_y) @ params["W"], d_x


class PreActivation(Cell):
    """The slope of tanh taken at its value, not at its argument."""

    def step_vjp(self, params, cache, d_state, d_y):
        _, h_prev, h = cache
        d_z = (d_state + d_y) * (1 - np.tanh(h) ** 2)
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "W": d_z.T @ h_prev}, d_h, d_x


class ForgetsTheLastState(Layer):
    """Nothing flows back from the final state."""

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, _ = super().vjp(params, tape, d_ys, d_state_T)
        _, _, d_state0 = super().vjp(params, tape, d_ys, 0 * d_state_T)
        return d_params, d_xs, d_state0


class Trainable(Cell):
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


class ClippedInput(Cell):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, np.clip(d_x, -1, 1)


class MeanOverTheBatch(Cell):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "b": d_params["b"] / len(d_x)}, d_h, d_x


class WithoutTheFirstStep(Layer):
    """The loop over the terms of W begins at t = 1."""

    def gradients(self, xs, hs, d_zs):
        W = np.einsum("tbi,tbj->ij", d_zs[1:], hs[1:-1])
        return {**super().gradients(xs, hs, d_zs), "W": W}


class LooksAhead(Layer):
    """Each step reads the next one's input."""

    supports_mask = False

    def forward(self, params, xs, state0):
        return super().forward(params, np.concatenate([xs[1:], xs[:1]]), state0)

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_state0 = super().vjp(params, tape, d_ys, d_state_T)
        return d_params, np.concatenate([d_xs[-1:], d_xs[:-1]]), d_state0


class ShiftedInputGradient(Layer):
    """The gradient of each input lies one step too late."""

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_state0 = super().vjp(params, tape, d_ys, d_state_T)
        return d_params, np.concatenate([d_xs[-1:], d_xs[:-1]]), d_state0


class UnmaskedBackward(Layer):
    """The mask is applied forward, and backward everywhere but in the gradient of the input."""

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_state0 = super().vjp(params, tape, d_ys, d_state_T)
        padding = ~tape[2][:, :, None]
        return d_params, d_xs + padding * (d_ys @ params["U"]), d_state0


class UnmaskedOutput(Layer):
    """A masked step outputs the state that it carries."""

    def forward(self, params, xs, state0, mask=None):
        _, state, (xs, hs, mask) = super().forward(params, xs, state0, mask)
        return hs[1:].copy(), state, (xs, hs, mask)


class AssumesAStep(Layer):
    """The cotangent of the final state is added to that of the last output."""

    supports_mask = False

    def vjp(self, params, tape, d_ys, d_state_T):
        d_ys = d_ys.copy()
        d_ys[-1] += d_state_T
        return super().vjp(params, tape, d_ys, np.zeros_like(d_state_T))


class DecaysWeights(Layer):
    """A gradient even where nothing ran: that of a penalty that is no part of the layer."""

    def gradients(self, xs, hs, d_zs):
        d_params = super().gradients(xs, hs, d_zs)
        return d_params if len(xs) else {**d_params, "b": d_params["b"] + 1e-3}


@dataclass(frozen=True)
class Row:
    """A check, a bug that it finds, the same code without it, the finding's block and words."""

    check: str
    wrong: Any
    right: Any
    block: str
    says: str = ""


TABLE = [
    Row("contract", TransposedInput(), Cell(), "d_x", "transposed"),
    Row("purity", Accumulates(), Cell(), "d_params['b']"),
    Row("arguments", RawCotangent(), Cell(), "d_previous_state", "d_y in Fortran order"),
    Row("step_vjp", PreActivation(), Cell(), "d_params['W']"),
    Row("sequence_vjp", ForgetsTheLastState(), Layer(), "d_state0"),
    Row("initial_state", FirstRowOfTheState(), Trainable(), "d_params['h0']"),
    Row("linearity", ClippedInput(), Cell(), "d_xs", "clipped"),
    Row("batch_additivity", MeanOverTheBatch(), Cell(), "d_params['b']", "mean"),
    Row("time_splitting", WithoutTheFirstStep(), Layer(), "d_params['W']"),
    Row("causality", LooksAhead(), Layer(), "ys before the change"),
    Row("causality", ShiftedInputGradient(), Layer(), "d_xs of later steps"),
    Row("masking", UnmaskedBackward(), Layer(), "d_xs of masked steps", "mask"),
    Row("masking", UnmaskedOutput(), Layer(), "ys of masked steps", "mask"),
    Row("zero_length", AssumesAStep(), Layer(), "vjp", "IndexError"),
    Row("zero_length", DecaysWeights(), Layer(), "d_params['b']"),
]


def run(subject, check, strict=None):
    return bpttcheck.check(
        subject, checks=[check], examples=10, dtypes=["float64"], raises=False, strict=strict
    )


@pytest.mark.sampled(10)
@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.check}-{type(row.wrong).__name__}")
def test_the_check_finds_its_bug_and_passes_the_code_without_it(row):
    report = run(row.wrong, row.check)
    assert report.verdict is Verdict.FAILED
    assert {(f.check, f.block) for f in report.findings} == {(row.check, row.block)}
    assert row.says in report.findings[0].message
    assert run(row.right, row.check, strict=False).verdict is Verdict.PASSED


def test_every_check_has_a_bug_of_its_own():
    assert {row.check for row in TABLE} == set(NAMES)
