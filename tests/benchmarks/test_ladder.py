"""The ladder: what it says is caught is caught, and by the verdict that a check uses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.common import Compared, interval
from benchmarks.ladder.climb import (
    PROMISED,
    RUNGS,
    Climb,
    Planted,
    caught,
    climb,
    climb_checks,
    end_to_end,
    first_parameter,
    scaled,
)
from benchmarks.ladder.page import page, smallest
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.calibration import BLOCK_FLOOR, LIMIT
from bpttcheck.cells import builtin
from bpttcheck.errors import ContractError
from bpttcheck.judge.run import STEP, Run
from bpttcheck.judge.verdict import rounding
from bpttcheck.subject.subject import Subject

EPS, TINY = rounding(np.float64)


def made(rungs, regime="ordinary", dtype="float64"):
    return Climb("elman", "d_xs", dtype, regime, tuple(d in rungs for d in RUNGS), False)


def from_rung(d):
    return made([one for one in RUNGS if one >= d])


def test_the_rungs_rise_and_hold_what_is_promised():
    assert list(RUNGS) == sorted(RUNGS)
    assert (RUNGS[0], RUNGS[-1]) == (1e-15, 1e-1)
    assert set(PROMISED.values()) <= set(RUNGS)


@given(st.sampled_from(RUNGS), st.sampled_from(["float32", "float64"]))
def test_a_scaled_gradient_keeps_its_dtype(d, dtype):
    g = np.ones(3, dtype)
    assert scaled(g, d).dtype == dtype
    assert scaled(g, 1e-9)[0] == (1 if dtype == "float32" else 1 + 1e-9)


@given(st.floats(-13, -4))
def test_a_block_is_caught_from_the_limit_on(exponent):
    spread = 10**exponent
    value = np.ones(4)
    # Every copy is off by the same amount: the width is known.
    block = Compared("d_xs", value, value, np.full((8, 4), 1 + spread), EPS, TINY)
    least = LIMIT * ((1 + BLOCK_FLOOR) * spread + EPS)
    blind = (1 + BLOCK_FLOOR) * spread + EPS > 1e-2
    for d, found in zip(RUNGS, caught(block), strict=True):
        if not 0.99 < d / least < 1.01:
            assert found == (d > least and not blind)


def test_the_promised_error_is_caught_in_a_real_case_and_a_rounding_is_not():
    run = Run(Subject(builtin("elman[tanh]")), 0, ("float64",))
    found = list(climb("elman[tanh]", run, ["ordinary"], 1, ["float64"]))
    assert {c.block for c in found} >= {"d_params['W']", "d_xs", "d_state0"}
    for c in found:
        assert c.caught[RUNGS.index(PROMISED["float64"])]
        assert not c.caught[0]


def test_a_check_catches_what_one_of_its_cases_catches():
    found = list(climb_checks("elman[tanh]", STEP, "float64", 3, 1))
    assert len(found) == 5
    assert all(smallest([c], 1.0) <= 1e-12 for c in found)


def test_a_planted_error_is_found_end_to_end_where_the_ladder_says_so():
    errors = [("float64", 1e-9), ("float64", 1e-15)]
    large, none = end_to_end("elman[tanh]", "d_params['W']", errors, 2)
    assert (large.cases, large.ladder, large.examined, large.same) == (2, 2, 2, 2)
    assert (none.ladder, none.examined, none.same) == (0, 0, 2)


def test_only_the_named_block_is_spoilt():
    cell, rng = builtin("lstm"), np.random.default_rng(0)
    params = cell.init(rng, 2, 3)
    xs, state0 = rng.standard_normal((4, 2, 2)), cell.initial_state(params, 2)
    right = CellLayer(cell)
    ys, state, tape = right.forward(params, xs, state0)
    plain = right.vjp(params, tape, np.ones_like(ys), state)
    name = first_parameter("lstm")
    planted = Planted(cell, name)
    planted.d = 0.5
    spoilt = planted.vjp(params, tape, np.ones_like(ys), state)
    for key, value in plain[0].items():
        factor = 1.5 if f"d_params[{key!r}]" == name else 1.0
        assert np.array_equal(spoilt[0][key], factor * value)
    assert np.array_equal(spoilt[1], plain[1])
    assert all(np.array_equal(a, b) for a, b in zip(spoilt[2], plain[2], strict=True))


def test_a_block_that_is_not_there_is_refused():
    cell = builtin("elman")
    planted = Planted(cell, "d_params['V']")
    params = cell.init(np.random.default_rng(0), 1, 1)
    ys, state, tape = planted.forward(params, np.ones((1, 1, 1)), np.zeros((1, 1)))
    with pytest.raises(ContractError, match=r"no block is called d_params\['V'\]"):
        planted.vjp(params, tape, ys, state)


def test_the_smallest_error_is_one_above_which_nothing_slips_through():
    assert smallest([from_rung(1e-9)], 0.9) == 1e-9
    assert smallest([from_rung(1e-9)] * 9 + [from_rung(1e-2)], 0.9) == 1e-9
    assert smallest([from_rung(1e-9)] * 9 + [from_rung(1e-2)], 0.95) == 1e-2
    assert smallest([made([1e-9])], 0.9) is None
    assert smallest([made([1e-9, 1e-1, 3e-2])], 0.9) == 3e-2
    assert smallest([], 0.9) is None


@given(st.integers(0, 50), st.integers(1, 50))
def test_an_interval_holds_the_share_and_stays_in_bounds(hits, more):
    trials = hits + more
    low, high = interval(hits, trials)
    assert 0 <= low <= hits / trials <= high <= 1


def test_an_interval_is_wilsons():
    assert interval(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert interval(0, 0) == (0.0, 1.0)


def test_the_page_says_what_was_caught():
    singles = [from_rung(1e-13), made([d for d in RUNGS if d >= 1e-5], dtype="float32")]
    (planted,) = end_to_end("elman[tanh]", "d_xs", [("float64", 1e-9)], 1)
    checks = [Climb("elman", "d_x", "float64", STEP, singles[0].caught, False)]
    text = page(singles, checks, [planted], 100, 1.0)
    assert "1e-12 in float64: 100.0%" in text
    assert "1e-4 in float32: 100.0%" in text
    assert "| elman | `step_vjp` | 1e-13 (d_x), 1e-13 (d_x) |" in text
    assert "| elman[tanh] | d_xs | float64 | 1e-9 | 1 | 1 | 1 | 0 |" in text
