"""How far a subject repeats itself: races, random numbers, and sums whose order changes."""

import numpy as np
import pytest
from subjects import Plain

from bpttcheck.judge.run import Run
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.checks.base import Context
from bpttcheck.verify.checks.purity import purity
from bpttcheck.verify.conduct.passes import Arguments, Passes, small_case
from bpttcheck.verify.conduct.repeatability import CALLS, repeated, spread, unrepeatable


class Varies(Plain):
    """Its gradients are the right ones times ``factor(shape, eps)``."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)

        def vary(a):
            return (a * self.factor(a.shape, np.finfo(a.dtype).eps)).astype(a.dtype)

        return {key: vary(value) for key, value in d_params.items()}, vary(d_h), vary(d_x)


class Reordered(Varies):
    """As sums by atomic additions."""

    def __init__(self):
        self.rng = np.random.default_rng(5)

    def factor(self, shape, eps):
        return 1 + eps * self.rng.integers(-1, 2, shape)


class Races(Plain):
    """One call of forty is spoiled."""

    def __init__(self, every=40):
        self.every, self.rng = every, np.random.default_rng(5)

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, d_x * (self.rng.integers(self.every) > 0)


class Drops(Reordered):
    def factor(self, shape, eps):
        return 2 * (self.rng.random(shape) < 0.5)


class SlightlyRandom(Reordered):
    """Far below what a plot shows, far above rounding."""

    def factor(self, shape, eps):
        return 1 + 1e-3 * self.rng.standard_normal(shape)


class FailsLate(Plain):
    calls = 0

    def step_vjp(self, params, cache, d_state, d_y):
        self.calls += 1
        if self.calls > 100:
            raise RuntimeError("out of handles")
        return super().step_vjp(params, cache, d_state, d_y)


def point(cell, dtype="float64"):
    run = Run(Subject(cell), 0, (dtype,))
    problem = run.cases.problem(small_case(run, 6, 4, 3, 4))
    return Passes(cell, "cell"), Arguments.of("cell", problem)


def seen(cell, dtype="float64", **options):
    passes, given = point(cell, dtype)
    return passes, repeated(passes, given, seconds=60.0, **options)


def test_code_that_repeats_itself_is_run_often():
    passes, repeats = seen(Plain())
    assert repeats.calls == CALLS
    assert (repeats.ulps, repeats.garbage, repeats.error) == ({}, {}, None)
    assert unrepeatable(passes, repeats) == []


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_sums_in_another_order_are_measured_and_are_conduct(dtype):
    passes, repeats = seen(Reordered(), dtype)
    assert repeats.garbage == {}
    assert all(0 < ulps <= 4 for ulps in repeats.ulps.values())
    (one,) = unrepeatable(passes, repeats)
    assert one.conduct == "rounding"
    assert "not bitwise reproducible: up to" in one.message
    assert f"in {CALLS} calls" in one.message
    (strict,) = unrepeatable(passes, repeats, deterministic=True)
    assert strict.conduct == ""
    assert "equal bits are expected" in strict.message


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("make", [Drops, SlightlyRandom])
def test_random_gradients_are_found_whatever_bar_they_set_themselves(make, dtype):
    passes, repeats = seen(make(), dtype, calls=30)
    listed = unrepeatable(passes, repeats)
    assert listed
    assert not any(one.conduct for one in listed)
    assert "calls with the same arguments" in listed[0].message


def test_a_race_in_one_of_forty_calls_is_found():
    passes, repeats = seen(Races())
    (one,) = unrepeatable(passes, repeats)
    count, _ = repeats.garbage["d_x"]
    assert (one.item, one.conduct) == ("d_x", "")
    assert 1 <= count < 30
    assert f"differs in {count} of {CALLS} calls" in one.message


def test_the_number_of_calls_misses_such_a_race_less_than_once_in_a_thousand_runs():
    assert (39 / 40) ** (CALLS - 1) < 1e-3


def test_code_that_fails_in_a_later_call_is_found():
    passes, repeats = seen(FailsLate())
    (one,) = unrepeatable(passes, repeats)
    assert f"fails in call {repeats.calls} with the same arguments" in one.message
    assert 80 < repeats.calls <= 101
    assert "out of handles" in one.message


def test_a_slow_subject_is_repeated_less_often():
    passes, given = point(Plain())
    assert repeated(passes, given, seconds=0.0).calls == 1


def test_the_spread_covers_what_varies_and_nothing_else():
    run = Run(Subject(Reordered()), 0, ("float64",))
    problem = run.cases.problem(small_case(run, 6, 4, 3, 4))
    right = Run(Subject(Plain()), 0, ("float64",))
    assert spread(right, problem) == {}
    wide = spread(run, problem)
    gradients = right.code.run("sequence", problem).gradients
    assert wide.keys() == gradients.keys()
    for block, gap in wide.items():
        largest = np.abs(gradients[block]).max()
        assert gap.shape == gradients[block].shape
        assert 0 < gap.max() < 100 * np.finfo(float).eps * largest


@pytest.mark.parametrize("seed", range(3))
def test_the_check_of_purity_tells_rounding_apart(seed):
    def told(cell):
        run = Run(Subject(cell), seed, ("float64", "float32"))
        return purity(Context(run, examples=20))

    reordered = told(Reordered())
    assert (reordered.findings, reordered.failures) == ([], 0)
    assert ["not bitwise reproducible" in one.message for one in reordered.conduct] == [True]
    assert told(Races()).failures == 1
    assert told(Drops()).failures == 1
    strict = Reordered()
    strict.deterministic = True
    assert told(strict).failures == 1
