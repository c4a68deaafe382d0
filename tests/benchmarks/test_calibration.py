"""The evidence behind the constants: what is measured is what the verdict would say."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.calibration import experiments
from benchmarks.calibration.cells import TEXTBOOK, correct
from benchmarks.calibration.collect import (
    FLOORS,
    LIMITS,
    STANDING,
    WIDTHS,
    Difference,
    Records,
    collect,
    contradictions,
    copies,
    measure,
)
from benchmarks.calibration.page import page
from benchmarks.common import DTYPES, Compared, compared, problems
from bpttcheck.calibration import BLIND, COPIES, LIMIT
from bpttcheck.judge import verdict
from bpttcheck.judge.gradient import examine
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.oracles.autodiff import autodiff, noise, programs
from bpttcheck.subject.subject import Subject

EPS, TINY = verdict.rounding(np.float64)


def block(seed, error=0.0, spread=EPS, shape=(3, 2)):
    rng = np.random.default_rng(seed)
    value = rng.standard_normal(shape)
    noisy = value * (1 + spread * rng.uniform(-1.7, 1.7, (16, *shape)))
    return Compared("d_xs", value * (1 + error), value, noisy, EPS, TINY)


def records(*blocks, regime="ordinary"):
    made = Records()
    for number, one in enumerate(blocks):
        made.add(("cell", regime, "float64", number), [one])
    return made


@pytest.fixture(scope="module")
def collected():
    with copies(16):
        return collect(["elman[relu]"], ["ordinary"], 2)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    error=st.sampled_from([0.0, 1e-15, 1e-12, 1e-3]),
    spread=st.sampled_from([EPS, 1e-6, 0.1]),
)
def test_a_block_is_measured_as_the_verdict_judges_it(seed, error, spread):
    b = block(seed, error, spread)
    ratio, share, seen = measure(b, STANDING)
    judged = verdict.judge("b", b.hand, b.value, b.copies[:COPIES], b.unit, b.tiny)
    assert ratio == judged.ratio
    assert (share > BLIND) == judged.blind
    assert LIMIT * seen == pytest.approx(judged.resolution, rel=1e-14)


def test_measuring_leaves_the_constants_as_they_were():
    before = verdict.BLOCK_FLOOR
    measure(block(0), (2, 0.0))
    assert before == verdict.BLOCK_FLOOR


def test_a_larger_floor_never_makes_a_ratio_larger():
    ratios = [measure(block(1, 1e-15), (COPIES, floor))[0] for floor in FLOORS]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] < ratios[0]


def test_a_wrong_block_is_an_alarm_and_a_blind_one_is_not():
    view = records(block(0), block(1, 1e-9), block(2, 0.5, spread=0.3)).seen_as(STANDING)
    assert view.cases == 3
    assert view.alarms() == 1
    assert list(view.clear()) == [True, True, False]
    ((ratio, where, alarms),) = view.worst_cells(3)
    assert ratio == view.largest()[0] > LIMIT
    assert (where, alarms) == (("cell", "ordinary", "float64"), 1)


def test_alarms_count_cases_and_not_blocks():
    made = Records()
    made.add(("cell", "ordinary", "float64", 0), [block(0, 1e-9), block(1, 1e-9)])
    view = made.seen_as(STANDING)
    assert view.alarms() == view.worst_cells(1)[0][2] == 1


def test_nothing_that_is_clear_has_no_largest_ratio():
    assert records(block(0, 0.5, spread=0.3)).seen_as(STANDING).largest() == (0.0, "nowhere")


def test_a_larger_limit_alarms_less_and_resolves_less():
    view = records(*(block(seed, 1e-14) for seed in range(5))).seen_as(STANDING)
    alarms = [view.alarms(limit) for limit in LIMITS]
    assert alarms == sorted(alarms, reverse=True)
    assert view.resolution("float64", 0.5, 64.0) == 2 * view.resolution("float64", 0.5, 32.0)


def test_blocks_that_are_zero_say_nothing_about_the_resolution():
    nothing = replace(block(0), hand=np.zeros((3, 2)), value=np.zeros((3, 2)))
    view = records(replace(nothing, copies=np.zeros((16, 3, 2)))).seen_as(STANDING)
    assert view.clear().all()
    assert np.isnan(view.resolution("float64", 0.5))


def test_programs_inside_have_the_copies_that_were_asked_for_and_outside_the_usual_ones():
    run = Run(Subject(correct("elman[tanh]")), 0, DTYPES)
    (problem, template), *_ = problems(run, "ordinary", "float64", 1)
    with copies(3):
        (first, *_) = compared(run, SEQUENCE, problem, template)
    assert len(first.copies) == 3
    assert programs.COPIES == autodiff.COPIES == COPIES


def test_right_cells_give_no_alarm_and_every_width_measures_the_same_blocks(collected):
    assert {len(row) for row in collected.measured} == {len(WIDTHS)}
    assert {case[0] for case in collected.case} == {"elman[relu]"}
    assert {case[2] for case in collected.case} == set(DTYPES)
    assert all(collected.seen_as(width).alarms(64.0) == 0 for width in WIDTHS)


def test_differences_of_right_cells_are_near_and_a_far_one_is_counted(collected):
    assert collected.differences
    assert contradictions(collected.differences) == (0, 0)
    far = [Difference("float64", 1.0, 100.0, 1e-9), Difference("float64", 50.0, 100.0, 1e-9)]
    assert contradictions(far) == (2, 1)


def test_what_is_taken_out_of_the_noise_is_put_back():
    before = noise._curved, noise._rounds, noise.KINK_MARGIN, programs._perturbed
    views = {
        name: experiments.with_ingredients(name, ["textbook tanh"], ["saturated"], 1)
        for name in ("all of it", "input noise only")
    }
    assert before == (noise._curved, noise._rounds, noise.KINK_MARGIN, programs._perturbed)
    with_all, without = (views[name].seen for name in ("all of it", "input noise only"))
    assert np.median(without) < np.median(with_all)


def test_every_ingredient_names_something_that_is_there():
    for patches in experiments.INGREDIENTS.values():
        for module, attribute, _ in patches:
            assert hasattr(module, attribute)


def test_laws_are_measured_with_the_runs_that_were_asked_for():
    found = experiments.laws(2, ["elman[tanh]"], 10)
    assert {one.law for one in found} == set(experiments.LAWS)
    assert sum(one.failures for one in found) == 0
    assert max(one.ratio for one in found) > 0


@pytest.mark.parametrize("name", TEXTBOOK)
def test_the_differences_confirm_each_textbook_cell(name):
    run = Run(Subject(correct(name)), 0, ("float64",))
    spoke = 0
    for problem, template in problems(run, "ordinary", "float64", 3):
        outcome = examine(run, SEQUENCE, problem, template, differences_only=True)
        assert not outcome.wrong
        spoke += "differences" in outcome.spoke
    assert spoke


def test_a_textbook_cell_with_a_wrong_slope_is_found_out():
    right = correct("textbook tanh")
    wrong = type(right)(right.value, lambda z, h: 1 - h)
    run = Run(Subject(wrong), 0, ("float64",))
    ((problem, template),) = problems(run, "ordinary", "float64", 1)
    assert examine(run, SEQUENCE, problem, template, differences_only=True).wrong


def test_the_page_has_a_row_for_every_constant(collected):
    view = collected.seen_as(STANDING)
    share = experiments.Share("elman", "step_vjp", "d_x", "float32", 3, 10)
    text = page(
        experiments.Measured(
            collected,
            dict.fromkeys((2, 4, 8, 16), 1.0),
            dict.fromkeys(experiments.MARGINS, view),
            dict.fromkeys(experiments.INGREDIENTS, view),
            {n: [experiments.Law("elman", "linearity", 1.5, 0, 10)] for n in (2, 4, 8)},
            [share],
            1.0,
        )
    )
    for constant in ("LIMIT", "COPIES", "BLOCK_FLOOR", "BLIND", "KINK_MARGIN",
                     "DIFFERENCE_LIMIT", "LAW_COPIES", "JUDGED_SHARE"):  # fmt: skip
        assert f"| `{constant}` |" in text
        assert f"## {constant}" in text
    assert "30.0% (3 of 10)" in text
    assert "nan" not in text
