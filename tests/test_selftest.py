"""The tester is tested: with known bugs, and with a tester that has been weakened."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from bpttcheck import cells, mutants
from bpttcheck.errors import ContractError
from bpttcheck.judge import directions, outcome, verdict
from bpttcheck.judge.tally import Tally
from bpttcheck.mutants.base import Mutant
from bpttcheck.results.records import Case
from bpttcheck.selftest import CAUGHT, INVISIBLE, MISSED, invisible, selftest
from bpttcheck.verify.checks import CHECKS

FAMILIES = ("sign", "path")


@pytest.fixture(scope="module")
def told():
    """What was planted in the simple cell, and the calls of ``progress``."""
    calls = []
    found = selftest(
        cells.Elman(), families=FAMILIES, examples=6, dtypes=["float64"],
        progress=lambda *call: calls.append(call),
    )  # fmt: skip
    return found, calls


def test_no_bug_is_missed(told):
    found, _ = told
    assert [one.name for one in found.planted if one.outcome != CAUGHT] == []
    assert found.passed
    assert found.count(CAUGHT) == len(found.planted)


def test_every_bug_of_the_families_is_planted(told):
    found, calls = told
    bugs = mutants.catalogue(cells.Elman(), families=FAMILIES)
    assert [one.name for one in found.planted] == [bug.name for bug in bugs]
    assert [one.sentence for one in found.planted] == [bug.sentence for bug in bugs]
    assert {one.family for one in found.planted} == set(FAMILIES)
    assert calls == [(i, len(bugs), bug.name) for i, bug in enumerate(bugs)]


def test_every_bug_gets_its_diagnosis_first_and_its_block_is_named(told):
    for one in told[0].planted:
        assert one.right_diagnosis, (one.name, one.diagnosis, one.said)
        assert one.right_block, (one.name, one.named)
        assert one.said[0] == one.diagnosis
        assert one.check in CHECKS
        assert one.characters > 0
        assert one.reason == ""


def test_the_result_is_json(told):
    found, _ = told
    document = json.loads(json.dumps(found.to_dict()))
    assert document["schema_version"] == 1
    assert document["passed"] is True
    assert document["subject"] == found.subject
    assert document["examples"] == 6
    assert [one["name"] for one in document["planted"]] == [one.name for one in found.planted]
    assert document["planted"][0]["said"] == ["sign"]


@pytest.mark.nightly
def test_the_step_of_a_missing_term_is_named():
    found = selftest(cells.Elman(), families=["terms"], examples=6, dtypes=["float64"])
    steps = {one.name: one.right_step for one in found.planted if "t = " in one.name}
    assert steps
    assert all(steps.values()), steps
    assert found.passed


def test_a_wrong_subject_is_refused_with_the_check_that_it_fails():
    (wrong, *_) = mutants.catalogue(cells.Elman(), families=["sign"])
    with pytest.raises(ContractError, match=r"itself fails the check step_vjp \(d_params\['U'\]"):
        selftest(wrong.plant(cells.Elman()), families=["sign"], examples=2)


def test_a_family_that_does_not_exist_is_refused():
    with pytest.raises(ContractError, match="families="):
        selftest(cells.Elman(), families=["sings"], examples=1)


@pytest.fixture
def forgiving(monkeypatch):
    """A tester that measures every error and finds none wrong."""
    monkeypatch.setattr(verdict.Judged, "wrong", property(lambda self: False))
    monkeypatch.setattr(outcome.CaseOutcome, "wrong", property(lambda self: []))


@pytest.fixture
def without_oracles(monkeypatch):
    """A tester whose two comparisons with an oracle do nothing."""
    for name in ("step_vjp", "sequence_vjp"):
        blind = replace(CHECKS[name], run=lambda context, name=name: Tally(name, cases=1))
        monkeypatch.setitem(CHECKS, name, blind)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("weakness", ["forgiving", "without_oracles"])
def test_a_weakened_tester_misses_bugs_and_says_which(weakness, request):
    request.getfixturevalue(weakness)
    found = selftest(cells.Elman(), families=["sign"], examples=2, dtypes=["float64"])
    assert not found.passed
    assert found.count(MISSED) == len(found.planted)
    for one in found.planted:
        assert (one.check, one.named, one.said, one.reason) == ("", "", (), "")
        assert one.right_diagnosis is None
        assert one.diagnosis == "sign"


def test_a_tester_that_cannot_resolve_an_error_says_so_and_does_not_claim_it(monkeypatch):
    monkeypatch.setattr(verdict, "LIMIT", 1e30)
    monkeypatch.setattr(directions, "DIFFERENCE_LIMIT", 1e30)
    found = selftest(cells.Elman(), families=["sign"], examples=2, dtypes=["float64"])
    assert found.count(CAUGHT) == 0
    for one in found.planted:
        assert "an error of 2e+00 is below the resolution" in one.reason


def test_a_single_case_misses_nothing_but_what_it_cannot_show():
    found = selftest(cells.Elman(), families=["conditional"], examples=1)
    assert found.count(MISSED) == 0
    unseen = {one.name: one.reason for one in found.planted if one.outcome == INVISIBLE}
    assert unseen["d_params doubled where a parameter exceeds 8"].startswith(
        "no case has the regime"
    )
    assert unseen["d_params doubled where n_hidden is 5"] == "no case has the size that shows it"


PLAIN = Case(0, 0, 3, 2, 2, 3, "float64", "none", "ordinary")
BUG = Mutant("a bug", "scale", "something is wrong", lambda right: right, blocks=("d_x",))


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ({}, ""),
        ({"dtypes": ("float32",)}, "only in float32"),
        ({"regimes": ("saturated", "exploding")}, "no case has the regime that shows it"),
        ({"regimes": ("saturated", "ordinary")}, ""),
        ({"least_T": 4}, "no case has the T of at least 4 that shows it"),
        ({"least_T": 3}, ""),
        ({"least_B": 3}, "no case has the B of at least 3 that shows it"),
        ({"least_B": 2}, ""),
        ({"needs_mask": True}, "no case has the mask that shows it"),
        ({"sizes": ((4, 4), (2, 2))}, "no case has the size that shows it"),
        ({"sizes": ((2, 3),)}, ""),
        ({"note": "its gradient is zero"}, "its gradient is zero"),
        ({"error": 1e-12}, "an error of 1e-12 is below the resolution, 1e-10"),
        ({"error": 1e-9}, ""),
        ({"error": 1e-12, "blocks": ("d_params['b']",)}, ""),
    ],
    ids=str,
)
def test_a_bug_is_invisible_only_for_a_reason_that_it_declares(declared, reason):
    assert invisible(replace(BUG, **declared), [PLAIN], {("d_x", "float64"): 1e-10}) == reason


def test_a_bug_is_visible_if_one_case_has_everything_that_it_needs():
    bug = replace(BUG, least_T=3, least_B=3)
    long, wide = replace(PLAIN, B=1), replace(PLAIN, T=1, B=3)
    assert invisible(bug, [long, wide], {}).startswith("no case has the B of at least 3")
    assert invisible(bug, [long, wide, replace(PLAIN, B=3)], {}) == ""


def test_a_batch_of_one_row_hides_what_goes_wrong_between_rows():
    bugs = mutants.catalogue(cells.Elman(), families=["batch"])
    cases = [replace(PLAIN, B=1, T=T) for T in (1, 5)]
    assert bugs
    for bug in bugs:
        assert invisible(bug, cases, {}) == "no case has the B of at least 2 that shows it"


def test_the_finest_dtype_that_shows_a_bug_decides_what_is_below_the_resolution():
    seen = {("d_x", "float64"): 1e-14, ("d_x", "float32"): 1e-6}
    both = [PLAIN, replace(PLAIN, dtype="float32")]
    assert invisible(replace(BUG, error=1e-12), both, seen) == ""
    assert "1e-06" in invisible(replace(BUG, error=1e-12), both[1:], seen)


@pytest.mark.nightly
def test_a_layer_can_be_tested_too():
    class Half:
        """A layer that outputs half of what it gets, right."""

        supports_mask = False

        def init(self, rng, n_in, n_hidden):
            return {"g": rng.standard_normal(n_in)}

        def initial_state(self, params, batch_size):
            return np.zeros((batch_size, len(params["g"])), params["g"].dtype)

        def forward(self, params, xs, state0):
            total = state0 + xs.sum(axis=0)
            return params["g"] * xs, total, xs

        def vjp(self, params, xs, d_ys, d_total):
            d_g = (d_ys * xs).sum(axis=(0, 1))
            return {"g": d_g}, params["g"] * d_ys + d_total, 1 * d_total

    class Step:
        """One step of it."""

        init, initial_state = Half.init, Half.initial_state

        def step(self, params, state, x):
            return state + x, params["g"] * x, x

        def step_vjp(self, params, x, d_state, d_y):
            return {"g": (d_y * x).sum(axis=0)}, 1 * d_state, params["g"] * d_y + d_state

    found = selftest(Half(), reference=Step(), families=["sign"], examples=4, dtypes=["float64"])
    assert found.passed
    assert found.count(CAUGHT) == 3


@pytest.mark.nightly
def test_what_is_zero_or_lost_in_rounding_is_not_called_missed(forgiving):
    # The tester is blinded, so that only the measurement on the right cell can excuse a bug.
    test = selftest(cells.Jordan(), families=["conditional"], examples=22)
    by_name = {one.name: one for one in test.planted}
    drowned = by_name["d_state doubled where a parameter exceeds 8"]
    assert (drowned.outcome, "lost in rounding" in drowned.reason) == (INVISIBLE, True)
    assert by_name["d_params doubled where a parameter exceeds 8"].outcome == MISSED


@pytest.mark.nightly
def test_bugs_are_planted_in_a_cell_with_a_declared_surrogate():
    test = selftest(Soft(), families=["sign"], examples=6, dtypes=["float64"])
    assert {(one.outcome, one.said[0]) for one in test.planted} == {(CAUGHT, "sign")}


class Soft:
    """A jump whose backward pass puts the slope of tanh."""

    surrogate = "the jump has the slope of tanh"

    def init(self, rng, n_in, n_hidden):
        return {"U": rng.standard_normal((n_hidden, n_in))}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["U"])), params["U"].dtype)

    def step(self, params, state, x):
        z = x @ params["U"].T + state / 2
        y = (z > 0).astype(z.dtype)
        return y, y, (x, z)

    def surrogate_step(self, freeze, params, state, x):
        z = x @ params["U"].T + state / 2
        soft = np.tanh(z)
        y = soft + freeze((z > 0).astype(z.dtype) - soft)
        return y, y

    def step_vjp(self, params, cache, d_state, d_y):
        x, z = cache
        d_z = (d_state + d_y) * (1 - np.tanh(z) ** 2)
        return {"U": d_z.T @ x}, d_z / 2, d_z @ params["U"]


def test_a_few_of_each_family_are_planted_evenly():
    found = selftest(
        cells.Elman(), families=["sign", "scale"], each=2, examples=2, dtypes=["float64"]
    )
    assert Counter(one.family for one in found.planted) == {"sign": 2, "scale": 2}
