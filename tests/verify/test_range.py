"""At the ends of a dtype's range: what overflows honestly is not judged, what need not is wrong."""

from dataclasses import replace

import numpy as np
import pytest

import bpttcheck
from bpttcheck.judge.gradient import examine
from bpttcheck.judge.run import Run
from bpttcheck.subject.subject import Subject

pytestmark = pytest.mark.usefixtures("shared_runs", "as_found")


class TextbookSigmoid:
    """h' = 1 / (1 + exp(-z)), of which JAX's derivative is exp(-z) * (1 / (1 + exp(-z))^2)."""

    def init(self, rng, n_in, n_hidden):
        shapes = {"U": (n_hidden, n_in), "W": (n_hidden, n_hidden), "b": (n_hidden,)}
        return {k: rng.standard_normal(s) / np.sqrt(s[-1]) for k, s in shapes.items()}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b"])), params["b"].dtype)

    def value(self, z):
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-z))

    def slope(self, z, s):
        return s * (1 - s)

    def step(self, params, h, x):
        z = x @ params["U"].T + h @ params["W"].T + params["b"]
        s = self.value(z)
        return s, s, (x, h, z, s)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z, s = cache
        d = ((d_state + d_y) * self.slope(z, s)).astype(x.dtype)
        return {"U": d.T @ x, "W": d.T @ h, "b": d.sum(0)}, d @ params["W"], d @ params["U"]


class QuotientRule(TextbookSigmoid):
    """Wrong: inf / inf where the right slope is a small number."""

    def slope(self, z, s):
        e = np.exp(-z)
        return e / (1 + e) ** 2


class Sharpened(TextbookSigmoid):
    """s^62 as a share of all units: a sum that is nearly zero in float32."""

    power = 62

    def value(self, z):
        p = super().value(z) ** self.power
        return p / p.sum(-1, keepdims=True)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z, s = cache
        sigmoid = super().value(z)
        p = sigmoid**self.power
        d = d_state + d_y
        with np.errstate(all="ignore"):
            d_p = (d - (d * s).sum(-1, keepdims=True)) / p.sum(-1, keepdims=True)
            d = (d_p * self.power * sigmoid ** (self.power - 1) * sigmoid * (1 - sigmoid)).astype(
                x.dtype
            )
        return {"U": d.T @ x, "W": d.T @ h, "b": d.sum(0)}, d @ params["W"], d @ params["U"]


def at(cell, bias, dtype):
    """What is said of one step whose pre-activations lie near ``bias``."""
    run = Run(Subject(cell), 0, (dtype,))
    problem = run.cases.problem(replace(run.cases.case(0), T=1, B=2, regime="ordinary"))
    params = {k: v * 0 + 0.01 for k, v in problem.params.items()}
    params["b"] = params["b"] * 0 + np.asarray(bias, dtype)
    problem = replace(problem, params=params, xs=problem.xs * 0.01, d_ys=problem.d_ys * 50)
    return examine(run, "step", problem, None)


@pytest.mark.parametrize("z", [-20.0, -340.0, -400.0, -500.0, -700.0])
def test_jax_losing_a_small_derivative_convicts_nobody(z):
    assert not at(TextbookSigmoid(), z, "float64").wrong


@pytest.mark.parametrize("z", [-20.0, -60.0, -80.0])
def test_nor_does_it_in_float32(z):
    assert not at(TextbookSigmoid(), z, "float32").wrong


def test_a_derivative_that_overflows_where_its_value_does_not_is_wrong():
    report = bpttcheck.check(QuotientRule(), checks=("sequence_vjp",), raises=False)
    assert report.verdict.value == "failed", str(report)
    assert any(np.isnan(f.hand) for f in report.findings)


def test_a_gradient_that_overflows_where_the_forward_pass_nearly_does_is_not_judged():
    outcome = at(Sharpened(), [-1.08, -1.1], "float32")
    assert outcome.skipped.startswith("range: the gradient overflows float32"), outcome
    assert not outcome.wrong


def test_right_code_passes_with_weights_that_overflow():
    report = bpttcheck.check(TextbookSigmoid(), seed=2, checks=("sequence_vjp",), raises=False)
    assert report.passed, str(report)


def test_no_number_is_no_evidence_where_rounding_decides_what_is_divided_by():
    """A Kalman filter in float32 whose covariance cancels: JAX says -2e-5 ± 3e19."""
    from benchmarks.right_cells.filters import KalmanTrack

    run = Run(Subject(KalmanTrack()), 0, ("float32",))
    case = replace(
        run.cases.case(0, free=True), T=4, B=1, n_in=2, n_hidden=1, dtype="float32",
        regime="saturated", mask="none", index=-1,
    )  # fmt: skip
    problem = run.cases.problem(case)
    params = {"A": [[35.0]], "C": [[86.0], [17.0]], "q": [-25.0], "r": [-4.0, -2.0]}
    state0 = type(problem.state0)(np.ones((1, 1), "f4"), np.full((1, 1, 1), 133575, "f4"))
    ones = np.ones((4, 1, 1), np.float32)
    problem = replace(
        problem, params={k: np.array(v, np.float32) for k, v in params.items()}, state0=state0,
        xs=np.array([[[4, -1]], [[1, -1]], [[1, 1]], [[1, 1]]], np.float32), d_ys=ones,
        d_state=type(state0)(-ones[0], -ones[:1]),
    )  # fmt: skip
    hand = run.code.run("sequence", problem)
    assert any(np.isnan(gradient).any() for gradient in hand.gradients.values())
    assert not examine(run, "sequence", problem, None).wrong


def test_gradients_that_are_not_finite_raise_no_warning_of_ours():
    def forward(x):
        s = np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-3)
        return x / s, x

    def backward(d, x):
        with np.errstate(all="ignore"):
            n = x / np.sqrt((x * x).mean(axis=1, keepdims=True))  # without what keeps it finite
            return d / np.abs(n) * np.inf

    options = {"checks": ["vjp", "linearity"], "examples": 20, "raises": False}
    report = bpttcheck.check_vjp(forward, backward, "x: N D -> y: N D", **options)
    assert report.verdict.value == "failed"
    assert not [note for note in report.notes if "RuntimeWarning" in note]
