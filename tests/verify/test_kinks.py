"""At a kink every slope between the two sides is right, and nothing else is."""

import numpy as np
import pytest
from subjects import Relu, relu

import bpttcheck
from bpttcheck import cells

pytestmark = pytest.mark.usefixtures("shared_runs")


class HardLSTM:
    """An LSTM of clipped straight lines, which decides each edge as it is told."""

    def __init__(self, *edges):
        self.edges = edges

    def init(self, rng, n_in, n_hidden):
        H = n_hidden
        shapes = {"W": (4 * H, n_in), "U": (4 * H, H), "b": (4 * H,)}
        return {k: rng.standard_normal(s) * 0.5 for k, s in shapes.items()}

    def initial_state(self, params, batch_size):
        shape = (batch_size, params["U"].shape[1])
        return np.zeros(shape, params["U"].dtype), np.zeros(shape, params["U"].dtype)

    def step(self, params, state, x):
        h, c = state
        a = x @ params["W"].T + h @ params["U"].T + params["b"]
        a_i, a_f, a_g, a_o = np.split(a, 4, -1)
        i, f, o = (np.clip(z / 6 + 0.5, 0, 1) for z in (a_i, a_f, a_o))
        g = np.clip(a_g, -1, 1)
        c_new = f * c + i * g
        t = np.clip(c_new, -1, 1)
        cache = (x, h, c, a_i, a_f, a_g, a_o, i, f, g, o, c_new, t)
        return (o * t, c_new), o * t, cache

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, c, a_i, a_f, a_g, a_o, i, f, g, o, c_new, t = cache
        low, high, left, right = self.edges

        def gate(z):
            return (low(z / 6 + 0.5, 0) & high(z / 6 + 0.5, 1)) / x.dtype.type(6)

        def line(z):
            return (left(z, -1) & right(z, 1)).astype(x.dtype)

        d_h = d_state[0] + d_y
        d_c = d_state[1] + d_h * o * line(c_new)
        d_a = [d_c * g * gate(a_i), d_c * c * gate(a_f), d_c * i * line(a_g), d_h * t * gate(a_o)]
        d_a = np.concatenate(d_a, -1)
        d_params = {"W": d_a.T @ x, "U": d_a.T @ h, "b": d_a.sum(0)}
        return d_params, (d_a @ params["U"], d_c * f), d_a @ params["W"]


def verdict(cell, **options):
    chosen = {"examples": 40, "checks": ["step_vjp", "sequence_vjp"], "raises": False, **options}
    return bpttcheck.check(cell, **chosen)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_every_slope_between_the_two_sides_passes(slope):
    assert verdict(relu(slope)).passed


@pytest.mark.usefixtures("as_found")
@pytest.mark.parametrize("slope", [
    5.0, np.nan, *(pytest.param(s, marks=pytest.mark.nightly) for s in (2.0, -1.0))
])  # fmt: skip
def test_a_slope_beyond_both_sides_is_caught_although_only_ties_show_it(slope):
    report = verdict(relu(slope))
    assert report.verdict is bpttcheck.Verdict.FAILED
    if np.isfinite(slope):  # a NaN shows at any tie, also one that rounding for reading makes
        assert all(finding.case.regime in ("at_kinks", "zeros") for finding in report.findings)


@pytest.mark.nightly
@pytest.mark.parametrize("edges", [
    (np.greater, np.less, np.greater_equal, np.less_equal),
    pytest.param(
        (np.greater, np.less_equal, np.greater_equal, np.less), marks=pytest.mark.nightly
    ),
])  # fmt: skip
def test_edges_may_be_decided_either_way_gate_by_gate(edges):
    report = verdict(HardLSTM(*edges), examples=20)
    assert report.verdict is not bpttcheck.Verdict.FAILED, str(report)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "hard_tanh", "hard_sigmoid"])
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_the_built_in_kinks_pass(name, seed):
    # Twenty cases compile three programs and forty five; both dtypes are at kinks in forty.
    examples = 20 if seed == 1 else 40
    assert verdict(cells.builtin(f"elman[{name}]"), seed=seed, examples=examples).passed


def test_a_wrong_slope_beyond_the_kink_is_caught():
    class Steep(Relu):
        def slope(self, z, h):
            return np.where(z > 0, 1, 0.1).astype(z.dtype)

    report = verdict(Steep(), examples=20)
    assert report.verdict is bpttcheck.Verdict.FAILED
    assert "ordinary" in {finding.case.regime for finding in report.findings}
