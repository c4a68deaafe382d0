"""Monte Carlo arithmetic on hand-written code: what rounds is moved, what does not stays exact."""

import numpy as np
import pytest

from bpttcheck.cells import LSTM
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.problems.noisy_array import NoisyArray, copies, noise
from bpttcheck.subject.subject import Subject

EPS = np.finfo(float).eps
A = np.random.default_rng(0).standard_normal((4, 4))


def moved(function, *arrays):
    """How far one noisy evaluation is from the exact one, in units of eps of the largest entry."""
    exact = np.asarray(function(*arrays))
    with noise(np.random.default_rng(1)):
        found = np.asarray(function(*[a.view(NoisyArray) for a in arrays]))
    return float(np.abs(found - exact).max() / (np.abs(exact).max() or 1.0) / EPS)


ROUNDS = {
    "product": lambda a: a * a,
    "sum": lambda a: a.sum(axis=0),
    "mean": lambda a: a.mean(axis=0),
    "matmul": lambda a: a @ a,
    "einsum": lambda a: np.einsum("ij,jk->ik", a, a),
    "dot": lambda a: np.dot(a, a),
    "tanh": np.tanh,
    "in place": lambda a: np.multiply(a, a, out=a.copy()),
    "inv": np.linalg.inv,
    "pinv": np.linalg.pinv,
    "solve": lambda a: np.linalg.solve(a, a[0]),
    "fft": lambda a: np.fft.irfft(np.fft.rfft(a, axis=0), axis=0),
    "complex": lambda a: ((a + 1j * a) * (2 - 1j)).imag,
    "accumulate": lambda a: np.add.accumulate(a, axis=0),
}

EXACT = {
    "maximum": lambda a: np.maximum(a, 0),
    "max": lambda a: a.max(axis=1),
    "negative": lambda a: -a,
    "where": lambda a: np.where(a > 0, a, 0.0),
    "copy": lambda a: a.copy(),
    "transpose": lambda a: a.T.reshape(-1),
    "concatenate": lambda a: np.concatenate([a, a]),
    "difference of equals": lambda a: a - a,
    "sign": np.sign,
}


@pytest.mark.parametrize("name", ROUNDS)
def test_what_rounds_is_moved_by_about_a_rounding_error(name):
    assert 0.01 < moved(ROUNDS[name], A) < 60


def test_a_factorisation_is_moved_by_its_backward_error():
    """``n eps`` of the largest entry: two right ways to an inverse differ by as much."""
    a = np.diag([1.0, 1e-3, 1.0, 1.0])
    small = [moved(lambda a: np.linalg.inv(a)[1, 1], a) for _ in range(3)]
    assert max(small) > 50


@pytest.mark.parametrize("name", EXACT)
def test_what_rounds_nothing_stays(name):
    assert moved(EXACT[name], A) == 0


def test_cancellation_inside_is_seen():
    """``(a + 1) - a`` loses digits that noise on the result alone would not show."""
    big = A * 1e8
    assert moved(lambda a: (a + 1) - a, big) > 1e6


def test_a_sum_that_cancels_has_the_noise_of_its_terms():
    terms = np.array([1e8, 1.0, -1e8])
    assert moved(lambda a: a.sum(), terms) > 1e5


def test_float32_has_its_own_unit():
    with noise(np.random.default_rng(1)):
        found = A.astype(np.float32).view(NoisyArray) * np.float32(1.5)
    gap = np.abs(np.asarray(found) - A.astype(np.float32) * np.float32(1.5)).max()
    assert found.dtype == np.float32
    assert 1e-9 < gap < 1e-5


def test_without_a_supply_nothing_is_moved():
    assert np.array_equal(A.view(NoisyArray) * 3.0, A * 3.0)


def test_a_gradient_runs_on_noisy_arrays_and_moves_by_its_rounding():
    run = Run(Subject(LSTM()), 0, ("float64",))
    problem = run.cases.problem(run.cases.case(0))
    exact = run.code.run(SEQUENCE, problem).gradients
    found = copies(lambda p: dict(run.code.run(SEQUENCE, p).gradients), problem, (0,), 3)
    assert found is not None
    for one in found:
        for block, value in one.items():
            gap = np.abs(value - exact[block]).max() / np.abs(exact[block]).max() / EPS
            assert 0 < gap < 200


def test_code_for_plain_arrays_alone_says_so():
    class Strict(LSTM):
        def step(self, params, state, x):
            if type(x) is not np.ndarray:
                raise TypeError("plain arrays only")
            return super().step(params, state, x)

    run = Run(Subject(Strict()), 0, ("float64",))
    problem = run.cases.problem(run.cases.case(0))
    assert copies(lambda p: dict(run.code.run(SEQUENCE, p).gradients), problem, (0,), 1) is None
