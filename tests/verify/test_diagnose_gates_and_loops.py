"""For every diagnosis of gates and of the loop over time, bugs that it is the first to name."""

import numpy as np
import pytest
from planted_bugs import GATES_AND_LOOPS, LOOP, Coupled, Loop, U, W, summed

NIGHTLY = (
    "missing-term: a loop that begins at t = T-2",
    "doubled-term: t = T-1",
    "truncated: zeros inside the loop",
)


def rows():
    """Every bug; nightly where another differs in one end of the sequence or in a number alone."""
    for row in GATES_AND_LOOPS:
        marks = [pytest.mark.nightly] if str(row) in NIGHTLY else []
        yield pytest.param(row, id=str(row), marks=marks)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("row", list(rows()))
def test_the_first_diagnosis_names_the_bug(row, run):
    report = run(row.subject, row.check, examples=12, **row.options)
    first = {finding.block: finding.diagnoses[:1] for finding in report.findings}
    assert {d.code for found in first.values() for d in found} == {row.code}
    (named,) = first[row.block or report.findings[0].block]
    assert row.says in named.sentence
    for key, value in row.evidence.items():
        assert named.evidence[key] == pytest.approx(value)


@pytest.mark.parametrize("right", [Coupled(), Loop()], ids=lambda right: type(right).__name__)
def test_a_right_subject_gets_no_diagnosis(right, run):
    assert run(right, "purity", "step_vjp", LOOP, "masking", examples=12).findings == ()


def test_an_error_without_a_pattern_in_a_layer_gets_no_diagnosis(run):
    garbled = summed(lambda d_W, terms: d_W * (1 + 0.3 * np.cos(np.arange(d_W.size))).reshape(
        d_W.shape).astype(d_W.dtype))  # fmt: skip
    (finding,) = run(garbled, LOOP, examples=12).findings
    assert finding.diagnoses == ()


def test_a_term_that_is_wrong_but_not_missing_gets_no_diagnosis(run):
    (finding,) = run(summed(lambda d_W, terms: d_W + 0.25 * terms[0]), LOOP, examples=12).findings
    assert finding.diagnoses == ()


def test_two_bugs_in_two_outputs_get_a_diagnosis_each(run):
    class Two(Loop):
        def total(self, params, terms):
            right = super().total(params, terms)
            return {"U": -right["U"], "W": right["W"] - terms[0]["W"]}

    found = {f.block: f.diagnoses[0].code for f in run(Two(), LOOP, examples=12).findings}
    assert found == {U: "sign", W: "missing-term"}


@pytest.mark.nightly
def test_a_sum_over_the_last_steps_only_is_told_of_its_own_block(run):
    late = summed(lambda d_W, terms: sum(terms[-2:]))
    (finding,) = run(late, LOOP, examples=12).findings
    assert finding.diagnoses[0].code == "truncated"
    assert finding.diagnoses[0].sentence == f"only the last 2 steps count in {W}"
