"""The error model on numbers made by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpttcheck.calibration import BLIND, LIMIT
from bpttcheck.judge.directions import Vote, Witness, vote
from bpttcheck.judge.verdict import judge, rounding, width
from bpttcheck.oracles.estimate import Estimate

EPS, TINY = rounding("float64")


def copies(value, spread, seed=0, K=8):
    rng = np.random.default_rng(seed)
    return value + spread * np.abs(value) * rng.standard_normal((K, *np.shape(value)))


def block(hand, value, spread=1e-15):
    value = np.asarray(value, float)
    return judge("g", hand, value, copies(value, spread), EPS, TINY)


@given(scale=st.floats(1e-200, 1e200), shape=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_the_verdict_does_not_depend_on_the_scale(scale, shape):
    value = np.random.default_rng(1).standard_normal(shape)
    spread = copies(value, 1e-10)
    one = judge("g", value * (1 + 1e-7), value, spread, EPS, 0.0)
    other = judge("g", value * (1 + 1e-7) * scale, value * scale, spread * scale, EPS, 0.0)
    assert other.ratio == pytest.approx(one.ratio, rel=1e-2)


def test_an_error_within_rounding_is_right_and_one_beyond_it_is_wrong():
    value = np.linspace(1, 2, 12).reshape(3, 4)
    assert not block(value * (1 + 4e-16), value).wrong
    assert block(value * (1 + 1e-12), value).wrong


def test_one_wrong_entry_is_found_and_named():
    value = np.linspace(1, 2, 12).reshape(3, 4)
    hand = value.copy()
    hand[1, 2] = 0
    assert block(hand, value).entry == (1, 2)


def test_a_hand_value_that_is_not_finite_is_infinitely_wrong():
    judged = block(np.array([1.0, np.nan]), np.array([1.0, 2.0]))
    assert judged.ratio == np.inf
    assert judged.wrong


def test_a_reference_that_is_not_finite_is_not_usable():
    judged = block(np.array([1.0, 2.0]), np.array([1.0, np.nan]))
    assert not judged.usable
    assert not judged.wrong


def test_a_block_drowned_in_noise_is_blind_and_never_wrong():
    value = np.linspace(1, 2, 12)
    judged = block(value * 3, value, spread=2 * BLIND)
    assert judged.blind
    assert not judged.wrong


def test_a_zero_block_is_null_but_an_additive_error_in_it_is_wrong():
    zero = np.zeros(4)
    assert judge("g", zero, zero, np.zeros((8, 4)), EPS, TINY).null
    assert judge("g", zero + 1e-3, zero, np.zeros((8, 4)), EPS, TINY).wrong


def test_an_empty_block_is_null():
    assert judge("g", np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((8, 0, 3)), EPS, TINY).null


def test_squares_of_huge_and_tiny_spreads_stay_in_range():
    for scale in (1e-170, 1e170):
        value = np.array([1.0, 2.0]) * scale
        s = width(value, copies(value, 1e-10), EPS, 0.0)
        assert np.isfinite(s).all()
        assert (s > 0).all()


def test_the_resolution_is_the_smallest_scale_error_that_is_caught():
    value = np.linspace(1, 2, 12)
    seen = block(value, value).resolution
    assert block(value * (1 + 1.01 * seen), value).wrong
    assert not block(value * (1 + 0.9 * seen), value).wrong
    assert seen < 100 * LIMIT * 1e-15


def witness(difference, error, hand=2.0, jax=1.0, by_itself=1.0):
    said = {"differences": Estimate(np.float64(difference), np.float64(error))}
    own = None if by_itself is None else Estimate(np.float64(by_itself), np.float64(0))
    return Witness(said, hand, jax, 1e-12, own)


WRONG = block(np.array([2.0]), np.array([1.0]))


def test_differences_that_side_with_jax_condemn_the_hand():
    assert vote(WRONG, witness(1.0, 1e-9)) is Vote.WRONG


def test_differences_that_abstain_leave_jax_alone():
    assert vote(WRONG, witness(0.0, np.inf)) is Vote.WRONG
    assert vote(WRONG, witness(1.5, 1.0)) is Vote.WRONG


def test_differences_that_side_with_the_hand_contradict_jax():
    assert vote(WRONG, witness(2.0, 1e-9)) is Vote.CONTRADICTION


def test_a_jax_that_contradicts_itself_condemns_nobody():
    assert vote(WRONG, witness(1.0, 1e-9, by_itself=2.0)) is Vote.CONTRADICTION


def test_a_right_block_needs_no_witness():
    assert vote(block(np.array([1.0]), np.array([1.0])), None) is Vote.RIGHT
