"""Cells whose state is a matrix: subscripts of einsum the wrong way round are named and mended."""

from __future__ import annotations

import importlib.util
import sys
import time

import pytest

import bpttcheck
from bpttcheck.judge.run import Run
from bpttcheck.remedy.backward import BackwardSource
from bpttcheck.remedy.search import search
from bpttcheck.remedy.trials import trials

DELTA = '''
import numpy as np


class Delta:
    """S' = S + beta (v - S k) k^T, y = S' q."""

    def init(self, rng, n_in, n_hidden):
        draw = lambda *shape: rng.standard_normal(shape) / np.sqrt(shape[-1])
        return {name: draw(n_hidden, n_in) for name in "KVQB"}

    def initial_state(self, params, batch_size):
        H = len(params["K"])
        return np.zeros((batch_size, H, H), params["K"].dtype)

    def step(self, params, S, x):
        k, v, q = np.tanh(x @ params["K"].T), x @ params["V"].T, x @ params["Q"].T
        beta = 1 / (1 + np.exp(-(x @ params["B"].T)))
        e = v - np.einsum("bij,bj->bi", S, k)
        g = beta * e
        new = S + np.einsum("bi,bj->bij", g, k)
        return new, np.einsum("bij,bj->bi", new, q), (x, S, k, q, beta, e, g, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, S, k, q, beta, e, g, new = cache
        d_new = d_state + np.einsum("bi,bj->bij", d_y, q)
        d_q = np.einsum("bij,bi->bj", new, d_y)
        d_g = np.einsum("bij,bj->bi", d_new, k)
        d_e, d_beta = d_g * beta, d_g * e
        d_S = d_new - np.einsum("bi,bj->bij", d_e, k)
        d_k = np.einsum("bij,bi->bj", d_new, g) - np.einsum("bij,bi->bj", S, d_e)
        d_a, d_b = d_k * (1 - k**2), d_beta * beta * (1 - beta)
        d_params = {"K": d_a.T @ x, "V": d_e.T @ x, "Q": d_q.T @ x, "B": d_b.T @ x}
        pairs = (d_a, "K"), (d_e, "V"), (d_q, "Q"), (d_b, "B")
        return d_params, d_S, sum(d @ params[name] for d, name in pairs)
'''
BUGS = [
    ('"bij,bj->bi", d_new, k', '"bij,bi->bj", d_new, k', "cotangent"),
    ('"bij,bi->bj", new, d_y', '"bij,bj->bi", new, d_y', "matrix"),
    ('"bi,bj->bij", d_e, k', '"bi,bj->bij", k, d_e', "cotangent"),
    ('"bi,bj->bij", d_y, q', '"bi,bj->bij", q, d_y', "cotangent"),
    ('"bij,bi->bj", S, d_e', '"bij,bj->bi", S, d_e', "matrix"),
]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The cell with an edit of its source."""

    def make(old="", new=""):
        assert DELTA.count(old) == 1 or not old
        path = tmp_path / "delta_cell.py"
        path.write_text(DELTA.replace(old, new) if old else DELTA)
        spec = importlib.util.spec_from_file_location("delta_cell", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "delta_cell", module)
        spec.loader.exec_module(module)
        return module.Delta()

    return make


@pytest.mark.nightly
@pytest.mark.parametrize(("right", "wrong", "what"), BUGS, ids=[wrong for _, wrong, _ in BUGS])
def test_the_wrong_way_round_is_named_and_mended(made, right, wrong, what):
    cell = made(right, wrong)
    report = bpttcheck.check(cell, checks=["step_vjp"], examples=12, raises=False)
    (named,) = report.findings[0].diagnoses[:1]
    assert named.code == "transposed"
    assert f"with a transposed {what}, in the gradient of delta_cell.py" in named.sentence
    run = Run(bpttcheck.Subject(cell), 0, ("float64",))
    source = BackwardSource.of(cell)
    found = search(source, trials(run, source, []), time.monotonic() + 60)
    assert any('einsum("' in one.source.text and wrong not in one.source.text for one in found)


@pytest.mark.nightly
def test_the_right_cell_passes(made):
    assert bpttcheck.check(made(), checks=["step_vjp"], examples=12).passed
