from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck.errors import ContractError
from bpttcheck.oracles.branches.recording import Pattern
from bpttcheck.oracles.differences.finite_difference import finite_difference
from bpttcheck.oracles.differences.line import Tableau
from bpttcheck.oracles.differences.program import shaken
from bpttcheck.oracles.estimate import Estimate


def slope_of(function: Any, x: Any, d: Any = None, w: Any = None, **options: Any) -> Estimate:
    """The derivative of a function of one array; direction and weights are ones by default."""
    x = np.asarray(x) if hasattr(x, "dtype") else np.asarray(x, float)
    d = np.ones(x.shape) if d is None else np.asarray(d, float)
    w = np.ones(np.shape(function(x))) if w is None else np.asarray(w, float)
    return finite_difference(lambda leaves: [function(leaves[0])], [x], [d], [w], **options)


def covers(estimate: Estimate, truth: float) -> bool:
    return abs(float(estimate.value) - truth) <= 3 * float(estimate.error)


def relative_bar(estimate: Estimate) -> float:
    return float(estimate.error / abs(estimate.value))


def stable_sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


SMOOTH = {
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "exp": (np.exp, np.exp),
    "sine": (np.sin, np.cos),
    "rational": (lambda x: x / (1 + x * x), lambda x: (1 - x * x) / (1 + x * x) ** 2),
    "stable_sigmoid": (stable_sigmoid, lambda x: 0.25 / np.cosh(x / 2) ** 2),
}


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(SMOOTH)),
    st.floats(-3, 3).filter(lambda x: abs(x) > 1e-3),
    st.integers(-20, 40),
    st.integers(-100, 100),
)
def test_smooth_functions_at_any_scale_of_input_and_weight(
    name: str, x: float, scale: int, weight: int
) -> None:
    f, df = SMOOTH[name]
    s, w = 2.0**scale, 2.0**weight
    found = slope_of(lambda v: f(v / s), [x * s], [s], [w])
    # Ten widths: the search looks for the worst case, a width is one standard deviation.
    assert found.distance(w * df(x)) <= 10
    assert found.evaluations <= 48
    assert found.note == ""


@pytest.mark.parametrize("scale", [-10, 0, 10, 30])
@pytest.mark.parametrize("name", SMOOTH)
def test_bars_are_short_at_any_scale(name: str, scale: int) -> None:
    f, df = SMOOTH[name]
    s = 2.0**scale
    xs = np.random.default_rng(1).uniform(-3, 3, 30)
    bars = [float(slope_of(lambda v: f(v / s), [x * s], [s]).error) / abs(df(x)) for x in xs]
    assert np.median(bars) < 1e-12
    assert np.quantile(bars, 0.9) < 1e-9


@pytest.mark.parametrize("name", sorted(SMOOTH))
def test_a_bar_that_is_short_enough_ends_the_search_and_still_holds(name: str) -> None:
    f, slope = SMOOTH[name]
    x = np.array([0.3, -1.1, 0.7])
    whole, enough = slope_of(f, x), slope_of(f, x, enough=1e-6)
    assert enough.evaluations <= whole.evaluations
    assert relative_bar(enough) <= 1e-6 * len(x)
    assert covers(enough, slope(x).sum())


def test_a_search_that_may_end_early_costs_less() -> None:
    x = np.linspace(-1, 1, 5)
    cost = [slope_of(np.tanh, x, enough=enough).evaluations for enough in (0.0, 1e-6)]
    assert cost[1] < cost[0]


def test_usual_cost_and_accuracy() -> None:
    rng = np.random.default_rng(0)
    estimates = [
        slope_of(np.tanh, rng.standard_normal(5), rng.standard_normal(5)) for _ in range(40)
    ]
    assert 14 <= np.median([e.evaluations for e in estimates]) <= 20
    assert np.median([relative_bar(e) for e in estimates]) < 1e-12


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(-900, 900), st.integers(-900, 900))
def test_powers_of_two_in_weights_and_direction_change_nothing_else(
    seed: int, of_weight: int, of_direction: int
) -> None:
    rng = np.random.default_rng(seed)
    x, d, w = rng.standard_normal((3, 4))
    base = slope_of(np.tanh, x, d, w)
    of_direction = min(of_direction, 1000 - abs(of_weight))
    of_direction = max(of_direction, -900 + abs(of_weight))
    scaled = slope_of(np.tanh, x, np.ldexp(d, of_direction), np.ldexp(w, of_weight))
    assert scaled.value == np.ldexp(base.value, of_weight + of_direction)
    assert scaled.error == pytest.approx(np.ldexp(base.error, of_weight + of_direction))


def test_saturation_is_told_apart_from_a_slope() -> None:
    found = slope_of(np.tanh, [25.0, -30.0])
    assert covers(found, 2e-21)
    assert 0 < found.error < 1e-14


def test_a_chaotic_line_gets_small_steps() -> None:
    def logistic(v: np.ndarray) -> np.ndarray:
        for _ in range(12):
            v = 3.9 * v * (1 - v)
        return v

    x, slope = 0.3, 1.0
    for _ in range(12):
        x, slope = 3.9 * x * (1 - x), slope * 3.9 * (1 - 2 * x)
    assert covers(found := slope_of(logistic, [0.3]), slope)
    assert relative_bar(found) < 1e-9


def test_zero_point_zero_direction_and_zero_weights() -> None:
    assert covers(slope_of(np.sin, np.zeros(3)), 3.0)
    nothing = slope_of(np.sin, np.ones(3), np.zeros(3))
    assert (float(nothing.value), float(nothing.error)) == (0.0, 0.0)
    assert float(slope_of(np.sin, np.ones(3), None, np.zeros(3)).value) == 0.0


@pytest.mark.parametrize("x", [1.0, 1.0 + 1e-9, 1.0 - 1e-5])
def test_a_stationary_point_is_no_reason_for_short_steps(x: float) -> None:
    for scale in (1.0, 1e-5):
        found = slope_of(lambda v, s=scale: (v / s) / (1 + (v / s) ** 2), [x * scale], [scale])
        assert covers(found, (1 - x * x) / (1 + x * x) ** 2)
        assert found.error < 1e-10
        assert found.evaluations <= 30


def test_a_constant_has_slope_zero() -> None:
    found = slope_of(lambda x: np.zeros(2) * x[:2] + 3.0, [1.0, 2.0])
    assert found.value == 0
    assert found.error < 1e-13


@pytest.mark.parametrize("distance", [1e-2, 1e-5, 1e-8, -1e-8, -1e-3])
@pytest.mark.parametrize(
    "kinked",
    [
        lambda x: np.maximum(x, 0) * 3,
        np.abs,
        lambda x: np.clip(x, 0, 9),
        lambda x: x * x if x[0] > 0 else -x,
        lambda x: np.where(x > 0, np.exp(x), 1.0),
        lambda x: np.sort(np.concatenate([x, 0 * x]))[:1],
    ],
    ids=["maximum", "abs", "clip", "if", "where", "sort"],
)
def test_near_a_kink_the_steps_stay_on_its_side(kinked: Any, distance: float) -> None:
    found = slope_of(kinked, [distance])
    h = abs(distance) / 4
    truth = float(kinked(np.array([distance + h]))[0] - kinked(np.array([distance - h]))[0]) / 2 / h
    assert abs(found.value - truth) <= 3 * found.error + 4 * h * h + 1e-15 / h
    assert found.error < 1e-6


def test_without_the_branch_pattern_a_slight_kink_would_be_stepped_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slightly_kinked(x: np.ndarray) -> np.ndarray:
        return np.exp(x) + 1e-6 * np.maximum(x, 0)

    truth = np.exp(1e-6) + 1e-6
    assert covers(slope_of(slightly_kinked, [1e-6]), truth)
    monkeypatch.setattr(Pattern, "difference", lambda *_: None)
    blind = slope_of(slightly_kinked, [1e-6])
    assert blind.distance(truth) > 10


@pytest.mark.parametrize(
    "kinked",
    [
        lambda x: np.maximum(x, 0),
        np.abs,
        lambda x: np.max(np.stack([x, 0 * x])),
        lambda x: x if x[0] > 0 else 2 * x,
    ],
)
def test_exactly_at_a_kink_it_abstains_and_names_the_line(kinked: Any) -> None:
    found = slope_of(kinked, [0.0])
    assert found.abstains
    assert "exactly on a kink" in found.note
    assert "test_finite_difference.py" in found.note
    assert found.evaluations <= 6


def test_a_kink_that_the_direction_does_not_leave_is_no_kink() -> None:
    def function(leaves: list[np.ndarray]) -> list[np.ndarray]:
        W, h = leaves
        return [np.maximum(W @ h, 0) + W[0]]

    W, h, d = np.eye(2), np.zeros(2), np.ones((2, 2))
    found = finite_difference(function, [W, h], [d, 0 * h], [np.ones(2)])
    assert covers(found, 2.0)
    assert found.error < 1e-13


@pytest.mark.parametrize("offset", [0.0, 1e-7, -1e-6])
def test_a_kink_that_cannot_be_recorded_widens_the_bar_or_abstains(offset: float) -> None:
    def hidden(x: np.ndarray) -> np.ndarray:
        return np.maximum(np.asarray(x), 0) + np.sin(x)

    found = slope_of(hidden, [offset])
    truth = np.cos(offset) + (offset > 0)
    assert found.abstains or covers(found, truth)


def test_values_that_leave_numpy_are_mentioned() -> None:
    found = slope_of(lambda x: x * (2.0 if float(x[0]) > 0 else 3.0), [1.5])
    assert covers(found, 2.0)
    assert "float()" in found.note


def test_code_that_cannot_be_recorded_is_still_differentiated() -> None:
    def picky(leaves: list[np.ndarray]) -> list[np.ndarray]:
        if type(leaves[0]) is not np.ndarray:
            raise TypeError("an exact ndarray, please")
        return [np.tanh(leaves[0])]

    found = finite_difference(picky, [np.array([0.5])], [np.ones(1)], [np.ones(1)])
    assert covers(found, 1 / np.cosh(0.5) ** 2)
    assert "not recorded" in found.note


def test_a_float32_point_is_evaluated_in_float64_where_the_code_lets_it() -> None:
    x = np.array([0.3, -0.7], np.float32)
    found = slope_of(np.tanh, x)
    assert covers(found, float(np.sum(1 / np.cosh(x.astype(float)) ** 2)))
    assert relative_bar(found) < 1e-11
    assert found.note == ""


@pytest.mark.parametrize(
    "narrow",
    [
        lambda x: np.tanh(x.astype(np.float32)),
        lambda x: np.tanh(x.astype(np.float32)).astype(np.float64),
    ],
    ids=["float32 out", "float32 inside"],
)
def test_float32_only_code_gets_a_float32_bar_and_a_note(narrow: Any) -> None:
    rng = np.random.default_rng(3)
    bars = []
    for _ in range(30):
        x, d = rng.standard_normal((2, 4))
        rounded = x.astype(np.float32).astype(float)
        found = slope_of(narrow, x, d)
        assert covers(found, float(np.sum(d / np.cosh(rounded) ** 2)))
        assert "float32-only" in found.note
        bars.append(float(found.error))
    assert 1e-7 < np.median(bars) < 1e-4


def single_only(x: np.ndarray) -> np.ndarray:
    if x.dtype != np.float32:
        raise TypeError("only float32 is supported")
    return np.tanh(x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_code_that_refuses_float64_is_differentiated_in_float32(dtype: Any) -> None:
    x = np.array([0.25, -0.5], dtype)
    found = finite_difference(
        lambda leaves: [single_only(leaves[0])], [x], [np.ones(2)], [np.ones(2)]
    )
    assert covers(found, float(np.sum(1 / np.cosh(x.astype(float)) ** 2)))
    assert found.error < 1e-4
    assert "float32-only code" in found.note


def test_code_that_fails_in_both_precisions_raises_the_error_of_the_given_one() -> None:
    def broken(leaves: list[np.ndarray]) -> list[np.ndarray]:
        raise KeyError(str(leaves[0].dtype))

    for dtype in ("float32", "float64"):
        with pytest.raises(KeyError, match=dtype):
            finite_difference(broken, [np.ones(1, dtype)], [np.ones(1)], [np.ones(1)])


def test_entries_that_are_not_finite_are_not_moved_and_the_rest_is_differentiated() -> None:
    s, u = np.array([-np.inf, 0.3]), np.array([0.5, -0.2])
    d = np.array([0.7, 1.1])
    found = finite_difference(
        lambda leaves: [np.logaddexp(leaves[0], leaves[1])], [s, u], [np.ones(2), d], [np.ones(2)]
    )
    share = 1 / (1 + np.exp(u[1] - s[1]))
    assert covers(found, 0.7 + share + 1.1 * (1 - share))
    assert found.error < 1e-12
    assert "not moved" in found.note


def test_an_output_without_weight_may_be_infinite() -> None:
    found = slope_of(lambda x: np.array([x[0], np.inf]) + 0 * x[0], [1.0], None, [2.0, 0.0])
    assert covers(found, 2.0)
    assert slope_of(lambda x: np.log(x), [0.0, 1.0], [0.0, 1.0], [1.0, 1.0]).abstains


def test_a_random_forward_pass_has_no_narrow_bar() -> None:
    source = np.random.default_rng(0)
    told = 0
    for seed in range(30):
        x, d = np.random.default_rng(seed).standard_normal((2, 3))
        found = finite_difference(
            lambda leaves: [np.tanh(leaves[0] * (source.random(3) < 0.8) / 0.8)],
            [x], [d], [np.ones(3)],
        )  # fmt: skip
        told += "run" in found.note
        assert found.abstains or found.error > 0.01 * abs(found.value)
    assert told >= 15


def test_a_random_branch_abstains() -> None:
    source = np.random.default_rng(0)
    for _ in range(20):
        found = slope_of(lambda x: np.maximum(x, source.standard_normal(2)), [0.3, -0.2])
        assert found.abstains


def test_a_spread_of_a_few_units_in_the_last_place_is_in_the_bar() -> None:
    source = np.random.default_rng(0)
    found = slope_of(lambda x: np.tanh(x) * (1 + 1e-12 * source.standard_normal(2)), [0.4, 1.1])
    assert covers(found, float(np.sum(1 / np.cosh([0.4, 1.1]) ** 2)))
    assert 1e-13 < found.error < 1e-9
    assert "repeated runs" in found.note


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: lambda x: f(np.array(x))])
def test_a_saturated_softmax_loss_is_no_slope_of_zero_with_a_tiny_bar(wrap: Any) -> None:
    def loss(b: np.ndarray) -> np.ndarray:
        e = np.exp(b)
        return -np.log(e[:1] / e.sum())

    for low in (-36.0, -37.0, -40.0, -45.0):
        found = slope_of(wrap(loss), [0.0, low], [0.0, 1.0])
        assert covers(found, float(np.exp(low)))
        assert found.abstains or found.error > 1e-17


def test_a_leaf_that_nothing_depends_on_has_slope_zero_with_a_bar() -> None:
    for traced in (True, False):
        found = slope_of(
            lambda x, t=traced: (x if t else np.array(x))[:1] * 3.0, [1.3, 2.0], [0.0, 1.0]
        )
        assert float(found.value) == 0.0
        assert 0 < found.error < 1e-13


def test_a_kink_in_opaque_code_gives_the_interval_of_the_slopes() -> None:
    def relu(x: np.ndarray) -> np.ndarray:
        return np.maximum(np.array(x), 0) + np.sin(x)

    found = slope_of(relu, [0.0], [2.0], [3.0])
    assert found.abstains
    assert "slope jumps" in found.note
    assert found.hull == pytest.approx((6.0, 12.0), rel=1e-2)
    assert slope_of(np.tanh, [0.3]).hull is None


@pytest.mark.parametrize("distance", [1e-3, -1e-5, 1e-6, -1e-7])
def test_beside_a_kink_in_opaque_code_it_stays_on_its_side_or_abstains(distance: float) -> None:
    found = slope_of(lambda x: np.exp(0.1 * x) + np.maximum(np.array(x), 0), [distance])
    truth = 0.1 * np.exp(0.1 * distance) + (distance > 0)
    assert found.abstains or covers(found, truth)


@pytest.mark.parametrize("seed", range(40))
def test_an_output_that_is_zero_by_cancelling_integers_is_no_kink(seed: int) -> None:
    rng = np.random.default_rng(seed)
    U, x = rng.integers(-1, 2, (3, 5)).astype(float), rng.integers(-1, 2, (4, 5)).astype(float)
    d, w = rng.standard_normal((3, 5)), rng.standard_normal((4, 3))
    found = finite_difference(lambda leaves: [np.tanh(x @ leaves[0].T)], [U], [d], [w])
    truth = float(np.sum(w * (x @ d.T) / np.cosh(x @ U.T) ** 2))
    assert covers(found, truth)
    assert found.error < 1e-11


def test_leaves_of_scales_sixteen_orders_apart() -> None:
    pos, rate = np.array([1e8, 2e8]), np.array([1e-8, -2e-8])

    def function(leaves: list[np.ndarray]) -> list[np.ndarray]:
        pos, rate = leaves
        return [1e16 * np.sin(1e-8 * pos), np.tanh(1e8 * rate)]

    d = [np.ones(2), np.ones(2)]
    found = finite_difference(function, [pos, rate], d, [np.ones(2), np.ones(2)])
    truth = np.sum(1e8 * np.cos(1e-8 * pos)) + np.sum(1e8 / np.cosh(1e8 * rate) ** 2)
    assert covers(found, float(truth))
    assert relative_bar(found) < 1e-6


def test_cotangents_at_both_ends_of_the_format() -> None:
    for cotangent in (1e-300, 1e300, 1e-320):
        found = slope_of(np.tanh, [0.5], None, [cotangent])
        assert covers(found, float(cotangent / np.cosh(0.5) ** 2))
    beyond = slope_of(lambda x: 1e200 * np.tanh(x), [0.5], None, [1e200])
    assert beyond.abstains
    assert "overflows" in beyond.note


def test_not_finite_at_the_point_abstains() -> None:
    for function, x in ((np.log, [-1.0]), (np.exp, [1e9]), (np.tanh, [np.nan])):
        with np.errstate(all="ignore"):
            found = slope_of(function, x)
        assert found.abstains
        assert "not finite" in found.note


def test_not_finite_near_the_point_shrinks_the_step() -> None:
    assert covers(slope_of(np.log, [1e-6]), 1e6)
    assert covers(slope_of(np.sqrt, [1e-9]), 0.5 / np.sqrt(1e-9))


def test_an_error_raised_near_the_point_shrinks_the_step_or_abstains() -> None:
    def guarded(x: np.ndarray, limit: float) -> np.ndarray:
        if float(x[0]) > limit:
            raise ValueError("too large")
        return np.sin(x)

    assert covers(slope_of(lambda x: guarded(x, 1.001), [1.0]), np.cos(1.0))
    found = slope_of(lambda x: guarded(x, 1.0), [1.0])
    assert found.abstains
    assert "raises ValueError" in found.note


def test_an_error_raised_at_the_point_comes_through() -> None:
    def broken(leaves: list[np.ndarray]) -> list[np.ndarray]:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        finite_difference(broken, [np.ones(1)], [np.ones(1)], [np.ones(1)])


def test_a_single_entry_uses_the_step_it_really_took() -> None:
    found = slope_of(lambda x: 3 * x, [1e6 / 3, 1.0], [1.0, 0.0], [1.0, 0.0])
    assert found.value == pytest.approx(3.0, rel=1e-15)


def test_a_number_close_to_an_integer_is_one_however_it_is_rounded() -> None:
    def code(leaves: Any) -> list[Any]:
        (x,) = leaves
        count = x * 10  # 3, give or take rounding
        buffer = np.multiply(x, 2.0, out=np.empty_like(x))
        largest = np.maximum(x, 0.0, out=np.empty_like(x))
        one = np.full_like(x, int(count.reshape(())))
        whole = np.floor(count), count.astype(int) * 1.0, count // 1.0, one
        return [*whole, buffer, largest, count]

    moved = 0
    for seed in range(20):
        found = shaken(code, [np.array([0.3])], seed, 2.0**-52, [np.ones(1, bool)])
        assert found is not None
        *whole, buffer, largest, count = [np.asarray(one)[0] for one in found[0]]
        assert whole == [3.0, 3.0, 3.0, 3.0]
        moved += buffer != 2 * largest
        assert abs(count - 3) < 1e-14
    assert moved > 5


def test_evaluations_stay_within_their_budget() -> None:
    for budget in (8, 12, 20):
        found = slope_of(lambda x: np.sin(50 * x), [0.3], max_evaluations=budget)
        assert found.evaluations <= budget
        assert found.abstains or covers(found, 50 * np.cos(15.0))


def test_neither_the_point_nor_the_direction_is_written_to() -> None:
    x, d = np.ones(3), np.ones(3)
    finite_difference(lambda leaves: [leaves[0].__imul__(2.0)], [x], [d], [np.ones(3)])
    np.testing.assert_array_equal(x, np.ones(3))
    np.testing.assert_array_equal(d, np.ones(3))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ContractError, match="direction has shapes"):
        slope_of(np.tanh, np.ones(3), np.ones(2))
    with pytest.raises(ContractError, match=r"weights has shapes \[\(2,\)\], expected"):
        slope_of(np.tanh, np.ones(3), None, np.ones(2))
    with pytest.raises(ContractError, match="direction"):
        finite_difference(lambda leaves: leaves, [np.ones(1)], [], [np.ones(1)])


@given(st.lists(st.floats(1.2, 3.0), min_size=1, max_size=5), st.integers(0, 2**20))
def test_the_tableau_is_exact_for_even_polynomials(ratios: list[float], seed: int) -> None:
    steps = 1 / np.cumprod([1.0, *ratios])
    coefficients = np.random.default_rng(seed).standard_normal(len(steps))
    tableau = Tableau()
    for h in steps:
        found = tableau.add(h, sum(a * h ** (2 * k) for k, a in enumerate(coefficients)), 1e-16)
    assert abs(found.value - coefficients[0]) <= 1e-12 + 10 * found.bar
    if len(steps) == 2:
        assert found.value == pytest.approx(coefficients[0], abs=1e-14)


def test_the_rounding_floor_keeps_lucky_agreement_from_passing_for_accuracy() -> None:
    tableau = Tableau()
    for h in (0.5, 0.25, 0.125):
        lucky = tableau.add(h, 1.0, 1e-6 / h)
    assert lucky.disagreement == 0
    assert lucky.bar > 1e-6


def test_the_rounding_in_an_estimate_is_that_of_its_rows() -> None:
    steps, found = (0.5, 0.3, 0.17), []
    for noise in np.random.default_rng(4).standard_normal((1000, 3)):
        tableau = Tableau()
        for h, e in zip(steps, noise, strict=True):
            # So curved that the last estimate is always the one of the highest order.
            last = tableau.add(h, 1 + 1e6 * (h**2 + h**4) + e / h, 1 / h)
        found.append(last)
    assert len({estimate.rounding for estimate in found}) == 1
    spread = np.std([estimate.value for estimate in found])
    assert spread == pytest.approx(found[0].rounding, rel=0.1)
