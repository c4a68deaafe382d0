from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import strategies as st

import bpttcheck
from bpttcheck.jax_mode import enable_x64
from bpttcheck.losses import BinaryCrossEntropy, Huber, SoftmaxCrossEntropy, SquaredError
from bpttcheck.losses import base as losses_base
from bpttcheck.oracles.tracer.trace import lift

C = 3


def labels(seed, n):
    # The first step is real and never of class 2: there is always something to average.
    return np.where(np.arange(n) == 0, seed % 2, (seed + np.arange(n)) % C)


def probabilities(seed, n):
    odds = 1.0 + (seed + np.arange(n * C).reshape(n, C)) % 4
    return odds / odds.sum(axis=1, keepdims=True)


def numbers(seed, n):
    return np.cos(seed + np.arange(n * C).reshape(n, C) * 0.7)


def bits(seed, n):
    return ((seed + np.arange(n * C).reshape(n, C)) % 5) / 4.0


@dataclasses.dataclass(frozen=True)
class Totals:
    """The state adds up a loss; each row of x, scaled, is a sequence of outputs (n, C)."""

    loss: object
    targets: object
    carried: bool = False  # whether the targets depend on an integer of the state
    sizes = st.just((3 * C, 1))  # one size, so that few programs are compiled

    def init(self, rng, n_in, n_hidden):
        return {"s": rng.uniform(0.5, 2.0, n_in)}

    def initial_state(self, params, batch_size):
        return {"total": np.zeros(batch_size, params["s"].dtype), "seed": np.arange(batch_size)}

    def arguments(self, o, seed):
        n = o.shape[0] // C
        return o.reshape(n, C), self.targets(seed if self.carried else 1, n), np.arange(n) % 3 != 1

    def step(self, params, state, x):
        o = x * params["s"]
        rows = range(x.shape[0])
        lost = np.stack([self.loss.value(*self.arguments(o[b], state["seed"][b])) for b in rows])
        total = state["total"] + lost
        return {"total": total, "seed": state["seed"] + 1}, total[:, None], (x, state["seed"], o)

    def step_vjp(self, params, cache, d_state, d_y):
        x, seed, o = cache
        d_total = d_state["total"] + d_y[:, 0]
        rows = range(x.shape[0])
        d_lost = [self.loss.gradient(*self.arguments(o[b], seed[b])).ravel() for b in rows]
        d_o = d_total[:, None] * np.stack(d_lost)
        d_previous = {"total": d_total, "seed": np.zeros_like(seed)}
        return {"s": (d_o * x).sum(axis=0)}, d_previous, d_o * params["s"]


SUBJECTS = {
    "labels, weights, smoothing, ignored": (
        SoftmaxCrossEntropy(label_smoothing=0.3, class_weights=(0.5, 2.0, 0.1), ignored=2),
        labels,
        True,
    ),
    "probabilities, weights, smoothing": (
        SoftmaxCrossEntropy(label_smoothing=0.1, class_weights=(0.5, 2.0, 0.1)),
        probabilities,
    ),
    "squared": (SquaredError(), numbers),
    "huber, delta": (Huber(delta=0.25, reduction="sum"), numbers),
    "binary, weights": (BinaryCrossEntropy(positive_weight=(0.5, 1.0, 4.0)), bits),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", list(SUBJECTS))
def test_the_checker_passes_every_loss(name):
    # The other checks are about time and rows, which here are the adapter's and not the loss's:
    # it calls the loss row by row, and each row is traced and compiled anew.
    options = {"checks": ["contract", "purity", "step_vjp"], "batches": [2], "dtypes": ["float64"]}
    report = bpttcheck.check(Totals(*SUBJECTS[name]), examples=6, **options)
    assert report.passed
    # Nothing was declined: JAX traced the very code of the value.
    assert "declined" not in str(report)


class WithoutMean(SquaredError):
    def gradient(self, outputs, targets, mask=None):
        return SquaredError("sum").gradient(outputs, targets, mask)


class WithoutMask(Huber):
    def gradient(self, outputs, targets, mask=None):
        return super().gradient(outputs, targets, None)


class WithoutSmoothing(SoftmaxCrossEntropy):
    def gradient(self, outputs, targets, mask=None):
        return SoftmaxCrossEntropy(class_weights=self.class_weights).gradient(
            outputs, targets, mask
        )


class WithoutWeights(SoftmaxCrossEntropy):
    def gradient(self, outputs, targets, mask=None):
        return SoftmaxCrossEntropy(self.label_smoothing).gradient(outputs, targets, mask)


class CountsStepsNotWeights(SoftmaxCrossEntropy):
    def gradient(self, outputs, targets, mask=None):
        plain = SoftmaxCrossEntropy(class_weights=self.class_weights, reduction="sum")
        total = plain.gradient(outputs, targets, mask)
        return total / losses_base.count(mask, "mean", total.dtype)


class WithoutIgnored(SoftmaxCrossEntropy):
    def gradient(self, outputs, targets, mask=None):
        return SoftmaxCrossEntropy().gradient(outputs, targets, mask)


class WithoutPositiveWeight(BinaryCrossEntropy):
    def gradient(self, outputs, targets, mask=None):
        return BinaryCrossEntropy().gradient(outputs, targets, mask)


class AlmostRight(BinaryCrossEntropy):
    def gradient(self, outputs, targets, mask=None):
        return super().gradient(outputs, targets, mask) * outputs.dtype.type(1 + 1e-5)


PLANTED = [
    (WithoutMean(), numbers),
    (WithoutSmoothing(label_smoothing=0.1), labels),
    (WithoutMask(), numbers),
    (WithoutWeights(class_weights=(0.5, 2.0, 1.0)), labels),
    (CountsStepsNotWeights(class_weights=(0.5, 2.0, 1.0)), labels),
    (WithoutIgnored(ignored=0), labels),
    (WithoutPositiveWeight(positive_weight=3.0), bits),
    (AlmostRight(), bits),
]


@pytest.mark.sampled(1)
@pytest.mark.usefixtures("as_found")
@pytest.mark.parametrize(("loss", "targets"), PLANTED[:2])
def test_the_checker_finds_a_planted_wrong_gradient(loss, targets):
    with pytest.raises(bpttcheck.GradientMismatch, match="step_vjp"):
        bpttcheck.check(Totals(loss, targets), examples=5, checks=["step_vjp"], dtypes=["float64"])


def error(loss, targets):
    """The largest difference of the gradient from what JAX makes of the value: no diagnosis."""
    o = np.random.default_rng(0).standard_normal((3, C))
    mask = np.array([True, False, True])
    with enable_x64(True):
        by_jax = jax.grad(lift(lambda o: loss.value(o, targets(1, 3), mask)))
        exact = np.asarray(by_jax(jax.numpy.asarray(o)))
    return np.abs(loss.gradient(o, targets(1, 3), mask) - exact).max()


@pytest.mark.parametrize(("loss", "targets"), PLANTED)
def test_jax_alone_finds_each_planted_wrong_gradient_and_none_in_the_right_loss(loss, targets):
    assert error(loss, targets) > 1e-7
    options = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)}
    assert error(type(loss).__mro__[1](**options), targets) < 1e-15
