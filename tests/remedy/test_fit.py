"""Which change of one value would mend a gradient."""

import numpy as np

from bpttcheck.problems.problem import Problem
from bpttcheck.remedy.fit import measured
from bpttcheck.remedy.trials import Known, Trial
from bpttcheck.results.records import Case

CASE = Case(0, 0, 1, 2, 3, 3, "float64", "none", "ordinary")
W = np.arange(6.0).reshape(3, 2) + 1.0


def trial(value):
    problem = Problem(CASE, {}, np.zeros((1, 2, 3)), (), None, np.zeros((1, 2, 3)), ())
    return Trial(problem, {"d_x": Known(value, np.full(value.shape, 1e-13))})


def test_the_change_that_mends_is_told_from_others_and_its_number_is_found():
    value, missing = np.ones((2, 3)), np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]])
    fit = measured(
        trial((value + missing) @ W), lambda change: {"d_x": (value + change) @ W}, value
    )
    assert fit is not None
    assert fit.possible
    assert fit.is_mended_by(missing)
    assert not fit.is_mended_by(2 * missing)
    assert abs(fit.times(missing / 0.7) - 0.7) < 1e-12
    assert fit.times(missing**2) is None


def test_a_place_that_cannot_mend_it_is_known():
    value = np.ones((2, 3))
    right = np.stack([value @ W, np.ones((2, 2))])
    fit = measured(
        trial(right),
        lambda change: {"d_x": np.stack([(value + change) @ W, np.zeros((2, 2))])},
        value,
    )
    assert fit is not None
    assert not fit.possible


def test_what_is_not_affine_has_no_fit():
    value = np.ones((2, 3))
    assert measured(trial(value), lambda change: {"d_x": (value + change) ** 2}, value) is None
    assert measured(trial(value), lambda _: None, value) is None
