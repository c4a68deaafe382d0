"""Ratios, intervals and exponents on made-up seconds, and rounds on a made-up clock."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpttcheck.bench import measure, statistics
from bpttcheck.bench.machine import busy
from bpttcheck.bench.report.records import Interval, MeasuredPoint, Size, Summary
from bpttcheck.bench.statistics import compared, headline, pays_off_after


@pytest.fixture(autouse=True)
def little_to_collect(monkeypatch: pytest.MonkeyPatch) -> None:
    # A collection before each of many made-up runs would take most of the time.
    monkeypatch.setattr(gc, "collect", lambda: 0)


class Clock:
    """Seconds that pass only while somebody works, some rounds being slower for everybody."""

    def __init__(self, seed: int = 0) -> None:
        self.now, self.rng, self.calls = 0.0, np.random.default_rng(seed), list[str]()

    def __call__(self) -> float:
        return self.now

    def worker(self, name: str, seconds: float) -> Callable[[], None]:
        def work() -> None:
            assert not gc.isenabled()
            self.calls.append(name)
            self.now += seconds * self.rng.lognormal(0, 0.03)

        return work


def timed(seed: int = 0, count: int = 15, **seconds: float) -> dict[str, measure.Samples]:
    clock = Clock(seed)
    actions = {name: clock.worker(name, value) for name, value in seconds.items()}
    return measure.rounds(actions, count, seed=seed, clock=clock)


@pytest.mark.parametrize("factor", [0.5, 1.3, 4.0])
def test_a_planted_slow_down_is_measured(factor: float) -> None:
    for seed in range(5):
        found = timed(seed, mine=0.01 * factor, base=0.01)
        ratio = statistics.ratio(found["mine"].seconds, found["base"].seconds)
        assert ratio.value == pytest.approx(factor, rel=0.06)
        assert 1.0 not in ratio


def test_the_same_against_itself_holds_one_nearly_always() -> None:
    held = 0
    for seed in range(25):
        found = timed(seed, one=0.01, other=0.01)
        held += 1.0 in statistics.ratio(found["one"].seconds, found["other"].seconds)
    # 95 % intervals of so few rounds are known to be a little short.
    assert held >= 20


def test_what_slows_a_whole_round_down_cancels_in_the_ratio() -> None:
    slow = np.array([1.0, 1.0, 7.0, 1.0, 1.0, 3.0, 1.0])
    ratio = statistics.ratio(list(1.5 * slow), list(slow))
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 1.5))


def test_rounds_that_only_one_took_part_in_do_not_count() -> None:
    ratio = statistics.ratio([2.0, 2.0, 2.0], [1.0, 1.0, 1.0, 50.0, 50.0, 50.0, 50.0])
    assert ratio.value == 2.0


@given(st.lists(st.tuples(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3)), min_size=3, max_size=20))
def test_an_interval_holds_its_estimate(pairs: list[tuple[float, float]]) -> None:
    ratio = statistics.ratio(*zip(*pairs, strict=True))
    assert ratio.low <= ratio.value * (1 + 1e-12)
    assert ratio.value <= ratio.high * (1 + 1e-12)


def test_the_geometric_mean_of_inverse_ratios_is_one() -> None:
    mean = statistics.geometric_mean([([4.0] * 5, [1.0] * 5), ([1.0] * 5, [4.0] * 5)])
    assert mean.value == pytest.approx(1.0)


@given(power=st.floats(-2, 3), factor=st.floats(1e-6, 1e3))
def test_a_planted_exponent_is_found(power: float, factor: float) -> None:
    sizes = [10.0, 50.0, 200.0, 1000.0]
    found = statistics.power_of(sizes, [factor * size**power for size in sizes])
    assert found == pytest.approx((power, factor), rel=1e-6, abs=1e-6)


def test_everybody_takes_part_once_in_a_round_in_an_order_that_changes() -> None:
    clock = Clock()
    names = ("a", "b", "c")
    measure.rounds({name: clock.worker(name, 0.01) for name in names}, 30, clock=clock)
    rounds = 30 * measure.MORE  # for they are short
    orders = [tuple(clock.calls[i : i + 3]) for i in range(6, 6 + 3 * rounds, 3)]
    assert len(clock.calls) == 6 + 3 * rounds
    assert {tuple(sorted(order)) for order in orders} == {names}
    assert len(set(orders)) == 6


def test_a_short_action_is_called_often_enough_for_the_clock() -> None:
    found = timed(short=1e-5, long=0.05)
    assert found["short"].calls * 1e-5 >= 0.8 * measure.SHORTEST
    assert found["long"].calls == 1
    assert np.median(found["short"].seconds) == pytest.approx(1e-5, rel=0.05)


def test_a_very_slow_action_takes_part_in_fewer_rounds() -> None:
    found = timed(slow=5.0, quick=0.01)
    assert len(found["slow"].seconds) == 3
    assert len(found["quick"].seconds) == 15


@pytest.mark.parametrize(("each", "rounds"), [(0.045, 75), (0.055, 15)])
def test_rounds_shorter_than_the_limit_are_more_and_no_others(each: float, rounds: int) -> None:
    found = timed(a=each, b=each, c=each)
    assert {len(samples.seconds) for samples in found.values()} == {rounds}


def test_what_takes_part_in_few_rounds_keeps_them_and_does_not_make_the_round_long() -> None:
    clock = Clock()
    actions = {"slow": clock.worker("slow", 1.0), "quick": clock.worker("quick", 0.01)}
    found = measure.rounds(actions, 15, fewer={"slow": 3}, clock=clock)
    assert (len(found["slow"].seconds), len(found["quick"].seconds)) == (3, 75)


def test_the_number_of_rounds_is_settled_by_the_first_calls_alone() -> None:
    # A worker that is slow once the rounds have begun changes nothing.
    clock = Clock()
    seconds = iter([0.01, 0.01] + [1.0] * 100)

    def work() -> None:
        clock.now += next(seconds)

    assert len(measure.rounds({"a": work}, 4, clock=clock)["a"].seconds) == 4 * measure.MORE


def test_the_garbage_collector_is_put_back_even_after_an_error() -> None:
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        measure.once(lambda: 1 / 0)
    assert gc.isenabled()
    gc.disable()
    try:
        with measure.no_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@given(
    first=st.floats(1e-3, 10), seconds=st.floats(1e-6, 1e-2), gain=st.floats(1e-6, 1e-2)
)  # fmt: skip
def test_a_compilation_pays_off_after_the_first_call_at_which_it_cost_less(
    first: float, seconds: float, gain: float
) -> None:
    other = seconds + gain
    n = pays_off_after(first, seconds, other)
    assert n is not None

    def lead(calls: int) -> float:
        return calls * other - (first + (calls - 1) * seconds)

    slack = 1e-9 * max(first, n * other)
    assert lead(n) >= -slack
    assert n == 1 or lead(n - 1) <= slack


def test_a_compilation_that_gains_nothing_never_pays_off() -> None:
    assert pays_off_after(1.0, 0.2, 0.2) is None


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(Interval(1.2, 1.1, 1.3), "1.20x slower than"), (Interval(0.5, 0.4, 0.6), "2.0x faster than"),
     (Interval(1.05, 0.99, 1.1), "as fast as"), (Interval(0.95, 0.91, 1.0), "as fast as"),
     (Interval(1.05, 0.99, 1.2), "not told apart from"),
     (Interval(0.9, 0.8, 1.0), "not told apart from")],
)  # fmt: skip
def test_a_ratio_is_told_in_words(ratio: Interval, words: str) -> None:
    assert compared(ratio) == words


@given(low=st.floats(0.1, 1.0), high=st.floats(1.0, 10.0))
def test_only_a_narrow_interval_is_called_as_fast(low: float, high: float) -> None:
    narrow = low >= 1 / 1.1 and high <= 1.1
    assert (compared(Interval(1.0, low, high)) == "as fast as") == narrow


def test_a_headline_says_that_it_cannot_tell() -> None:
    found = [
        Summary("fused", "float64", Interval(1.05, 0.85, 1.3), 0.8, 3.0, 6, 3e-15),
        Summary("on_jax", "float64", Interval(0.98, 0.7, 1.01), 0.5, 1.0, 6, 2e-15),
    ]
    assert headline("LSTM", "float64", found, []) == (
        "LSTM: hand-written NumPy (fused) is not told apart from JAX autodiff (0.85x to 1.30x of"
        " its time), on JAX not told apart (0.70x to 1.01x of its time); gradients agree to 3e-15"
        " (geometric mean of 6 sizes, float64)"
    )


def test_a_headline_says_which_numpy_form_it_speaks_of_and_what_makes_it_doubtful() -> None:
    one = Summary("numpy", "float64", Interval(2.0, 1.9, 2.1), 2.0, 2.0, 1, 1e-15)
    slower = replace(one, form="deferred", ratio=Interval(3.0, 2.9, 3.1))
    rest = " is 2.0x slower than JAX autodiff (1.90 to 2.1); gradients agree to 1e-15"
    rest += " (1 size, float64)"
    assert headline("C", "float64", [one], []) == f"C: hand-written NumPy{rest}"
    assert headline("C", "float64", [one, slower], []) == f"C: hand-written NumPy (as it is){rest}"

    def point(reach: float) -> MeasuredPoint:
        same = Interval(1.0, 0.99, 1 + reach)
        return MeasuredPoint(Size(3, 2, 2, 3), "float64", "jax", [], same, {})

    calm = headline("C", "float64", [one], [point(0.04)])
    assert calm == f"C: hand-written NumPy{rest}"
    loud = headline("C", "float64", [one], [point(0.07)], "load 1.4 on 2 cores")
    assert loud == f"{calm} [doubtful: noise floor 7%; load 1.4 on 2 cores]"


@pytest.mark.parametrize(("load", "told"), [(0.5, ""), (1.0, ""), (1.4, "load 1.4 on 2 cores")])
def test_a_machine_is_busy_where_more_than_half_of_it_is(load: float, told: str) -> None:
    assert busy([load], 2) == told
    assert busy(None, 2) == ""


def test_the_headline_is_one_sentence_about_the_fastest_form() -> None:
    found = [
        Summary("numpy", "float64", Interval(3.0, 2.9, 3.1), 2.0, 4.0, 6, 1e-15),
        Summary("fused", "float64", Interval(1.2, 1.1, 1.3), 0.8, 3.0, 6, 3e-15),
        Summary("on_jax", "float64", Interval(0.714, 0.7, 0.72), 0.5, 1.0, 6, 2e-15),
        Summary("fused", "float32", Interval(0.5, 0.4, 0.625), 0.5, 0.5, 1, 4e-7),
    ]
    assert headline("LSTM", "float64", found, []) == (
        "LSTM: hand-written NumPy (fused) is 1.20x slower than JAX autodiff (1.10 to 1.30), on JAX"
        " 1.40x faster; gradients agree to 3e-15 (geometric mean of 6 sizes, float64)"
    )
    assert headline("LSTM", "float32", found, []) == (
        "LSTM: hand-written NumPy (fused) is 2.0x faster than JAX autodiff (1.60 to 2.5); gradients"
        " agree to 4e-07 (1 size, float32)"
    )
