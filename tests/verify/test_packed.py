"""Functions of packed and padded sequences, and their usual mistakes."""

from itertools import pairwise

import numpy as np
import pytest

import bpttcheck
from bpttcheck.judge.run import Run
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.checks import CHECKS

pytestmark = pytest.mark.usefixtures("as_found")


def segments(cu):
    return list(pairwise(cu))


def forward(x, cu, h0, W):
    """``h[t] = tanh(h[t-1] W + x[t])`` over rows that stand one after another."""
    h = np.zeros_like(x)
    for row, (start, stop) in enumerate(segments(cu)):
        last = h0[row]
        for t in range(start, stop):
            last = h[t] = np.tanh(last @ W + x[t])
    return h, (h, cu, h0, W)


def backward(dh, cache, leak=False):
    h, cu, h0, W = cache
    dx, dh0, dW = np.zeros_like(h), np.zeros_like(h0), np.zeros_like(W)
    carry = np.zeros_like(h0[0])
    for row, (start, stop) in reversed(list(enumerate(segments(cu)))):
        if not leak:
            carry = np.zeros_like(h0[0])
        for t in range(stop - 1, start - 1, -1):
            da = (dh[t] + carry) * (1 - h[t] ** 2)
            last = h[t - 1] if t > start else h0[row]
            dx[t], carry = da, da @ W.T
            dW += np.outer(last, da)
        dh0[row] = carry if stop > start else 0
    return dx, dh0, dW


PACKED = "x: S H, cu: N+1 offsets S, h0: N H, W: H H -> h: S H"


def check(f, g, signature, **options):
    return bpttcheck.check_vjp(f, g, signature, examples=20, raises=False, **options)


def test_a_packed_batch_is_its_rows():
    report = check(forward, backward, PACKED, grads="dx, dh0, dW")
    assert report.passed, report
    packed = next(one for one in report.checks if one.name == "batch_additivity")
    assert packed.cases == 10


def test_a_carry_that_leaks_into_the_row_before_is_found():
    wrong = check(forward, lambda dh, cache: backward(dh, cache, True), PACKED, grads="dx, dh0, dW")
    assert {"vjp", "batch_additivity"} <= {f.check for f in wrong.findings}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_a_finding_is_found_again_on_its_own_problem(kind):
    if kind == "packed":
        functions = forward, lambda dh, cache: backward(dh, cache, True)
        name, text, grads = "batch_additivity", PACKED, "dx, dh0, dW"
    else:
        name, text, grads, functions = "masking", PADDED, "dx, dW", (reads_padding, of_the_mean)
    subject = bpttcheck.adapt.from_vjp(*functions, text, grads=grads)
    report = bpttcheck.check(subject, examples=20, raises=False)
    (finding,) = [f for f in report.findings if f.check == name]
    run = Run(Subject(subject), 0, ("float64", "float32"))
    assert CHECKS[name].on_problem(run, finding.problem).findings


def reads_padding(x, lens, W):
    return np.tanh(x.mean(axis=1, keepdims=True) @ W) + 0 * (x @ W), (x, W)


def of_the_mean(dh, cache):
    x, W = cache
    mean = x.mean(axis=1, keepdims=True)
    da = dh.sum(axis=1, keepdims=True) * (1 - np.tanh(mean @ W) ** 2)
    return np.broadcast_to(da @ W.T / x.shape[1], x.shape), np.einsum("ntd,nth->dh", mean, da)


def padded(x, lens, W):
    real = np.arange(x.shape[1]) < lens[:, None]
    clean = np.where(real[:, :, None], x, 0)
    return np.tanh(clean @ W), (clean, real, W)


def padded_vjp(dh, cache):
    clean, real, W = cache
    da = np.where(real[:, :, None], dh * (1 - np.tanh(clean @ W) ** 2), 0)
    return da @ W.T, np.einsum("ntd,nth->dh", clean, da)


def product(x, lens, W):
    real = (np.arange(x.shape[1]) < lens[:, None])[:, :, None]
    return np.tanh((x * real) @ W), (x * real, real, W)


PADDED = "x: N T D, lens: N within T, W: D H -> h: N T H"


def test_what_stands_in_the_padding_reaches_nothing():
    report = check(padded, padded_vjp, PADDED, grads="dx, dW")
    assert report.passed, report
    assert next(one for one in report.checks if one.name == "masking").cases == 10


def test_a_product_with_a_mask_keeps_nan():
    def vjp(dh, cache):
        clean, real, W = cache
        da = dh * real * (1 - np.tanh(clean @ W) ** 2)
        return da @ W.T, np.einsum("ntd,nth->dh", clean, da)

    report = check(product, vjp, PADDED, grads="dx, dW")
    assert report.passed
    assert [one.check for one in report.remarks] == ["masking"]


def test_a_gradient_that_reads_the_padding_is_found():
    def leaky(dh, cache):
        clean, _, W = cache
        da = dh * (1 - np.tanh(clean @ W) ** 2)
        return da @ W.T, np.einsum("ntd,nth->dh", clean, da)

    def forward(x, lens, W):
        real = np.arange(x.shape[1]) < lens[:, None]
        return np.where(real[:, :, None], np.tanh(x @ W), 0), (x, real, W)

    report = check(forward, leaky, PADDED, grads="dx, dW")
    assert "vjp" in {f.check for f in report.findings}


def test_an_output_that_reads_the_padding_is_found():
    report = check(reads_padding, of_the_mean, PADDED, grads="dx, dW")
    assert [f.check for f in report.findings] == ["masking"]


@pytest.mark.parametrize("text", ["lens: N packs S", "cu: N+1 offsets S", "lens: N within S"])
def test_lengths_fit_their_axis(text):
    from bpttcheck.problems.function_rows import draw_lengths, lengths_leaf
    from bpttcheck.signature import Signature

    leaf = lengths_leaf(Signature.parse(f"x: S D, {text} -> y: S D"))
    for seed in range(50):
        found = draw_lengths(leaf, {"S": 5, "N": 3, "D": 2}, np.random.default_rng(seed))
        lengths = np.diff(found) if leaf.kind == "offsets" else found
        assert len(lengths) == 3
        assert lengths.min() >= 0
        assert lengths.sum() == 5 or leaf.kind == "within"
