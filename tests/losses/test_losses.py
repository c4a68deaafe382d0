from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest

from bpttcheck import losses
from bpttcheck.errors import ContractError
from bpttcheck.jax_mode import enable_x64
from bpttcheck.losses import (
    LOSSES,
    BinaryCrossEntropy,
    Huber,
    Loss,
    SoftmaxCrossEntropy,
    SquaredError,
)
from bpttcheck.oracles.tracer.trace import lift

T, B, F = 4, 3, 5
REDUCTIONS = ["mean", "sum"]


def case(name, dtype=np.float64):
    """Outputs and targets (T, B, F) for the loss of this name."""
    rng = np.random.default_rng(0)
    outputs = rng.standard_normal((T, B, F)).astype(dtype)
    if name == "softmax_cross_entropy":
        return outputs, rng.integers(0, F, (T, B))
    return outputs, rng.uniform(0, 1, (T, B, F))


def a_mask():
    mask = np.ones((T, B), bool)
    mask[2:, 0] = mask[1:, 2] = False
    return mask


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_a_masked_loss_is_the_loss_of_the_real_steps_alone(name, reduction):
    loss = LOSSES[name](reduction=reduction)
    outputs, targets = case(name)
    mask = a_mask()
    alone = loss.value(outputs[mask], targets[mask])
    assert loss.value(outputs, targets, mask) == pytest.approx(alone, rel=1e-14)
    gradient = loss.gradient(outputs, targets, mask)
    np.testing.assert_allclose(gradient[mask], loss.gradient(outputs[mask], targets[mask]))
    assert (gradient[~mask] == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_is_the_sum_over_the_number_of_real_steps(name):
    outputs, targets = case(name)
    mask = a_mask()
    mean, total = LOSSES[name](), LOSSES[name](reduction="sum")
    n = mask.sum()
    assert mean.value(outputs, targets, mask) * n == pytest.approx(
        total.value(outputs, targets, mask), rel=1e-14
    )


@pytest.mark.parametrize("name", LOSSES)
def test_padding_may_hold_anything(name):
    loss = LOSSES[name]()
    outputs, targets = case(name)
    mask = a_mask()
    expected = loss.value(outputs, targets, mask), loss.gradient(outputs, targets, mask)
    for rubbish in (np.nan, np.inf, 1e308):
        outputs[~mask] = rubbish
        targets[~mask] = 10**6 if targets.dtype.kind == "i" else np.nan
        assert loss.value(outputs, targets, mask) == expected[0]
        np.testing.assert_array_equal(loss.gradient(outputs, targets, mask), expected[1])


def test_an_ignored_step_counts_no_more_than_a_masked_one():
    outputs, targets = case("softmax_cross_entropy")
    for options in ({}, {"label_smoothing": 0.2, "class_weights": (1, 2, 3, 4, 5)}):
        masked = SoftmaxCrossEntropy(**options)
        ignoring = SoftmaxCrossEntropy(**options, ignored=2)
        keep = targets != 2
        assert not keep.all()
        assert ignoring.value(outputs, targets) == masked.value(outputs, targets, keep)
        gradient = ignoring.gradient(outputs, targets)
        np.testing.assert_array_equal(gradient, masked.gradient(outputs, targets, keep))
        assert (gradient[~keep] == 0).all()


def test_the_weighted_mean_of_labels_divides_by_the_weights_of_the_labels():
    outputs, targets = np.zeros((2, 3)), np.array([0, 2])
    loss = SoftmaxCrossEntropy(class_weights=[1.0, 5.0, 3.0])
    assert loss.value(outputs, targets) == pytest.approx(np.log(3))
    assert loss.gradient(outputs, targets)[1, 2] == pytest.approx(3 / 4 * (1 / 3 - 1))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_the_dtype_is_that_of_the_outputs_and_nothing_given_is_changed(name, dtype, reduction):
    loss = LOSSES[name](reduction=reduction)
    outputs, targets = case(name, dtype)
    mask = a_mask()
    kept = outputs.copy(), targets.copy(), mask.copy()
    for m in (None, mask):
        assert loss.value(outputs, targets, m).dtype == dtype
        assert np.ndim(loss.value(outputs, targets, m)) == 0
        gradient = loss.gradient(outputs, targets, m)
        assert (gradient.dtype, gradient.shape) == (dtype, outputs.shape)
    for given, before in zip((outputs, targets, mask), kept, strict=True):
        np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize(
    "loss",
    [
        SoftmaxCrossEntropy(np.float64(0.1), np.arange(1.0, F + 1)),
        BinaryCrossEntropy(np.arange(1.0, F + 1)),
        BinaryCrossEntropy(np.float64(2.0)),
        Huber(np.float64(2.0)),
    ],
)
def test_options_in_float64_leave_float32_alone(loss):
    name = "softmax_cross_entropy" if isinstance(loss, SoftmaxCrossEntropy) else "other"
    outputs, targets = case(name, np.float32)
    assert loss.value(outputs, targets).dtype == np.float32
    assert loss.gradient(outputs, targets).dtype == np.float32


@pytest.mark.parametrize("name", LOSSES)
def test_no_step_sums_to_zero(name):
    loss = LOSSES[name](reduction="sum")
    outputs, targets = case(name)
    assert loss.value(outputs, targets, np.zeros((T, B), bool)) == 0
    assert loss.value(outputs[:0], targets[:0]) == 0
    assert loss.gradient(outputs[:0], targets[:0]).shape == (0, B, F)


def test_a_mean_of_large_losses_does_not_overflow():
    outputs = np.array([[1e308, 0.0]] * 4)
    assert SoftmaxCrossEntropy().value(outputs, np.ones(4, int)) == pytest.approx(1e308)


@pytest.mark.parametrize("name", LOSSES)
def test_jax_differentiates_the_value_to_the_gradient_also_where_terms_tie(name):
    jax = pytest.importorskip("jax", reason="the code is traced by JAX")
    loss = LOSSES[name]()
    outputs, targets = case(name)
    mask = a_mask()
    outputs[0] = 0.0  # equal logits, |z| = 0
    outputs[2, 0] = np.nan  # padding
    if name != "softmax_cross_entropy":
        targets[0, 0], outputs[0, 0] = [0, 1, 0, 1, 0.5], [1.0, 0.0, -1.0, 0.0, 0.0]  # |r| = delta
    with enable_x64(True):
        by_jax = jax.grad(lift(lambda o: loss.value(o, targets, mask)))(jax.numpy.asarray(outputs))
    np.testing.assert_allclose(by_jax, loss.gradient(outputs, targets, mask), rtol=0, atol=1e-16)


@pytest.mark.parametrize("name", LOSSES)
def test_all_arguments_can_be_traced(name):
    jax = pytest.importorskip("jax", reason="the code is traced by JAX")
    loss = LOSSES[name]()
    outputs, targets = case(name)
    mask = a_mask()
    with enable_x64(True):
        value = jax.jit(lift(loss.value))(outputs, targets, mask)
        gradient = jax.jit(lift(loss.gradient))(outputs, targets, mask)
    np.testing.assert_allclose(value, loss.value(outputs, targets, mask), rtol=1e-14)
    np.testing.assert_allclose(gradient, loss.gradient(outputs, targets, mask), atol=1e-15)


o, labels, numbers = np.zeros((2, 3, 4)), np.zeros((2, 3), int), np.full((2, 3, 4), 0.25)
CE, SE, BCE = SoftmaxCrossEntropy(), SquaredError(), BinaryCrossEntropy()


def put(array, position, value):
    array = array.copy()
    array[position] = value
    return array


WRONG = {
    "label too large": (CE, o, put(labels, (1, 2), 4), None, r"targets\[1, 2\]=4.*range 0\.\.3"),
    "label negative": (CE, o, put(labels, (0, 1), -1), None, r"targets\[0, 1\]=-1.*range 0\.\.3"),
    "floating labels": (CE, o, labels * 1.0, None, r"dtype=float64, expected integer labels"),
    "bool labels": (CE, o, labels > 0, None, "dtype=bool, expected integer labels"),
    "integer one-hot": (CE, o, o.astype(int), None, r"expected integer labels .*\(2, 3\)"),
    "labels of another shape": (CE, o, labels[:1], None, r"targets\.shape=\(1, 3\)"),
    "probabilities of another shape": (CE, o, numbers[..., :2], None, r"shape=\(2, 3, 2\)"),
    "negative probability": (CE, o, put(numbers, (1, 0, 2), -0.1), None, r"\[1, 0, 2\]=-0\.1"),
    "NaN probability": (CE, o, put(numbers, (1, 0, 2), np.nan), None, r"\[1, 0, 2\]=nan"),
    "not normalised": (CE, o, numbers * put(o + 1, (1, 2), 0.9), None, r"\[1, 2, :\] adds up to 0"),
    "no class": (CE, o[..., :0], labels, None, "at least one class"),
    "probabilities with ignored": (SoftmaxCrossEntropy(ignored=1), o, numbers, None, "ignored=1"),
    "too few class weights": (
        SoftmaxCrossEntropy(class_weights=[1, 2]), o, labels, None, "length 2 .*expected length 4",
    ),
    "all ignored": (SoftmaxCrossEntropy(ignored=0), o, labels, None, "nothing to average"),
    "weights all zero": (
        SoftmaxCrossEntropy(class_weights=[0, 1, 1, 1]), o, labels, None, "nothing to average",
    ),
    "mask all false": (SE, o, numbers, np.zeros((2, 3), bool), "nothing to average"),
    "empty batch": (Huber(), o[:, :0], numbers[:, :0], None, "nothing to average"),
    "integer mask": (SE, o, numbers, labels, "mask.dtype=int64, expected .* bool"),
    "mask of another shape": (BCE, o, numbers, np.ones((2, 3, 4), bool), r"expected \(2, 3\)"),
    "mask as list": (SE, o, numbers, [True], "mask of type list"),
    "targets that would broadcast": (SE, o, numbers[..., :1], None, r"the shape \(2, 3, 4\)"),
    "targets as list": (Huber(), o, [1.0], None, "targets of type list"),
    "complex targets": (SE, o, numbers * 1j, None, "complex128"),
    "integer outputs": (SE, o.astype(int), numbers, None, "outputs.dtype=int64"),
    "outputs of no axis": (SE, np.array(1.0), np.array(1.0), None, r"outputs\.shape=\(\)"),
    "NaN target": (SE, o, put(numbers, (0, 2, 1), np.nan), None, r"targets\[0, 2, 1\]=nan"),
    "infinite target": (Huber(), o, put(numbers, (0, 2, 1), np.inf), None, r"\[0, 2, 1\]=inf"),
    "binary target above 1": (BCE, o, put(numbers, (0, 2, 1), 1.5), None, r"\[0, 2, 1\]=1\.5"),
    "binary NaN target": (BCE, o, put(numbers, (0, 2, 1), np.nan), None, r"\[0, 2, 1\]=nan"),
    "too few positive weights": (
        BinaryCrossEntropy((1.0, 2.0)), o, numbers, None, "positive_weight of length 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_named_by_value_gradient_and_validate_alike(name):
    loss, outputs, targets, mask, message = WRONG[name]
    for method in (loss.value, loss.gradient, loss.validate):
        with pytest.raises(ContractError, match=message) as caught:
            method(outputs, targets, mask)
        assert caught.value.method == "validate"
        assert caught.value.item


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftmaxCrossEntropy(label_smoothing=1.0), r"label_smoothing=1\.0.*\[0, 1\)"),
        (lambda: SoftmaxCrossEntropy(label_smoothing=-0.1), "label_smoothing"),
        (lambda: SoftmaxCrossEntropy(label_smoothing=np.nan), "label_smoothing"),
        (lambda: SoftmaxCrossEntropy(class_weights=[1, -1]), r"class_weights\[1\]=-1"),
        (lambda: SoftmaxCrossEntropy(class_weights=[np.nan]), r"class_weights\[0\]=nan"),
        (lambda: SoftmaxCrossEntropy(class_weights=2.0), r"class_weights of shape \(\)"),
        (lambda: SoftmaxCrossEntropy(ignored=1.0), "ignored=1.0"),
        (lambda: SoftmaxCrossEntropy(reduction="none"), "'none'.*'mean' or 'sum'"),
        (lambda: SquaredError(reduction=None), "reduction=None"),
        (lambda: Huber(delta=0.0), r"delta=0\.0"),
        (lambda: Huber(delta=np.nan), "delta=nan"),
        (lambda: Huber(delta=np.inf), "delta=inf"),
        (lambda: BinaryCrossEntropy(positive_weight=-1.0), "positive_weight=-1"),
        (lambda: BinaryCrossEntropy(positive_weight=[1.0, np.inf]), r"positive_weight\[1\]=inf"),
        (lambda: LOSSES["huber"](epsilon=1), "Huber has no option epsilon.*delta, reduction"),
    ],
)
def test_a_wrong_option_is_named_when_the_loss_is_made(make, message):
    with pytest.raises(ContractError, match=message):
        make()


def test_while_traced_a_wrong_shape_is_still_named():
    pytest.importorskip("jax", reason="the code is traced by JAX")
    with enable_x64(True), pytest.raises(ContractError, match=r"targets\.shape"):
        lift(SE.value)(o, numbers[:1])


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_got_by_name_and_is_frozen_comparable_and_can_be_sent(name):
    loss = losses.get(name)
    assert isinstance(loss, Loss)
    assert loss == LOSSES[name]()
    assert pickle.loads(pickle.dumps(loss)) == loss
    with pytest.raises(dataclasses.FrozenInstanceError):
        loss.reduction = "sum"
    assert losses.get(loss) is loss


def test_weights_given_as_an_array_leave_the_loss_comparable():
    assert SoftmaxCrossEntropy(class_weights=np.ones(2)) == SoftmaxCrossEntropy(
        class_weights=[1, 1]
    )
    assert hash(BinaryCrossEntropy(np.ones(2))) == hash(BinaryCrossEntropy((1.0, 1.0)))


@pytest.mark.parametrize("given", ["hubert", Huber, 3, None])
def test_an_unknown_loss_is_answered_with_the_names(given):
    with pytest.raises(ContractError, match="expected one of softmax_cross_entropy, squared_error"):
        losses.get(given)


def test_the_index_knows_its_names_and_costs_nothing():
    assert set(losses.__all__) <= set(dir(losses))
    with pytest.raises(AttributeError, match="no attribute 'Hinge'"):
        _ = losses.Hinge
    code = "import sys, bpttcheck.losses; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
