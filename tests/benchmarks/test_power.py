"""The benchmark of power: its counts, its adapters, and that its arms measure what they say."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from benchmarks.power import arms, ours
from benchmarks.power.arms import BEST, IDENTICAL, Amounts
from benchmarks.power.bench import CELLS, Bench, make
from benchmarks.power.flat import Calls, Flat
from benchmarks.power.ladder import RUNGS, at_power, lowest, share, smallest_caught
from benchmarks.power.page import page
from benchmarks.power.peers import PEERS, Named, Peer, Settings, ask
from benchmarks.power.records import (
    OURS,
    Rate,
    Reach,
    Said,
    Trial,
    caught,
    false_alarms,
    told_apart,
)
from benchmarks.power.results import Results
from benchmarks.power.tuning import tune
from benchmarks.power.winners import winners
from benchmarks.power.words import MISSING, chosen
from bpttcheck import trees

AMOUNTS = Amounts(
    mutants=1, inputs=1, regimes=1, alarms=1, climbs=1, checks=1, budgets=1, examples=5, words=3,
    tuning=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def bench():
    return Bench("elman[tanh]", 0)


@pytest.fixture(params=PEERS, ids=lambda peer: peer.name)
def peer(request):
    if request.param.missing:
        pytest.skip(request.param.missing)
    return request.param


def bug(bench, name):
    return next(b for bugs in bench.families.values() for b in bugs if b.name == name)


def trial(method=OURS, family="sign", flagged=True, alarm=False, arm=IDENTICAL, dtype="float64"):
    return Trial(arm, method, "lstm", dtype, "ordinary", family, family, flagged, alarm)


def reach(smallest, method=OURS, alarm=False, dtype="float64"):
    return Reach("defaults", method, "lstm", dtype, "d_xs", smallest, alarm)


def said(method, characters=100, block="d_state0"):
    return Said(
        method, "lstm", "initial_state", MISSING, True, characters, block, bool(block), None
    )


def results(trials, **changes):
    peers, absent = {"other": "other 1.0"}, {"third": "third is not installed"}
    made = Results(
        trials, [], [], [], [], peers, absent, AMOUNTS, 60.0, 90.0, "Python", {"lstm": 9}
    )
    return replace(made, **changes)


@given(st.integers(0, 60), st.integers(1, 60))
def test_a_rate_has_wilsons_interval(hits, more):
    expected = binomtest(hits, hits + more).proportion_ci(method="wilson")
    assert Rate(hits, hits + more).interval == pytest.approx(expected, abs=1e-4)


def test_a_rate_is_written_with_its_count_and_interval():
    assert str(Rate(9, 10)) == "9/10 [60, 98]"
    assert str(Rate(0, 0)) == "-"


def test_who_flags_everything_tells_nothing_apart():
    trials = [trial(flagged=True, alarm=True), trial(flagged=True), trial(flagged=False)]
    trials += [trial(family="", flagged=True), trial(family="", flagged=False)]
    assert caught(trials) == Rate(2, 3)
    assert told_apart(trials) == Rate(1, 3)
    assert false_alarms(trials) == Rate(1, 2)


@given(st.floats(-17, 1))
def test_the_lowest_rung_is_found_by_bisection(exponent):
    least = 10**exponent
    expected = next((d for d in RUNGS if d >= least), None)
    assert lowest(lambda d: d >= least) == expected


def test_power_needs_its_share_of_the_problems_and_alarms_do_not_count():
    sharp = [reach(1e-9)] * 9
    assert at_power([*sharp, reach(1e-3)]) == 1e-9
    assert at_power([*sharp, reach(None, alarm=True), reach(1e-3)]) == 1e-3
    assert at_power([reach(None, alarm=True)] * 10) is None
    assert at_power([]) is None
    assert share([*sharp, reach(1e-3)], 1e-4) == 0.9


@pytest.mark.parametrize("scalar", [False, True], ids=["outputs", "loss"])
def test_a_peer_accepts_the_right_cell(bench, peer, scalar):
    problem = bench.problem("ordinary", "float64", 0)
    answer = bench.ask(peer, bench.cell, problem, scalar=scalar)
    assert (answer.flagged, answer.message) == (False, "")
    assert answer.forward >= 2
    assert answer.backward >= 1


@pytest.mark.parametrize("scalar", [False, True], ids=["outputs", "loss"])
def test_a_peer_flags_a_wrong_sign(bench, peer, scalar):
    target = bug(bench, "sign of d_params['W']").plant(bench.cell)
    answer = bench.ask(peer, target, bench.problem("ordinary", "float64", 0), scalar=scalar)
    assert answer.flagged
    assert answer.message


def test_a_peer_starts_from_the_very_arrays_of_the_problem(bench, peer):
    problem = bench.problem("ordinary", "float32", 1)
    seen = []

    class Spy:
        def forward(self, params, xs, state0):
            seen.append([*params.values(), *trees.leaves(state0), xs])
            return bench.run.code.layer.forward(params, xs, state0)

        def vjp(self, *arguments):
            return bench.run.code.layer.vjp(*arguments)

    flat = Flat(Spy(), problem)
    ask(peer, flat)
    for given_leaf, leaf in zip(seen[0], flat.point, strict=True):
        assert given_leaf.dtype == np.float32
        assert np.array_equal(given_leaf, leaf)


def test_the_loss_that_a_peer_sees_has_the_problems_own_cotangents(bench):
    problem = bench.problem("large_cotangents", "float64", 0)
    flat = Flat(bench.run.code.layer, problem, scalar=True)
    _, record = flat.forward(*flat.point)
    found = dict(zip(flat.names, flat.backward(flat.point, record, [np.ones(())]), strict=True))
    hand = bench.run.code.run("sequence", problem).gradients
    assert found.keys() == hand.keys()
    for block, value in hand.items():
        assert np.array_equal(found[block], value)


def test_a_peer_that_runs_out_of_evaluations_has_flagged_nothing(bench, peer):
    target = bug(bench, "sign of d_params['W']").plant(bench.cell)
    problem = bench.problem("ordinary", "float64", 0)
    answer = bench.ask(peer, target, problem, calls=Calls(granted=1))
    assert (answer.flagged, answer.spent, answer.forward) == (False, True, 1)


def test_an_exception_of_the_code_under_test_is_a_flag(bench, peer):
    class Broken:
        def forward(self, params, xs, state0):
            return bench.run.code.layer.forward(params, xs, state0)

        def vjp(self, *arguments):
            raise RuntimeError("no backward pass")

    assert bench.ask(peer, Broken(), bench.problem("ordinary", "float64", 0)).flagged


def test_a_message_is_searched_for_the_block_that_it_names(bench):
    flat = Flat(bench.run.code.layer, bench.problem("ordinary", "float64", 0))
    named = {peer.name: peer.named for peer in PEERS}
    torch = named["torch gradcheck"](
        "Jacobian mismatch for output 0 with respect to input 3,", flat
    )
    assert torch == Named("d_state0", None)
    pytensor = named["pytensor"]("At position 7 of argument 4 with shape (6, 2, 3),", flat)
    assert pytensor == Named("d_xs", 1)
    assert all(one("nothing of the kind", flat) == Named("", None) for one in named.values())


def test_a_planted_bug_is_caught_in_the_arm_of_identical_inputs(bench, monkeypatch):
    wrong = bug(bench, "sign of d_params['W']")
    monkeypatch.setattr(Bench, "sample", lambda *_, **__: [wrong])
    trials = list(arms.identical(bench, [], {}, AMOUNTS))
    assert {t.arm for t in trials} == {IDENTICAL, BEST}
    assert told_apart(trials) == Rate(4, 4)
    assert false_alarms(trials) == Rate(0, 4)


def test_code_that_writes_to_its_arguments_does_not_spoil_the_next_question(bench):
    problem = bench.problem("ordinary", "float64", 0)
    assert not bench.ask(None, bench.cell, problem).flagged
    bench.ask(None, bug(bench, "a parameter changed in place").plant(bench.cell), problem)
    assert not bench.ask(None, bench.cell, problem).flagged


def test_ours_counts_its_evaluations(bench):
    answer = bench.ask(None, bench.cell, bench.problem("ordinary", "float64", 0))
    assert answer.backward == 1
    assert answer.forward > 1
    assert answer.traced == 9


def test_a_whole_check_fails_on_a_bug_and_not_on_the_right_cell(bench):
    assert not ours.check_fails(bench.run, bench.cell, 5)
    wrong = bug(bench, "d_y changed in place").plant(bench.cell)
    assert ours.check_fails(bench.run, wrong, 5)


def test_the_ladder_goes_far_below_what_differences_see(bench):
    found = smallest_caught(bench, None, "float64", 0)
    assert not found.alarm
    assert found.smallest < 1e-12


def test_mutants_are_drawn_from_every_family_and_always_the_same(bench):
    first = [b.name for b in bench.sample(1)]
    assert first == [b.name for b in bench.sample(1)]
    assert len(first) == len(bench.families)
    case = bench.case("ordinary", "float64", 0)
    assert not [b for b in bench.sample(9, case) if b.needs_mask or b.least_T > case.T]


def test_the_messages_are_about_the_missing_initial_state_first(bench):
    assert chosen(bench, 3)[0].name == MISSING


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_can_be_made(name):
    assert hasattr(make(name), "step_vjp")


def test_tuning_takes_the_smallest_tolerance_without_an_alarm(bench):
    def look(flat, settings):
        if settings.tol < 1e-6 or (settings.eps == 1e-2 and settings.tol < 1e-3):
            raise AssertionError

    def fake(look):
        return Peer("fake", "numpy", look, lambda *_: Named("", None), (1e-2, 1e-3), (1e-2,), "")

    tuned = tune(fake(look), "float64", [bench], 2)
    assert tuned.settings in (Settings(1e-2, 1e-3), Settings(1e-3, 1e-6))

    def never(flat, settings):
        raise AssertionError

    assert tune(fake(never), "float64", [bench], 1).settings is None


def test_the_page_says_where_a_peer_wins():
    assert winners(results([trial()])) == "Nowhere in this run."
    lost = [trial(flagged=False), trial("other")]
    assert "sign (identical inputs, defaults, float64): other 1/1; bpttcheck 0/1." in winners(
        results(lost)
    )
    reaches = [reach(1e-6), reach(1e-8, "other")]
    assert "Smallest error in float64: other, defaults, 1e-08." in winners(
        results([], reaches=reaches)
    )
    spoken = [said(OURS, 900), said("other", 90, "")]
    assert "other 90 (names the block at fault in 0%); bpttcheck 900 (100%)" in winners(
        results([], said=spoken)
    )


def test_the_page_counts_everything_and_names_who_is_left_out():
    trials = [trial(), trial("other", flagged=True, alarm=True), trial("other", "", flagged=True)]
    text = page(results(trials, reaches=[reach(2e-14)], said=[said(OURS), said("other")]))
    assert "| sign | 1/1 [21, 100] | 0/1 [0, 79] (1 flagged) |" in text
    assert "Left out: third: third is not installed." in text
    assert "| bpttcheck | **2e-14**, median 2e-14 |" in text
    assert "| bpttcheck | 100 | 1/1 [21, 100] |" in text


def test_the_plots_are_written(tmp_path):
    pytest.importorskip("matplotlib", reason="the plots need the extra `report`")
    from benchmarks.power.plots import draw

    draw(results([trial(), trial("other")], reaches=[reach(1e-9), reach(1e-3)]), tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["equal.svg", "families.svg", "ladder.svg", "regimes.svg"]
