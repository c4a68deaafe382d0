"""What is wrong in the backward pass of a normalisation inside a cell is named."""

import numpy as np
import pytest
from subjects import Normalised

import bpttcheck


def said(cell):
    report = bpttcheck.check(
        cell, checks=["step_vjp"], dtypes=["float64"], examples=4, raises=False
    )
    assert not [note for note in report.notes if "broke down" in note]
    return {f.block: [(d.code, d.sentence) for d in f.diagnoses] for f in report.findings}


def test_the_right_one_passes():
    assert said(Normalised()) == {}


def mean(a, axis=1):
    return a.mean(axis=axis, keepdims=True)


WRONG = {
    "the mean over the batch": (
        lambda d, n, s: (d - mean(d, 0) - n * mean(d * n)) / s,
        "broadcast-row", "goes over axis 0, but should go over axis 1"),
    "the variance over the batch": (
        lambda d, n, s: (d - mean(d) - n * mean(d * n, 0)) / s,
        "broadcast-row", "the sum in d_s goes over axis 0"),
    "no variance": (
        lambda d, n, s: (d - mean(d)) / s,
        "missing-path", "the path through the product is missing"),
    "half the variance": (
        lambda d, n, s: (d - mean(d) - 0.5 * n * mean(d * n)) / s,
        "missing-path", "half of the product"),
    "a sum for a mean": (
        lambda d, n, s: (d - mean(d) - n * np.sum(d * n, 1, keepdims=True)) / s,
        "scale", "counts times n_hidden"),
}  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("change", "code", "words"), WRONG.values(), ids=WRONG)
def test_the_mistake_is_named(change, code, words):
    class Wrong(Normalised):
        def normalised_back(self, d_n, n, s):
            return change(d_n, n, s)

    found = said(Wrong())
    assert {"d_x", "d_previous_state"} <= set(found)
    for first, *_ in found.values():
        assert first[0] == code
        assert words in first[1]
