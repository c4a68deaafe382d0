"""Whole functions whose `if`s and integers depend on values: JAX traces what runs at the point."""

import numpy as np
import pytest

import bpttcheck
from bpttcheck import Verdict

SIGNATURE = "x: K D, W: D H -> y: K H"


def normalised(x, W):
    y = x @ W
    n = np.sqrt((y * y).sum())
    out = y / n if n > 1.0 else y * 2.0
    return out, (x, W, y, n)


def normalised_vjp(d, cache):
    x, W, y, n = cache
    dy = d / n - y * (d * y).sum() / n**3 if n > 1.0 else d * 2.0
    return dy @ W.T, x.T @ dy


def as_a_constant(d, cache):
    x, W, _, n = cache
    dy = d / n if n > 1.0 else d * 2.0
    return dy @ W.T, x.T @ dy


def picked(x, labels):
    out = 0.0 * x.sum()
    for t in range(len(labels)):
        out = out + x[t, int(labels[t])] ** 2
    return out, (x, labels)


def picked_vjp(d, cache):
    x, labels = cache
    d_x = np.zeros_like(x)
    for t, label in enumerate(labels):
        d_x[t, int(label)] = 2 * d * x[t, int(label)]
    return d_x


def jax_judged(report):
    return next(c for c in report.checks if c.name == "vjp").oracles.get("jax", 0)


def check(forward, backward, signature, **options):
    return bpttcheck.check_vjp(
        forward, backward, signature, examples=12, checks=["vjp"], dtypes=["float64"],
        raises=False, **options,
    )  # fmt: skip


def test_an_if_on_values_is_traced_as_the_point_decides_it():
    report = check(normalised, normalised_vjp, SIGNATURE)
    assert report.passed
    assert jax_judged(report) == 10  # two are too long for a program


def test_a_wrong_gradient_in_one_of_the_branches_is_found(as_found):
    report = check(normalised, as_a_constant, SIGNATURE)
    assert report.verdict is Verdict.FAILED
    assert report.findings[0].jax is not None


def test_tokens_may_become_python_integers():
    report = check(picked, picked_vjp, "x: T V, labels: T < V -> y:", grads="d_x")
    assert report.passed
    assert jax_judged(report) >= 8


def through_a_float(x):
    return x * float(x.sum() > 0) + x * float(x[0, 0]), x


def through_a_float_vjp(d, x):
    gradient = d * (float(x.sum() > 0) + x[0, 0])
    gradient[0, 0] += (d * x).sum()
    return gradient


def test_a_float_of_a_value_would_lose_its_derivative_and_is_declined():
    report = check(through_a_float, through_a_float_vjp, "x: K D -> y: K D")
    assert report.passed
    assert jax_judged(report) == 0


def many_ways(x):
    return x * sum(2.0**i for i, value in enumerate(x[0]) if value > 0), x


def many_ways_vjp(d, x):
    return d * sum(2.0**i for i, value in enumerate(x[0]) if value > 0)


@pytest.mark.nightly
def test_few_ways_through_the_code_are_compiled():
    report = bpttcheck.check_vjp(
        many_ways, many_ways_vjp, "x: K D -> y: K D where D in 6", checks=["vjp"],
        dtypes=["float64"], raises=False,
    )  # fmt: skip
    assert report.passed
    (check,) = (c for c in report.checks if c.name == "vjp")
    assert any("more than 8 ways" in note for note in check.notes)
