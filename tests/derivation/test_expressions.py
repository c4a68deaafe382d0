"""One expression after another: the gradient that is written is right, or the refusal says why."""

import linecache
import sys
from types import ModuleType

import numpy as np
import pytest

import bpttcheck
from bpttcheck.errors import Declined

STEP = """
import numpy as np
from scipy import special

PAIR, LINE = [0.5, 2.0], np.arange(9.0)
TABLE = np.linspace(0.5, 1.5, 12).reshape(3, 4)


class Cell:
    sizes = ((2, 3), (3, 2), (4, 4))

    def __init__(self):
        self.gain, self.row = 0.7, np.linspace(1, 2, 9)

    def init(self, rng, n_in, H):
        return {{"U": rng.standard_normal((H, n_in)) / 2, "W": rng.standard_normal((H, H)) / 2,
                "b": rng.standard_normal(H) / 2}}

    def initial_state(self, params, B):
        return np.zeros((B, len(params["b"])), params["b"].dtype)

    def step(self, params, h, x):
        U, W, b = params["U"], params["W"], params["b"]
        z = np.tanh(x @ U.T + h @ W.T + b) + 0.1 * h
        {text}
        return new, 0.5 * new, (x, h)
"""

WRITTEN = """
z ** 2; z ** 3.0; 2.0 ** z; np.sqrt(z * z + 1); np.sin(z) + np.cos(h); np.arctan(z); np.expm1(z)
np.log1p(z * z); special.erf(z); special.expit(z); np.where(z > h, z, 0.5 * h)
np.maximum(z, 0.1 * h)
np.clip(z, -0.5, 0.5); np.abs(z); z / (2 + h * h); -z - h; np.square(z); np.exp(z) * h; z.copy()
np.cumsum(z, axis=1); z.sum(axis=0) * h; z.mean() * h; z.max(axis=1, keepdims=True) * h
np.min(z, axis=1)[:, None] * h; z.std(axis=1, keepdims=True) * h
z.var(axis=0) * h; np.linalg.norm(z + 3, axis=1)[:, None] * h
special.softmax(z, axis=1); special.log_softmax(z, axis=1); special.softmax(z) * h
special.logsumexp(z, axis=1, keepdims=True) * h
np.add.reduce(np.stack([z, h])); np.stack([z, h], axis=-1).mean(axis=-1)
np.einsum("bi,bi->b", z, h)[:, None] * h; np.einsum("bi,ij", z, W)
np.einsum("bi,ij,j->bj", z, W, b)
np.linalg.solve(W + 9 * np.eye(len(W)), z.T).T; z @ np.linalg.inv(W + 9 * np.eye(len(W)))
(z @ b)[:, None] * h; b @ W * z; np.dot(b, b) * z; np.outer(b, b) @ W @ b + z
np.transpose(z[:, None, :], (2, 1, 0))[:, 0].T; np.swapaxes(z[None], 0, 1)[:, 0]
np.moveaxis(z[:, None], 1, 0)[0]; z[..., None][..., 0]; z[:, -1:] * h
np.vsplit(np.vstack([z, h]), 2)[1]; np.split(np.hstack([z, h]), [1], axis=1)[0] * h
np.array([z, h])[1] * z; np.broadcast_to(b, z.shape) * z; z[:, ::-1] * h; z + z[0]
"""
# The expressions of a line are added up: one step has them all.
RARE = """
np.minimum(0.3, z) + np.maximum(z, 0.1)
h * (z > 0) + h * (z < 0.3)
above = z > 0 | below = z < 0.3 | h * above - h * ~below
(z > 0).astype(int) * z
z.astype(float) * (z > 0).astype(np.float32)
q = 1 * z | q[:] = h | q + z
q = np.empty_like(z) | q[:] = h | 2 * q
q = 1 * z | q[0] = b | q + h
q = np.ones_like(z) | q[np.arange(1)] = 2 * h[:1] | q + h
q = 1 * z | q[z > 0] = 0.1 | q + h
np.where(z > 0, z, np.where(z > 0, 1.0, h)) + np.where(z > 0, 0.0, 2 * z)
p = z > 0 | np.where(p, z, 0) + np.where(p, 0, 2 * z) + np.where(p, h * z, 0)
r = self.row[:1] | z * r + h * r
t = np.zeros((2, 2)) | v = t[0] | t[0] = 1.0 | v[:1] * z
q = [k * z for k in (2.0,)][0] | np.tanh(q) * h
q = z + 1j * h | np.real(q.sum(axis=0) * np.conj(q))
q = z + 1j * h | np.real(q.sum() * q)
q = z + 1j * h | np.real(q * b) + z * (q * np.conj(q)).real
z[:, :2].mean() * h; np.transpose(z[:, None, :])[:, 0].T; z.mT.T * h
np.matrix_transpose(z).mT * h; np.asarray(z) * h; np.array([b[0], 1.0])[0] * z; (z * z + 1) ** h
z**1 * h; np.maximum(0.1, z); z * TABLE[0, :1]; z * self.row[0] + self.gain * h
z * np.array([2.0, 3.0])[1]; z * np.float32(0.5); z / np.sqrt(len(b)) * len(b)
z * np.linspace(0, 1, len(b)); z * np.eye(len(b))[0]; z.sum(axis=(0, 1)) * h
z.mean(axis=(0,), keepdims=True) * h; z[np.int64(0)] * h; z[:, np.int64(0) :] * h; z[[0]] * h
z.sum(axis=(0, 1), keepdims=True)[0, 0] * h; z.sum(axis=(0, 1), keepdims=True)[0] * h
(z[:, None] * 2)[:, 0] * h; -(z @ W).T.T * h; np.abs(z + 1j * h); np.imag((z + 1j * h) ** 2)
np.real(np.conj(np.conj(z * (1 + 2j)))) * h; np.imag(-(z * (1 + 2j))) * h
(z * (1 + 2j)).sum(axis=1).real[:, None] * h; np.real((z + 1j * h) * np.exp(1j * z)) * h
np.einsum("bi,->bi", z, 2.0); np.stack([b[0], 1.0])[0] * z; (z @ np.stack([W, W]))[0] * h
np.linspace(0, 1, num=len(b)) * np.tanh(z); np.tanh(np.transpose(z, axes=[1, 0])).T * h
h * W.sum(); np.reshape(z, z.shape, order="C") * h
np.tanh(z.clip(-0.5, 0.5)) * h; np.outer(b, LINE)[:, 0] * z
np.outer(b, self.row)[:, 0] * z; np.real((z + 1j * h) @ np.conj((W + 1j * W)).T)
z.max(axis=1, keepdims=True)[:, 0][:, None] * h
np.real(np.conj(z + 1j * h) @ (W + 1j * np.eye(len(b)))) * h; (b + z).sum() * h
np.logaddexp(z, h) + np.logaddexp(0, z)
"""
REFUSED = """
np.einsum("...i,i->...", z, b)[:, None] * h; np.einsum("ii", W) * z; np.cumsum(z).reshape(z.shape)
np.linalg.norm(z, ord=1, axis=1)[:, None] * h; z.var(axis=1, ddof=1, keepdims=True) * h
np.array([[z, h], [h, z]])[0, 1] * z; np.tensordot(z, W, axes=1); np.prod(z, axis=1)[:, None] * h
z.reshape(-1).reshape(h.shape); np.trace(W) * z; np.median(z, axis=1)[:, None] * h
np.floor(z) * h + np.sort(h, axis=1); (b @ np.stack([W, W]))[0] * z; np.dot(z[None], W)[0]
np.dot(b[:2], PAIR) * z; (b[:2] * [b[0], 1.0])[0] * z; np.where(z > 0, z, [b[0]]); np.dot(z, 2.0)
np.einsum("bi,k->bi", z, PAIR); np.outer(z, b)[0] + z
np.linalg.solve(W + 9 * np.eye(len(W)), b) * z
np.concatenate([z.ravel(), b]).mean() * h; np.concatenate([b, [1.0]])[:-1] * z
np.concatenate([z.ravel(), b])[: len(b)] * h; q = 1 * z | r = 2 * q | q[0] = b | q + r
np.vstack([b, b])[0] * z; np.concatenate([z, h], axis=None)[:1] * z
q = z.copy() | q[:, 0] = 1.0 | q * h; q = np.ones_like(z) | q[z > 0] = z[z > 0] | q + h
q = 1 * z | q[:] = [b[0]] | q + h; z * float(len(b) ** 2); z[:, 1:].sum() * h; z.ravel()[0] * h
np.add(z, h, where=z > 0, out=1 * z); np.clip(z, None, 0.5) * h; np.clip(z, b, 2.0)
z.clip(min=0) * h; special.logsumexp(z, b=2.0) * h; np.reshape(z, z.shape[::-1], order="F").T * h
z.ravel("F")[0] * h
np.array(b, ndmin=2) * z; np.sum([z, h], axis=0); np.sum(z, axis=1, where=z > 0)[:, None] * h
"""


def listed(text):
    return [one.strip() for line in text.strip().splitlines() for one in line.split(";")]


def added(line):
    return line if ";" not in line else " + ".join(f"({one})" for one in line.split("; "))


def made(expression):
    *before, last = expression.split(" | ")
    text = STEP.format(text="\n        ".join([*before, f"new = {last}"]))
    module, name = ModuleType("expression"), f"expression_{abs(hash(text))}.py"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    exec(compile(text, name, "exec"), module.__dict__)
    return module


@pytest.fixture
def cell(expression, monkeypatch):
    module = made(expression)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.Cell()


def compare_with_slope(cell):
    subject = bpttcheck.derive(cell, examples=0).cell
    rng = np.random.default_rng(1)
    params = subject.init(rng, 3, 4)
    h, x, along_h = (rng.standard_normal(shape) / 2 for shape in ((2, 4), (2, 3), (2, 4)))
    along = {name: rng.standard_normal(value.shape) for name, value in params.items()}
    d_new, d_y = rng.standard_normal((2, 2, 4))

    def loss(s):
        moved = {name: value + s * along[name] for name, value in params.items()}
        new, y, _ = subject.step(moved, h + s * along_h, x)
        return (d_new * new).sum() + (d_y * y).sum()

    slope = (8 * (loss(1e-3) - loss(-1e-3)) - (loss(2e-3) - loss(-2e-3))) / 12e-3
    d_params, d_h, _ = subject.step_vjp(params, subject.step(params, h, x)[2], d_new, d_y)
    found = (d_h * along_h).sum() + sum((d_params[name] * along[name]).sum() for name in along)
    assert found == pytest.approx(slope, rel=1e-7, abs=1e-8)


@pytest.mark.sampled(20)
@pytest.mark.parametrize("expression", listed(WRITTEN))
def test_what_is_written_is_the_slope_of_the_step(cell):
    compare_with_slope(cell)


@pytest.mark.parametrize("expression", [added(line) for line in RARE.strip().splitlines()])
def test_what_is_rarely_written_is_the_slope_too(cell):
    compare_with_slope(cell)


@pytest.mark.parametrize("expression", listed(REFUSED))
def test_what_is_not_written_is_refused_at_its_line(cell):
    with pytest.raises(Declined, match=r"expression_\d+\.py:\d+"):
        bpttcheck.derive(cell, examples=0)


def test_without_the_names_of_the_step_there_are_others():
    written = bpttcheck.derive(made("np.tanh(z)").Cell(), examples=0)  # in no module that is known
    assert "    x, s = cache\n" in written.source
    assert all(line == line.rstrip() for line in written.source.splitlines())
