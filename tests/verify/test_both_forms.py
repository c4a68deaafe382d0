"""An object with the methods of a cell and those of a layer: both of its backward passes count."""

import numpy as np
import pytest

import bpttcheck
from bpttcheck.subject.subject import Subject

pytestmark = pytest.mark.usefixtures("shared_runs", "as_found")


class Cell:
    """h' = tanh(U x + W h), y = h'."""

    def init(self, rng, n_in, n_hidden):
        shapes = {"U": (n_hidden, n_in), "W": (n_hidden, n_hidden)}
        return {k: rng.standard_normal(s) / np.sqrt(s[-1]) for k, s in shapes.items()}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["W"])), params["W"].dtype)

    def step(self, params, state, x):
        h = np.tanh(x @ params["U"].T + state @ params["W"].T)
        return h, h, (x, state, h)

    def step_vjp(self, params, cache, d_state, d_y):
        x, state, h = cache
        d_z = (d_state + d_y) * (1 - h * h)
        return {"U": d_z.T @ x, "W": d_z.T @ state}, d_z @ params["W"], d_z @ params["U"]


class Layer(Cell):
    """The same over time, in terms of the cell's step forward and of its own pass backward."""

    supports_mask = False
    factor = 1.0

    def forward(self, params, xs, state0):
        ys, state = np.empty((*xs.shape[:2], len(params["W"])), xs.dtype), state0
        for t, x in enumerate(xs):
            state, ys[t], _ = self.step(params, state, x)
        return ys, state, (xs, state0, ys)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, state0, ys = tape
        before = np.concatenate([state0[None], ys])[:-1]
        d_zs, d_h = np.zeros_like(ys), d_state_T
        for t in reversed(range(len(xs))):
            d_zs[t] = (d_h + d_ys[t]) * (1 - ys[t] ** 2)
            d_h = d_zs[t] @ params["W"]
        d_W = np.einsum("tbi,tbj->ij", d_zs, before) * self.factor
        d_U = np.einsum("tbi,tbj->ij", d_zs, xs)
        return {"U": d_U, "W": d_W}, d_zs @ params["U"], d_h


class WrongLayer(Layer):
    factor = np.float32(1.5)


class WrongStep(Layer):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, 2 * d_x


def check(subject):
    options = {"checks": ["step_vjp", "sequence_vjp"], "dtypes": ["float64"], "examples": 12}
    return bpttcheck.check(subject, raises=False, **options)


def test_right_code_passes_in_both_forms_and_jax_judges_both():
    report = check(Layer())
    assert report.passed, str(report)
    cases = {one.name: one.oracles.get("jax", 0) for one in report.checks}
    assert cases["step_vjp"] > 10
    assert cases["sequence_vjp"] > 10


def test_its_own_pass_over_the_sequence_is_judged():
    report = check(WrongLayer())
    wrong = {(f.check, f.method, f.block) for f in report.findings}
    assert ("sequence_vjp", "vjp", "d_params['W']") in wrong
    assert not any(f.method == "step_vjp" for f in report.findings)


def test_so_is_its_step():
    report = check(WrongStep())
    assert {(f.check, f.method, f.block) for f in report.findings} == {
        ("step_vjp", "step_vjp", "d_x")
    }


def test_the_kinds():
    assert [Subject(one).kind for one in (Cell(), Layer())] == ["cell", "layer"]


class ForgetsWhereMasked(Layer):
    """Wrong only under a mask, and there at every state, the initial one too."""

    supports_mask = True

    def forward(self, params, xs, state0, mask=None):
        real = np.ones(xs.shape[:2], bool) if mask is None else mask
        hs = [state0]
        for x, here in zip(xs, real, strict=True):
            new = np.tanh(x @ params["U"].T + hs[-1] @ params["W"].T)
            hs.append(np.where(here[:, None], new, hs[-1]))
        hs = np.stack(hs)
        return hs[1:] * real[:, :, None], hs[-1].copy(), (xs, hs, real)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, real = tape
        d_zs, d_h = np.zeros_like(hs[1:]), d_state_T
        for t in reversed(range(len(xs))):
            here = real[t][:, None]
            d_zs[t] = (d_h + d_ys[t]) * (1 - hs[t + 1] ** 2) * here
            d_h = np.where(here, d_zs[t] @ params["W"], 0 * d_h)  # the carry is lost
        d_W = np.einsum("tbi,tbj->ij", d_zs, hs[:-1])
        return {"U": np.einsum("tbi,tbj->ij", d_zs, xs), "W": d_W}, d_zs @ params["U"], d_h


def test_what_a_mask_decides_is_not_put_down_to_unreachable_states():
    report = bpttcheck.check(ForgetsWhereMasked(), checks=["sequence_vjp"], raises=False)
    assert report.verdict.value == "failed"
    assert "reachable" not in str(report)
