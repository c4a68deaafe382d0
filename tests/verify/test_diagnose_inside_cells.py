"""What is wrong inside a cell that normalises, attends, blends or has heads is named."""

import numpy as np
import pytest
from subjects import Normalised, Plain

import bpttcheck


class Queries(Plain):
    """h' = tanh(x U + a V), with a = softmax(h W K): the state asks three slots, right."""

    def init(self, rng, n_in, n_hidden):
        shapes = {"U": (n_in, n_hidden), "W": (n_hidden, 4), "K": (4, 3), "V": (3, n_hidden)}
        params = {k: rng.standard_normal(s) / np.sqrt(s[0]) for k, s in shapes.items()}
        return {**params, "b": np.zeros(n_hidden)}

    def step(self, params, state, x):
        q = state @ params["W"]
        e = np.exp(q @ params["K"])
        a = e / e.sum(axis=1, keepdims=True)
        h = np.tanh(x @ params["U"] + a @ params["V"] + params["b"])
        return h, h, (x, state, q, a, h)

    def step_vjp(self, params, cache, d_state, d_y):
        x, state, q, a, h = cache
        d_z = (d_state + d_y) * (1 - h * h)
        d_s = self.inside(d_z @ params["V"].T, a)
        d_q = d_s @ params["K"].T
        d_params = {"U": x.T @ d_z, "W": state.T @ d_q, "K": q.T @ d_s, "V": a.T @ d_z}
        return {**d_params, "b": d_z.sum(0)}, d_q @ params["W"].T, d_z @ params["U"].T

    def inside(self, d, a):
        return a * (d - (d * a).sum(1, keepdims=True))


class Blend(Plain):
    """h' = f v + (1 - f) h, with v = tanh(x U + b) and f = s(h W), right."""

    def init(self, rng, n_in, n_hidden):
        shapes = {"U": (n_in, n_hidden), "W": (n_hidden, n_hidden), "b": (n_hidden,)}
        return {k: rng.standard_normal(s) / np.sqrt(s[0]) for k, s in shapes.items()}

    def step(self, params, state, x):
        v = np.tanh(x @ params["U"] + params["b"])
        f = 1 / (1 + np.exp(-(state @ params["W"])))
        h = f * v + (1 - f) * state
        return h, h, (x, state, v, f)

    def step_vjp(self, params, cache, d_state, d_y):
        x, state, v, f = cache
        d_v, d_f, d_h = self.inside(d_state + d_y, state, v, f)
        d_z, d_a = d_v * (1 - v * v), d_f * f * (1 - f)
        d_params = {"U": x.T @ d_z, "W": state.T @ d_a, "b": d_z.sum(0)}
        return d_params, d_h + d_a @ params["W"].T, d_z @ params["U"].T

    def inside(self, d, h, v, f):
        return d * f, d * (v - h), d * (1 - f)


class Heads(Plain):
    """M' = f M + k k', y = M' sum b: a matrix and a decay f = s(x F) for each of two heads."""

    def init(self, rng, n_in, n_hidden):
        shapes = {"K": (n_in, 2 * n_hidden), "F": (n_in, 2), "b": (n_hidden,)}
        return {k: rng.standard_normal(s) / np.sqrt(s[0]) for k, s in shapes.items()}

    def initial_state(self, params, batch_size):
        H = len(params["b"])
        return np.zeros((batch_size, 2, H, H), params["b"].dtype)

    def step(self, params, state, x):
        k = (x @ params["K"]).reshape(len(x), 2, -1)
        f = 1 / (1 + np.exp(-(x @ params["F"])))
        new = f[:, :, None, None] * state + k[..., :, None] * k[..., None, :]
        return new, new.sum((1, 2)) * params["b"], (x, state, k, f, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, state, k, f, new = cache
        d_new = d_state + (d_y * params["b"])[:, None, None]
        d_k = np.einsum("nhij,nhj->nhi", d_new + np.swapaxes(d_new, 2, 3), k).reshape(len(x), -1)
        d_a = self.inside(d_new * state) * f * (1 - f)
        d_params = {"K": x.T @ d_k, "F": x.T @ d_a, "b": (d_y * new.sum((1, 2))).sum(0)}
        d_x = d_k @ params["K"].T + d_a @ params["F"].T
        return d_params, f[:, :, None, None] * d_new, d_x

    def inside(self, d):
        return d.sum((2, 3))


def mean(a, axis=1):
    return a.mean(axis=axis, keepdims=True)


def said(cell):
    report = bpttcheck.check(
        cell, checks=["step_vjp"], dtypes=["float64"], examples=4, raises=False
    )
    assert not [note for note in report.notes if "broke down" in note]
    return {f.block: [(d.code, d.sentence) for d in f.diagnoses] for f in report.findings}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("cell", [Normalised, Queries, Blend, Heads])
def test_the_right_one_passes(cell):
    assert said(cell()) == {}


WRONG = {
    "the mean over the batch": (
        Normalised, lambda d, n, s: (d - mean(d, 0) - n * mean(d * n)) / s,
        "broadcast-row", "goes over axis 0, but should go over axis 1"),
    "the variance over the batch": (
        Normalised, lambda d, n, s: (d - mean(d) - n * mean(d * n, 0)) / s,
        "broadcast-row", "the sum in d_s goes over axis 0"),
    "no variance": (
        Normalised, lambda d, n, s: (d - mean(d)) / s,
        "missing-path", "the path through the product is missing"),
    "half the variance": (
        Normalised, lambda d, n, s: (d - mean(d) - 0.5 * n * mean(d * n)) / s,
        "missing-path", "half of the product"),
    "a sum for a mean": (
        Normalised, lambda d, n, s: (d - mean(d) - n * np.sum(d * n, 1, keepdims=True)) / s,
        "scale", "counts times n_hidden"),
    "softmax over the batch": (
        Queries, lambda d, a: a * (d - (d * a).sum(0, keepdims=True)),
        "broadcast-row", "goes over axis 0, but should go over axis 1"),
    "the derivative of a sigmoid": (
        Queries, lambda d, a: d * a * (1 - a),
        "missing-path", "is left out: each term stands alone"),
    "a mean in the softmax": (
        Queries, lambda d, a: a * (d - mean(d * a)),
        "scale", "is made with a mean over axis 1"),
    "each other's factor": (
        Blend, lambda d, h, v, f: (d * (1 - f), d * (v - h), d * f),
        "swapped-gates", "with each other's factor, 1 - f and f"),
    "a mean over a head": (
        Heads, lambda d: d.mean((2, 3)), "scale", "is made with a mean over axes 2, 3"),
    "the other head": (
        Heads, lambda d: d.sum((2, 3))[:, ::-1], "swapped-gates", "places 0 and 1 of axis 1"),
}  # fmt: skip


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("right", "change", "code", "words"), WRONG.values(), ids=WRONG)
def test_the_mistake_is_named(right, change, code, words):
    inside = "normalised_back" if right is Normalised else "inside"
    wrong = type("Wrong", (right,), {inside: lambda self, *args: change(*args)})
    found = said(wrong())
    assert found
    for first, *_ in found.values():
        assert first[0] == code
        assert words in first[1]
