"""The hand-written forward mode of a cell and of a layer beside their backward pass."""

import numpy as np
import pytest

import bpttcheck

pytestmark = pytest.mark.usefixtures("as_found")


class Cell:
    """``h' = tanh(W h + U x)``, with its tangents; ``factor`` is the planted bug."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def init(self, rng, n_in, n_hidden):
        return {
            "W": rng.normal(size=(n_hidden, n_hidden)) / 2,
            "U": rng.normal(size=(n_hidden, n_in)) / 2,
        }

    def initial_state(self, params, batch_size):
        W = params["W"]
        return np.zeros((batch_size, len(W)), W.dtype)

    def step(self, params, state, x):
        h = np.tanh(state @ params["W"].T + x @ params["U"].T)
        return h, h, (state, x, h)

    def step_vjp(self, params, cache, d_state, d_y):
        state, x, h = cache
        d_a = (d_state + d_y) * (1 - h**2)
        return {"W": d_a.T @ state, "U": d_a.T @ x}, d_a @ params["W"], d_a @ params["U"]

    def step_jvp(self, params, state, x, v_params, v_state, v_x):
        h = self.step(params, state, x)[0]
        v_a = v_state @ params["W"].T + state @ v_params["W"].T
        v_a = v_a + v_x @ params["U"].T + self.factor * (x @ v_params["U"].T)
        v_h = (1 - h**2) * v_a
        return v_h, v_h


class Layer:
    """The same over a sequence."""

    supports_mask = False

    def __init__(self, factor=1.0):
        self.cell = Cell(factor)
        self.init, self.initial_state = self.cell.init, self.cell.initial_state

    def forward(self, params, xs, state0):
        return bpttcheck.unroll(self.cell, params, xs, state0)

    def vjp(self, params, tape, d_ys, d_state_T):
        found = bpttcheck.backpropagate(self.cell, params, tape, d_ys, d_state_T)
        return found.d_params, found.d_xs, found.d_state0

    def jvp(self, params, xs, state0, v_params, v_xs, v_state0):
        state, tangent = state0, v_state0
        tangents = np.zeros((len(xs), *state0.shape), state0.dtype)
        for t, x in enumerate(xs):
            tangent, tangents[t] = self.cell.step_jvp(params, state, x, v_params, tangent, v_xs[t])
            state = self.cell.step(params, state, x)[0]
        return tangents, tangent


def check(subject):
    return bpttcheck.check(subject, checks=["contract", "jvp"], examples=12, raises=False)


@pytest.mark.parametrize("form", [Cell, Layer])
def test_the_right_tangents_pass(form):
    report = check(form())
    assert report.passed, report
    assert report.checks[-1].cases == 10


@pytest.mark.parametrize("form", [Cell, Layer])
def test_tangents_off_by_1e_9_fail(form):
    report = check(form(1 + 1e-9))
    assert [f.check for f in report.findings] == ["jvp"]


def test_tangents_of_another_form_are_refused():
    class Wrong(Cell):
        def step_jvp(self, *args):
            return super().step_jvp(*args)[0]

    report = check(Wrong())
    assert "step_jvp should return" in report.findings[0].message


def test_a_cell_without_tangents_has_no_such_check():
    report = bpttcheck.check(bpttcheck.cells.Elman(), examples=5, checks=["contract"])
    assert [one.name for one in report.checks] == ["contract"]
    assert "jvp" not in [
        c.name for c in bpttcheck.check(bpttcheck.cells.Elman(), examples=5).checks
    ]
