"""Functions and whole loops: mistakes that are named by the line, the quantity and the step."""

import linecache
from types import ModuleType

import numpy as np
import pytest

import bpttcheck

RIGHT = """
import numpy as np


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def forward(x, h0, W, U, b, E, tokens):
    h, steps, hs = h0, [], []
    for t in range(x.shape[1]):
        a = x[:, t] @ W + h @ U + b + E[tokens[:, t]]
        gate = sigmoid(a)
        new = np.tanh(a) * gate + h * (1 - gate)
        steps.append((h, a, gate))
        h = new
        hs.append(h)
    return np.stack(hs, axis=1), (x, W, U, tokens, E, steps)


def backward(dhs, cache):
    x, W, U, tokens, E, steps = cache
    dx, dW, dU, dE = np.zeros_like(x), np.zeros_like(W), np.zeros_like(U), np.zeros_like(E)
    db = 0
    dh = np.zeros_like(dhs[:, 0])
    for t in reversed(range(len(steps))):
        h, a, gate = steps[t]
        dh = dh + dhs[:, t]
        da = dh * gate * (1 - np.tanh(a) ** 2)
        dgate = dh * (np.tanh(a) - h)
        da = da + dgate * gate * (1 - gate)
        dx[:, t] = da @ W.T
        dW += x[:, t].T @ da
        dU += h.T @ da
        db = db + da.sum(axis=0)
        np.add.at(dE, tokens[:, t], da)
        dh = dh * (1 - gate) + da @ U.T
    return dx, dh, dW, dU, db, dE
"""

SIGNATURE = "x: N T D, h0: N H, W: D H, U: H H, b: H, E: V H, tokens: N T < V -> h: N T H"

BUGS = [
    ("dh = dh * (1 - gate) + da @ U.T", "dh = da @ U.T", "missing-path", "new = np.tanh(a)"),
    ("dh * (np.tanh(a) - h)", "dh * (h - np.tanh(a))", "sign", "wrong sign"),
    ("gate * (1 - np.tanh(a) ** 2)", "gate", "wrong-derivative", "missing (a factor of 1)"),
    ("dgate * gate * (1 - gate)", "dgate", "wrong-derivative", "whose value is gate"),
    ("dh * gate * (1 - np", "dh * (1 - np", "wrong-operand", "it is not times gate"),
    ("+ da @ U.T", "+ da @ U", "transposed", "a transposed U"),
    ("dh = dh * (1 - gate) + da @ U.T", "dh = 0 * dh", "truncated", "lost at every step"),
    ("h, a, gate = steps[t]", "h, a, gate = steps[t][0], *steps[t - 1][1:]", "", ""),
    ("dU += h.T @ da", "dU += steps[t - 1][0].T @ da", "off-by-one", "h of the step before"),
    ("dW += x[:, t].T", "dW += x[:, t - 1].T", "off-by-one", "x[:, t] of the step before"),
    ("np.add.at(dE, tokens[:, t], da)", "dE[tokens[:, t]] += da", "overwritten", "np.add.at"),
    ("dU += h.T @ da", "dU = h.T @ da", "overwritten", "d_U"),
    ("reversed(range(len(steps)))", "reversed(range(1, len(steps)))", "missing-term", "t = 0"),
    ("dx[:, t] = da", "dx[:, -1 - t] = da", "time-order", "reversed order"),
    ("da.sum(axis=0)", "da.sum(axis=0) / np.sqrt(len(W))", "scale", "times 1/sqrt(D)"),
    ("dh = dh + dhs[:, t]", "dh = dh + dhs[:, t] * (t + 1 == len(steps))", "missing-path",
     "last step alone"),
]  # fmt: skip


def subject(old="", new=""):
    """The pair of functions, with a mistake."""
    assert not old or RIGHT.count(old) == 1
    text = RIGHT.replace(old, new) if old else RIGHT
    made = ModuleType("gated")
    made.__file__ = f"<gated {new}>.py"
    name = f"gated_{abs(hash(text))}.py"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    exec(compile(text, name, "exec"), made.__dict__)
    return bpttcheck.adapt.from_vjp(made.forward, made.backward, SIGNATURE)


def said(subject, **options):
    report = bpttcheck.check(
        subject, checks=["vjp"], dtypes=["float64"], examples=4, raises=False, **options
    )
    assert not [note for note in report.notes if "broke down" in note]
    return report.findings[0].diagnoses if report.findings else None


def test_the_right_one_passes():
    assert said(subject()) is None


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("old", "new", "code", "says"), BUGS, ids=[new for _, new, *_ in BUGS])
def test_the_mistake_is_named(old, new, code, says):
    found = said(subject(old, new))
    assert [one.code for one in found] == ([code] if code else [])
    assert all(says in one.sentence for one in found)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("whole", [True, False])
def test_a_bound_of_the_gradients_of_a_loss_is_that_of_the_code(whole):
    """What the check multiplies a loss by is no part of the bound."""

    def loss(x, W):
        y = np.tanh(x @ W)
        d_W = 50 * x.T @ (2 * y * (1 - y * y))
        size = np.sqrt((d_W * d_W).sum()) if whole else np.abs(d_W)
        return 50 * (y * y).sum(), d_W * np.minimum(1, 3 / np.maximum(size, 1e-9))

    report = bpttcheck.check_grad(
        loss, "x: N D, W: D H", returns="loss, dW", dtypes=["float64"], examples=12, raises=False
    )
    (named,) = report.findings[0].diagnoses
    assert named.sentence == ("dW is scaled to the norm 3" if whole else "dW is clipped at 3")
