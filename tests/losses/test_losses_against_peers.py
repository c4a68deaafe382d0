from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpttcheck.losses import BinaryCrossEntropy, Huber, SoftmaxCrossEntropy, SquaredError

REDUCTIONS = st.sampled_from(["mean", "sum"])
LEADING = st.sampled_from([(), (4,), (3, 2), (2, 3, 2)])


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is the peer that is compared with")


@st.composite
def problems(draw, scales=(0.1, 1.0, 30.0)):
    """Leading shape, width, outputs, and a mask with at least one real step (or None)."""
    leading, width = draw(LEADING), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    outputs = rng.standard_normal((*leading, width)) * draw(st.sampled_from(scales))
    mask = rng.random(leading) < 0.6
    mask = np.asarray(mask)
    mask.flat[0] = True
    return rng, outputs, draw(st.sampled_from([None, mask]))


def compare(loss, outputs, targets, mask, by_torch):
    """``by_torch`` is a function of the real steps' outputs, flat ``(N, F)``, to a scalar."""
    import torch

    real = np.ones(outputs.shape[:-1], bool) if mask is None else mask
    argument = torch.tensor(outputs, requires_grad=True)
    theirs = by_torch(argument[torch.tensor(real)], targets[real])
    theirs.backward()
    value = loss.value(outputs, targets, mask)
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-12, atol=1e-14)
    gradient = loss.gradient(outputs, targets, mask)
    np.testing.assert_allclose(gradient, argument.grad.numpy(), rtol=1e-12, atol=1e-14)
    assert (gradient[~real] == 0).all()


@given(problems(), REDUCTIONS, st.sampled_from([0.0, 0.1, 0.7]), st.booleans(), st.booleans())
def test_cross_entropy_of_labels_is_that_of_torch(
    torch, problem, reduction, smoothing, weighted, ignoring
):
    rng, outputs, mask = problem
    C = outputs.shape[-1]
    targets = np.asarray(rng.integers(0, C, outputs.shape[:-1]))
    if ignoring:
        targets = np.where(rng.random(targets.shape) < 0.3, -7, targets)
        targets.flat[0] = 0
    weights = rng.uniform(0.1, 3.0, C) if weighted else None
    ignored = -7 if ignoring else None
    loss = SoftmaxCrossEntropy(smoothing, weights, ignored, reduction)

    def by_torch(o, y):
        return torch.nn.functional.cross_entropy(
            o,
            torch.tensor(y),
            weight=None if weights is None else torch.tensor(weights),
            ignore_index=-7,
            reduction=reduction,
            label_smoothing=smoothing,
        )

    compare(loss, outputs, targets, mask, by_torch)


@given(problems(), REDUCTIONS, st.sampled_from([0.0, 0.1, 0.7]), st.booleans())
def test_cross_entropy_of_probabilities_is_that_of_torch(
    torch, problem, reduction, smoothing, weighted
):
    rng, outputs, mask = problem
    C = outputs.shape[-1]
    targets = rng.uniform(0, 1, outputs.shape)
    targets /= targets.sum(axis=-1, keepdims=True)
    weights = rng.uniform(0.1, 3.0, C) if weighted else None
    loss = SoftmaxCrossEntropy(smoothing, weights, reduction=reduction)

    def by_torch(o, y):
        return torch.nn.functional.cross_entropy(
            o,
            torch.tensor(y),
            weight=None if weights is None else torch.tensor(weights),
            reduction=reduction,
            label_smoothing=smoothing,
        )

    compare(loss, outputs, targets, mask, by_torch)


def over_steps(total, o, reduction):
    """Torch's mean is over entries, ours over steps."""
    return total / len(o) if reduction == "mean" else total


@given(problems(), REDUCTIONS)
def test_squared_error_is_that_of_torch_summed_over_features(torch, problem, reduction):
    rng, outputs, mask = problem
    targets = rng.standard_normal(outputs.shape)

    def by_torch(o, y):
        total = torch.nn.functional.mse_loss(o, torch.tensor(y), reduction="sum")
        return over_steps(total, o, reduction)

    compare(SquaredError(reduction), outputs, targets, mask, by_torch)


@given(problems(), REDUCTIONS, st.sampled_from([0.01, 1.0, 5.0]))
def test_huber_is_that_of_torch_summed_over_features(torch, problem, reduction, delta):
    rng, outputs, mask = problem
    targets = rng.standard_normal(outputs.shape)

    def by_torch(o, y):
        total = torch.nn.functional.huber_loss(o, torch.tensor(y), reduction="sum", delta=delta)
        return over_steps(total, o, reduction)

    compare(Huber(delta, reduction), outputs, targets, mask, by_torch)


@given(problems(), REDUCTIONS, st.sampled_from(["none", "number", "each"]), st.booleans())
def test_binary_cross_entropy_is_that_of_torch_summed_over_features(
    torch, problem, reduction, weighted, hard
):
    rng, outputs, mask = problem
    targets = rng.uniform(0, 1, outputs.shape)
    targets = targets.round() if hard else targets
    size = {"none": None, "number": 1, "each": outputs.shape[-1]}[weighted]
    weight = np.ones(1) if size is None else rng.uniform(0, 3, size)
    option = weight if weighted == "each" else float(weight[0])

    def by_torch(o, y):
        total = torch.nn.functional.binary_cross_entropy_with_logits(
            o, torch.tensor(y), reduction="sum", pos_weight=torch.tensor(weight)
        )
        return over_steps(total, o, reduction)

    compare(BinaryCrossEntropy(option, reduction), outputs, targets, mask, by_torch)


EXTREME = [-1e308, -1e3, -40.0, -1.0, 0.0, 1e-300, 1.0, 40.0, 1e3, 1e308]


@pytest.fixture(scope="module")
def mp():
    return pytest.importorskip("mpmath", reason="the exact values come from mpmath").mp


@given(logits=st.lists(st.sampled_from(EXTREME), min_size=1, max_size=4), data=st.data())
def test_cross_entropy_at_extreme_logits_is_exact_to_rounding(mp, logits, data):
    label = data.draw(st.integers(0, len(logits) - 1))
    o, y = np.array([logits]), np.array([label])
    value = SoftmaxCrossEntropy().value(o, y)
    gradient = SoftmaxCrossEntropy().gradient(o, y)
    with mp.workdps(700):  # exp(-1000) beside 1 has 435 digits
        shifted = [mp.mpf(z) - mp.mpf(max(logits)) for z in logits]
        total = mp.fsum(mp.exp(z) for z in shifted)
        exact = mp.log(total) - shifted[label]
        p = [float(mp.exp(z) / total) for z in shifted]
    largest = np.finfo(float).max
    assert value == pytest.approx(min(float(min(exact, mp.mpf(largest))), largest), abs=1e-15)
    p[label] -= 1
    np.testing.assert_allclose(gradient[0], p, rtol=1e-13, atol=3e-16)


@pytest.mark.parametrize("y", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("z", EXTREME)
def test_binary_cross_entropy_at_extreme_logits_keeps_its_digits(mp, z, y):
    loss = BinaryCrossEntropy(positive_weight=0.5)
    o, t = np.array([[z]]), np.array([[y]])
    with mp.workdps(700):
        # Beyond 2000 the exponential is nothing beside 700 digits.
        plus, minus = (
            max(a, mp.mpf(0)) + (mp.log1p(mp.exp(-abs(a))) if abs(a) < 2000 else 0)
            for a in (mp.mpf(z), -mp.mpf(z))
        )
        s = 1 / (1 + mp.exp(-mp.mpf(max(min(z, 2000), -2000))))
        exact = mp.mpf(y) / 2 * minus + (1 - mp.mpf(y)) * plus
        slope = (1 - mp.mpf(y)) * s - mp.mpf(y) / 2 * (1 - s)
        exact, slope = float(exact), float(slope)
    assert loss.value(o, t) == pytest.approx(exact, rel=1e-14, abs=1e-323)
    assert loss.gradient(o, t)[0, 0] == pytest.approx(slope, rel=1e-14, abs=1e-300)


@pytest.mark.parametrize("z", [-1e308, -1e3, 1e3, 1e308])
def test_huber_far_from_the_target_does_not_square(z):
    o, y = np.array([[z]]), np.zeros((1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Huber(0.5).value(o, y) == pytest.approx(0.5 * (abs(z) - 0.25), rel=1e-15)
        assert Huber(0.5).gradient(o, y)[0, 0] == np.sign(z) * 0.5


def test_a_logit_of_minus_infinity_forbids_a_class():
    o, y = np.array([[-np.inf, 0.0, 0.0]]), np.array([1])
    assert SoftmaxCrossEntropy().value(o, y) == pytest.approx(np.log(2))
    np.testing.assert_allclose(SoftmaxCrossEntropy().gradient(o, y), [[0, -0.5, 0.5]])
