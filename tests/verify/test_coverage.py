"""What a run could not have shown is said, each sentence exactly where it holds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpttcheck
from bpttcheck import cells
from bpttcheck.problems.problem import MASKS, REGIMES
from bpttcheck.results.records import Case
from bpttcheck.verify.reporting import hidden

PLAIN = Case(0, 0, 3, 2, 2, 3, "float64", "none", "ordinary")
# Together they show every kind of bug: each of them alone shows something that no other does.
RICH = (
    PLAIN,
    replace(PLAIN, T=1030, regime="long"),
    replace(PLAIN, n_in=3),
    replace(PLAIN, regime="large_cotangents"),
    replace(PLAIN, regime="saturated"),
    replace(PLAIN, regime="at_kinks"),
    replace(PLAIN, mask="holes"),
    replace(PLAIN, dtype="float32"),
    replace(PLAIN, B=9),
    replace(PLAIN, n_hidden=33),
    replace(PLAIN, regime="large_inputs"),
    replace(PLAIN, regime="one_sign"),
    replace(PLAIN, regime="silent_outputs"),
    replace(PLAIN, regime="tokens"),
)

SENTENCES = {
    "B = 1 only": lambda cs: all(c.B == 1 for c in cs),
    "T = 1 only": lambda cs: all(c.T == 1 for c in cs),
    "no long sequence": lambda cs: 1 < max(c.T for c in cs) <= 12,
    "n_hidden = 1 only": lambda cs: all(c.n_hidden == 1 for c in cs),
    "n_in and n_hidden never coincide": lambda cs: not any(1 < c.n_in == c.n_hidden for c in cs),
    "n_in = n_hidden only": lambda cs: all(c.n_in == c.n_hidden for c in cs),
    "no large cotangents": lambda cs: "large_cotangents" not in {c.regime for c in cs},
    "no saturated units": lambda cs: "saturated" not in {c.regime for c in cs},
    "no value at a kink": lambda cs: not {"at_kinks", "near_kinks"} & {c.regime for c in cs},
    "B <= ": lambda cs: 1 < max(c.B for c in cs) < 8,
    "n_hidden <= ": lambda cs: 1 < max(c.n_hidden for c in cs) < 32,
    "T <= ": lambda cs: 12 < max(c.T for c in cs) < 1000,
    "no inputs beyond 5": lambda cs: "large_inputs" not in {c.regime for c in cs},
    "no cotangents of one sign": lambda cs: "one_sign" not in {c.regime for c in cs},
    "no output without a cotangent": lambda cs: "silent_outputs" not in {c.regime for c in cs},
    "no zero rows": lambda cs: not {"sparse_inputs", "tokens"} & {c.regime for c in cs},
    "no masks": lambda cs: {c.mask for c in cs} == {"none"},
    "float64 only": lambda cs: {c.dtype for c in cs} == {"float64"},
    "float32 only": lambda cs: {c.dtype for c in cs} == {"float32"},
}

any_case = st.builds(
    Case,
    seed=st.just(0),
    index=st.integers(0, 99),
    T=st.integers(1, 14),
    B=st.integers(1, 2),
    n_in=st.integers(1, 2),
    n_hidden=st.integers(1, 2),
    dtype=st.sampled_from(["float64", "float32"]),
    mask=st.sampled_from(MASKS),
    regime=st.sampled_from(list(REGIMES)),
)


def starts(cases):
    """How each sentence begins: its condition."""
    said = hidden(cases)
    found = {start for start in SENTENCES if any(text.startswith(start) for text in said)}
    assert len(found) == len(said), said
    return found


@given(cases=st.lists(any_case, min_size=1, max_size=6))
def test_each_sentence_is_said_exactly_where_it_holds(cases):
    assert starts(cases) == {start for start, holds in SENTENCES.items() if holds(cases)}


def test_a_rich_set_of_cases_hides_nothing():
    assert hidden(RICH) == ()


@pytest.mark.parametrize(
    ("left_out", "start"),
    [
        (1, "no long sequence"),
        (2, "n_in and n_hidden never coincide"),
        (3, "no large cotangents"),
        (4, "no saturated units"),
        (5, "no value at a kink"),
        (6, "no masks"),
        (7, "float64 only"),
        (8, "B <= "),
        (9, "n_hidden <= "),
        (10, "no inputs beyond 5"),
        (11, "no cotangents of one sign"),
        (12, "no output without a cotangent"),
        (13, "no zero rows"),
    ],
)
def test_leaving_out_one_kind_of_case_hides_its_bugs(left_out, start):
    assert starts(RICH[:left_out] + RICH[left_out + 1 :]) == {start}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"B": 1}, {"B = 1 only"}),
        ({"T": 1}, {"T = 1 only"}),
        ({"dtype": "float32"}, {"float32 only"}),
        ({"n_in": 2, "n_hidden": 2}, {"n_in = n_hidden only", "n_hidden <= "}),
        ({"n_in": 5, "n_hidden": 1}, {"n_hidden = 1 only", "n_in and n_hidden never coincide"}),
    ],
)
def test_one_size_throughout_hides_what_needs_another(changes, expected):
    assert starts([replace(case, **changes) for case in RICH]) == expected


def test_the_longest_sequence_is_named():
    (said,) = [text for text in hidden([replace(PLAIN, T=7), PLAIN]) if "truncation" in text]
    assert said == "no long sequence: a truncation after more than 7 steps cannot show"


def test_twelve_steps_are_short_and_thirteen_are_long():
    assert "no long sequence" in starts([PLAIN, replace(PLAIN, T=12)])
    assert "no long sequence" not in starts([PLAIN, replace(PLAIN, T=13)])


def test_every_sentence_says_which_bug_cannot_show():
    for case in (PLAIN, replace(PLAIN, B=1, T=1, n_in=1, n_hidden=1, dtype="float32")):
        assert all(text.endswith("cannot show") and ": " in text for text in hidden([case]))


def test_no_case_at_all_says_nothing():
    assert hidden([]) == ()


@pytest.fixture(scope="module")
def short_run():
    return bpttcheck.check(cells.Elman(), examples=3, dtypes=["float64"], checks=["step_vjp"])


def test_a_short_run_says_what_it_could_not_show(short_run):
    assert short_run.passed
    assert starts_of(short_run) >= {"no large cotangents", "float64 only"}
    text = str(short_run)
    for sentence in short_run.hidden:
        assert f"could not show: {sentence}" in " ".join(text.split())


def starts_of(report):
    return {start for start in SENTENCES if any(t.startswith(start) for t in report.hidden)}


def test_what_is_hidden_is_part_of_the_json(short_run):
    assert short_run.to_dict()["hidden"] == list(short_run.hidden)


def test_a_run_of_every_regime_and_dtype_hides_nothing():
    checks = ["step_vjp", "sequence_vjp", "batch_additivity", "time_splitting"]
    full = bpttcheck.check(cells.Elman(), examples=60, checks=checks)
    # Elman's activations may be objects; and what is slow to run leaves sizes out.
    left = ("larger sizes", "lines that no judged case ran: activations.py")
    assert [text for text in full.hidden if not text.startswith(left)] == []


def test_a_check_without_any_gradient_case_makes_no_claim():
    report = bpttcheck.check(cells.Elman(), examples=3, checks=["purity"])
    assert report.hidden == ()


def test_only_an_object_can_keep_arrays():
    """A pair of functions has no instance, whatever the subject made of it holds."""

    def forward(x, w):
        return x @ w, (x, w)

    def backward(cache, dy):
        x, w = cache
        return dy @ w.T, x.T @ dy

    functions = bpttcheck.check_vjp(forward, backward, "x: N D, w: D H -> y: N H", examples=3)
    assert not any("on the instance" in text for text in functions.hidden)
    cell = type("Buffered", (cells.Elman,), {})()
    vars(cell)["buffer"] = np.zeros(3)
    kept = bpttcheck.check(cell, examples=3, dtypes=["float64"], checks=["step_vjp"])
    assert any("on the instance" in text for text in kept.hidden)
