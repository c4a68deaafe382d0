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
    ("dU += h.T @ da", "dU += steps[t - 1][0].T @ da", "off-by-one", "h of the step before"),
    ("dh = dh * (1 - gate) + da @ U.T", "dh = da @ U.T", "missing-path", "new = np.tanh(a)"),
    ("dh * (np.tanh(a) - h)", "dh * (h - np.tanh(a))", "sign", "wrong sign"),
    ("gate * (1 - np.tanh(a) ** 2)", "gate", "wrong-derivative", "missing (a factor of 1)"),
    ("dgate * gate * (1 - gate)", "dgate", "wrong-derivative", "whose value is gate"),
    ("dh * gate * (1 - np", "dh * (1 - np", "wrong-operand", "it is not times gate"),
    ("+ da @ U.T", "+ da @ U", "transposed", "a transposed U"),
    ("dh = dh * (1 - gate) + da @ U.T", "dh = 0 * dh", "truncated", "lost at every step"),
    ("h, a, gate = steps[t]", "h, a, gate = steps[t][0], *steps[t - 1][1:]", "", ""),
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
    return pair(RIGHT, SIGNATURE, old, new)


def pair(text, signature, old="", new=""):
    """The functions ``forward`` and ``backward`` of a text, with a mistake."""
    assert not old or text.count(old) == 1
    text = text.replace(old, new) if old else text
    made = ModuleType("made")
    made.__file__ = f"<made {new}>.py"
    name = f"made_{abs(hash(text))}.py"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    exec(compile(text, name, "exec"), made.__dict__)
    return bpttcheck.adapt.from_vjp(made.forward, made.backward, signature)


def said(subject, **options):
    report = bpttcheck.check(
        subject, checks=["vjp"], dtypes=["float64"], examples=4, raises=False, **options
    )
    assert not [note for note in report.notes if "broke down" in note]
    return report.findings[0].diagnoses if report.findings else None


def test_the_right_one_passes():
    assert said(subject()) is None


@pytest.mark.sampled(1)
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


STACKED = """
import numpy as np


def layer(x, W, U):
    h, hs = np.zeros((x.shape[1], len(U)), x.dtype), []
    for t in range(len(x)):
        h = np.tanh(x[t] @ W + h @ U)
        hs.append(h)
    return np.stack(hs)


def layer_back(d, x, hs, W, U):
    dx, dW, dU, dh = np.zeros_like(x), np.zeros_like(W), np.zeros_like(U), np.zeros_like(d[0])
    for t in reversed(range(len(x))):
        da = (d[t] + dh) * (1 - hs[t] ** 2)
        dx[t], dh = da @ W.T, da @ U.T
        dW += x[t].T @ da
        dU += (hs[t - 1] if t else np.zeros_like(dh)).T @ da
    return dx, dW, dU


def forward(x, W1, U1, W2, U2, V):
    one = layer(x, W1, U1)
    two = layer(one[::-1], W2, U2)
    g, gs = np.zeros((x.shape[1], V.shape[1]), x.dtype), []
    for t in range(len(x)):
        g = np.sin(two[len(x) - 1 - t] @ V + 0.5 * g)
        gs.append(g)
    top = gs[-1]
    s = 1 / np.sqrt(top.var(axis=0) + 1)
    return top * s, (x, one, two, gs, s, W1, U1, W2, U2, V)


def backward(dy, cache):
    x, one, two, gs, s, W1, U1, W2, U2, V = cache
    top, N, T = gs[-1], x.shape[1], len(x)
    ds = (dy * top).sum(axis=0)
    dg = dy * s - s**3 * ds * (top - top.mean(axis=0)) / N
    dtwo, dV = np.zeros_like(two), np.zeros_like(V)
    for t in reversed(range(T)):
        z = two[T - 1 - t] @ V + (0.5 * gs[t - 1] if t else 0)
        dz = dg * np.cos(z)
        dV += two[T - 1 - t].T @ dz
        dtwo[T - 1 - t] = dz @ V.T
        dg = 0.5 * dz
    done, dW2, dU2 = layer_back(dtwo, one[::-1], two, W2, U2)
    dx, dW1, dU1 = layer_back(done[::-1], x, one, W1, U1)
    return dx, dW1, dU1, dW2, dU2, dV
"""


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("old", "new", "code", "says"),
    [
        ("dtwo[T - 1 - t] =", "dtwo[t] =", "time-order", "reversed order"),
        ("layer_back(done[::-1]", "layer_back(done", "time-order", "steps in reversed order"),
        ("mean(axis=0)) / N", "mean(axis=0)) / max(N - 1, 1)", "scale", "times N/(N - 1)"),
    ],
)
def test_a_mistake_between_two_loops_is_named(old, new, code, says):
    signature = "x: T N D, W1: D H, U1: H H, W2: H K, U2: K K, V: K H -> y: N H"
    assert said(pair(STACKED, signature)) is None
    found = said(pair(STACKED, signature, old, new))
    assert [(one.code, says in one.sentence) for one in found] == [(code, True)]


def test_a_value_that_an_operation_reads_twice_is_missing_and_not_of_the_wrong_sign():
    def forward(x, V):
        size = np.sqrt(np.einsum("dh,dh->h", V, V) + 1)
        return np.tanh(x @ (V / size)), (x, V, size)

    def backward(dy, cache):
        x, V, size = cache
        d = x.T @ (dy * (1 - np.tanh(x @ (V / size)) ** 2))
        return dy * 0, d / size  # lacks - V * (d * V).sum(0) / size**3

    made = bpttcheck.adapt.from_vjp(
        forward, backward, "x: N D, V: D H -> y: N H", grads="_, dV"
    )  # fmt: skip
    found = said(made)
    assert [one.code for one in found] == ["missing-path"]


PACKED = """
import numpy as np


def forward(x, cu, W):
    h, first = np.zeros_like(x), set(cu[:-1].tolist())
    for t in range(len(x)):
        last = np.zeros_like(x[0]) if t in first else h[t - 1]
        h[t] = np.tanh(last @ W + x[t])
    return h, (h, cu, W)


def backward(dh, cache):
    h, cu, W = cache
    dx, dW, carry = np.zeros_like(h), np.zeros_like(W), np.zeros(len(W), W.dtype)
    first = set(cu[:-1].tolist())
    for t in reversed(range(len(h))):
        da = (dh[t] + carry) * (1 - h[t] ** 2)
        carry = np.zeros_like(carry) if t in first else da @ W.T
        dx[t] = da
        if t not in first:
            dW += np.outer(h[t - 1], da)
    return dx, dW
"""


def test_packed_rows_that_run_into_one_another_are_named():
    signature = "x: S H, cu: N+1 offsets S, W: H H -> h: S H"
    assert said(pair(PACKED, signature)) is None
    found = said(pair(PACKED, signature, "np.zeros_like(carry) if t in first else da", "da"))
    assert [one.code for one in found] == ["mixed-rows"]


SMALL = """
import numpy as np


def scores(q, k):
    s = np.einsum("nid,njd->nij", q, k)
    return np.tanh(s), (q, k, np.tanh(s))


def scores_back(d, cache):
    q, k, t = cache
    d = d * (1 - t * t)
    dq = np.einsum("nij,njd->nid", d, k)
    dk = np.einsum("nij,nid->njd", d, q)
    return dq, dk


def scaled(x, g):
    s = np.sqrt((x * x).sum(axis=1, keepdims=True) + 1e-3)
    xh = x / s
    return xh * g, (x, g, s, xh)


def scaled_back(d, cache):
    x, g, s, xh = cache
    dxh = d * g
    dx = (dxh - xh * (dxh * xh).sum(axis=1, keepdims=True)) / s
    return dx, (d * xh).sum(axis=0)


def norm(x, g):
    mu = x.mean(axis=1, keepdims=True)
    s = np.sqrt(((x - mu) ** 2).mean(axis=1, keepdims=True) + 1e-3)
    xh = (x - mu) / s
    return xh * g, (g, s, xh)


def norm_back(d, cache):
    g, s, xh = cache
    dxh = d * g
    mean, along = dxh.mean(axis=1, keepdims=True), (dxh * xh).mean(axis=1, keepdims=True)
    return (dxh - mean - xh * along) / s, (d * xh).sum(axis=0)


def attend(q, k, v):
    s = q @ k.T
    e = np.exp(s - s.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    return p @ v, (q, k, v, p)


def attend_back(d, cache):
    q, k, v, p = cache
    dp = d @ v.T
    ds = p * (dp - (dp * p).sum(axis=1, keepdims=True))
    return ds @ k, ds.T @ q, p.T @ d


def tree(x, U):
    hs = [None] * len(x)
    for i in reversed(range(len(x))):
        kids = [hs[j] for j in (2 * i + 1, 2 * i + 2) if j < len(x)]
        hs[i] = np.tanh(x[i] + sum(kids, np.zeros_like(x[i])) @ U)
    return np.stack(hs), (U, hs)


def tree_back(d, cache):
    U, hs = cache
    dx, dU, dh = np.zeros(d.shape), np.zeros_like(U), list(d)
    for i in range(len(hs)):
        kids = [j for j in (2 * i + 1, 2 * i + 2) if j < len(hs)]
        dx[i] = dh[i] * (1 - hs[i] ** 2)
        for j in kids:
            dU = dU + hs[j].T @ dx[i]
            dh[j] = dh[j] + dx[i] @ U.T
    return dx, dU


def gates(x, W):
    both = 1 / (1 + np.exp(-(x @ W)))
    H = both.shape[1] // 2
    z, r = both[:, :H], both[:, H:]
    return z * np.tanh(r), (x, W, z, r)


def gates_back(d, cache):
    x, W, z, r = cache
    dz = d * np.tanh(r)
    dr = d * z * (1 - np.tanh(r) ** 2)
    da = np.concatenate([dz * z * (1 - z), dr * r * (1 - r)], axis=1)
    return da @ W.T, x.T @ da
"""
SIGNATURES = {
    "scores": "q: N T D, k: N T D -> s: N T T",
    "scaled": "x: N D, g: D -> y: N D",
    "gates": "x: N D, W: D 2H -> y: N H",
    "norm": "x: N D, g: D -> y: N D",
    "tree": "x: T N H, U: H H -> h: T N H",
    "attend": "q: N D, k: M D, v: M E -> y: N E",
}
IN_SMALL = [
    ("scores", '"nij,nid->njd", d, q', '"nij,njd->nid", d, q', "transposed", "the transpose of"),
    ("scores", "return dq, dk", "return dq.mean(1, keepdims=True) + 0 * q, dk", "broadcast-row",
     "the mean over axis 1"),
    ("scaled", "keepdims=True)) / s", "keepdims=True)) / s**2", "wrong-operand",
     "a factor too many: divided by s"),
    ("scaled", "keepdims=True)) / s", "keepdims=True)) / np.sqrt(s * s - 1e-3)", "wrong-operand",
     "s without its 0.001"),
    ("gates", "[dz * z * (1 - z), dr * r * (1 - r)]", "[dr * r * (1 - r), dz * z * (1 - z)]",
     "swapped-gates", "parts 0 and 1 of x @ W"),
    ("norm", "dxh.mean(axis=1", "dxh.mean(axis=0", "broadcast-row",
     "the sum in d_mu goes over axis 0"),
    ("norm", "xh).mean(axis=1", "xh).mean(axis=0", "broadcast-row",
     "the sum in d_s goes over axis 0"),
    ("norm", "(dxh * xh).mean(axis=1, keepdims=True)", "(dxh * xh).mean()", "broadcast-row",
     "the sum in d_s goes over axes 0, 1, but should go over axis 1"),
    ("tree", "dh[j] = dh[j] + dx[i] @ U.T", "dh[j] = dx[i] @ U.T", "overwritten",
     "what came first is lost"),
    ("attend", "p).sum(axis=1", "p).sum(axis=0", "broadcast-row", "goes over axis 0"),
    ("gates", "dz * z * (1 - z)", "dz * z * z", "wrong-derivative", "h**2 in part 0"),
]  # fmt: skip


def small(name, old="", new=""):
    text = SMALL.replace(f"def {name}_back", "def backward").replace(f"def {name}(", "def forward(")
    return pair(text, SIGNATURES[name], old, new)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", SIGNATURES)
def test_a_right_small_one_passes(name):
    assert said(small(name)) is None


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("name", "old", "new", "code", "says"), IN_SMALL)
def test_a_mistake_of_a_few_lines_is_named(name, old, new, code, says):
    found = said(small(name, old, new))
    assert [one.code for one in found] == [code]
    assert says in found[0].sentence


LATE = """
import numpy as np

def forward(x):
    ys = [x[t] * x[t - 2] if t > 1 else x[t] for t in range(len(x))]
    return np.stack(ys), x

def backward(dy, x):
    dx = np.zeros_like(x)
    for t in range(len(x)):
        dx[t] += dy[t] * x[t - 2] if t > 1 else dy[t]
        if t > 1:
            dx[t - 2] += dy[t] * x[t]
    return dx
"""


def test_a_failure_that_jax_judged_is_explained_and_not_an_earlier_longer_one():
    wrong = pair(LATE, "x: T N D -> y: T N D", "+= dy[t] * x[t]", "+= 0 * x[t]")
    report = bpttcheck.check(wrong, checks=["vjp"], examples=30, raises=False)
    assert report.findings[0].case.T == 3
    assert report.findings[0].diagnoses
