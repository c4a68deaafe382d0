"""The text of a report: short, aligned, honest about what was not seen."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from bpttcheck.results.records import (
    BlockSummary,
    Case,
    CheckResult,
    Diagnosis,
    Finding,
    Measured,
    Verdict,
)
from bpttcheck.results.report import Report
from bpttcheck.results.text import counts, describe, headline, outcome, render
from bpttcheck.results.words import aligned, short

NAMES = (
    "contract",
    "purity",
    "step_vjp",
    "sequence_vjp",
    "linearity",
    "batch_additivity",
    "time_splitting",
    "causality",
    "masking",
    "zero_length",
)
ORACLE = {"jax": 100, "differences": 93}


def blocks(blind: int = 0) -> tuple[BlockSummary, ...]:
    return tuple(
        BlockSummary(f"d_params['{name}']", dtype, 100 - blind, blind, best * scale, mid, 1.5)
        for name, scale in (("W", 1.0), ("b", 0.5))
        for dtype, best, mid in (("float64", 3e-14, 8e-14), ("float32", 2e-6, 8e-6))
    )


def passed(name: str) -> CheckResult:
    if name.endswith("_vjp"):
        return CheckResult(
            name, Verdict.PASSED, 100, worst_ratio=1.84, limit=32, oracles=ORACLE, blocks=blocks()
        )
    if name in ("contract", "purity"):
        return CheckResult(name, Verdict.PASSED, 100)
    return CheckResult(name, Verdict.PASSED, 100, worst_ratio=0.41, limit=32)


def report(*changed: CheckResult, **fields: object) -> Report:
    """A plausible run in which only the given checks differ from a pass."""
    by_name = {check.name: check for check in changed}
    values = {
        "subject": "Elman",
        "checks": tuple(by_name.get(name, passed(name)) for name in NAMES),
        "seed": 7,
        "examples": 100,
        "dtypes": ("float64", "float32"),
        "sizes": ((1, 1), (2, 3), (3, 5), (4, 8)),
        "lengths": (0, 256),
        "batches": (1, 4),
        "regimes": {"ordinary": 40, "saturated": 12, "vanishing": 11, "long": 9, "zeros": 8},
        "seconds": 12.34,
    }
    return Report(**{**values, **fields})  # type: ignore[arg-type]


def missing_gradient(check: str) -> Finding:
    steps = 1 if check == "step_vjp" else 2
    return Finding(
        check=check,
        method="step_vjp",
        block="d_params['b']",
        message="the hand gradient is zero where the oracles find a gradient",
        case=Case(7, -1, steps, 1, 1, 1, "float64", "none", "ordinary"),
        entry=(0,),
        hand=0.0,
        jax=Measured(0.41997434161402607, 2.1e-17),
        finite_difference=Measured(0.4199743416140119, 5.3e-14),
        ratio=3.1e13,
        limit=32,
        relative_error=1.0,
        time_step=0,
        diagnoses=(
            Diagnosis("missing-term", "the gradient of b is never added: it is zero everywhere"),
        ),
    )


def failed(name: str, **fields: object) -> CheckResult:
    return replace(passed(name), verdict=Verdict.FAILED, worst_ratio=3.1e13, **fields)


@pytest.fixture
def one_missing_gradient() -> Report:
    return report(
        failed("step_vjp"),
        failed("sequence_vjp"),
        findings=(missing_gradient("step_vjp"), missing_gradient("sequence_vjp")),
    )


@pytest.fixture
def broken_contract() -> Report:
    finding = Finding(
        check="contract",
        method="step_vjp",
        block="d_previous_state",
        message="d_previous_state has shape (4, 2), expected (2, 4): transposed?",
        exception=(
            "Traceback (most recent call last):\n"
            '  File "cell.py", line 12, in step_vjp\n'
            "    return d_params, d_state @ params['W'].T\n"
            "ValueError: matmul: Input operand 1 has a mismatch in its core dimension 0"
        ),
    )
    stopped = [
        CheckResult(name, None, skipped="the contract is broken")
        for name in NAMES
        if name != "contract"
    ]
    contract = CheckResult("contract", Verdict.FAILED, 3)
    return report(contract, *stopped, findings=(finding,), seconds=0.2)


def test_a_run_that_passed_reads_well(snapshot: SnapshotAssertion) -> None:
    skipped = CheckResult("masking", None, skipped="supports_mask is False")
    assert render(report(skipped)) == snapshot


def test_a_missing_gradient_reads_well(
    one_missing_gradient: Report, snapshot: SnapshotAssertion
) -> None:
    assert render(one_missing_gradient) == snapshot


def test_a_missing_gradient_takes_fewer_than_1500_characters(one_missing_gradient: Report) -> None:
    text = render(one_missing_gradient)
    assert len(text) < 1500
    assert "d_params['b']" in text


def test_a_broken_contract_reads_well(broken_contract: Report, snapshot: SnapshotAssertion) -> None:
    assert render(broken_contract) == snapshot


def test_an_inconclusive_run_says_why(snapshot: SnapshotAssertion) -> None:
    unclear = replace(
        passed("sequence_vjp"),
        verdict=Verdict.INCONCLUSIVE,
        blocks=blocks(blind=91),
        skipped_cases={"overflow in float32 only": 4, "JAX declined: `if` on a value": 2},
        reason="d_params['W'] was judged in 9 of 100 float32 cases: its own rounding hides it",
    )
    notes = ("RuntimeWarning: overflow encountered in exp",)
    text = render(
        report(
            unclear,
            replace(passed("purity"), notes=notes),
            unchecked=("d_params['h0'] (only initial_state reads it)",),
            notes=("no JAX: the finite differences decide alone",),
        )
    )
    assert text == snapshot


def test_a_broken_law_shows_its_other_side(snapshot: SnapshotAssertion) -> None:
    finding = Finding(
        check="time_splitting",
        method="vjp",
        block="d_state0",
        message="the gradient over T steps differs from that over two halves chained",
        case=Case(7, 31, 70, 2, 3, 4, "float32", "lengths", "long"),
        entry=(1, 2),
        hand=-1.2345678e-9,
        comparison=Measured(-1.2345699e-9, 3.2e-17),
        ratio=65.625,
        limit=32,
        relative_error=1.7e-6,
        time_step=35,
    )
    assert render(report(failed("time_splitting"), findings=(finding,))) == snapshot


def test_expected_failures_are_shown_as_such(snapshot: SnapshotAssertion) -> None:
    expected = replace(passed("masking"), expected_failure="padding is not supported yet")
    finding = replace(missing_gradient("masking"), block="d_xs")
    assert render(report(expected, findings=(finding,))) == snapshot


def test_an_expected_failure_that_passes_is_a_failure(snapshot: SnapshotAssertion) -> None:
    surprise = replace(
        passed("masking"),
        verdict=Verdict.FAILED,
        expected_failure="padding is not supported yet",
        reason="it passes now",
    )
    assert render(report(surprise)) == snapshot


def test_many_findings_are_cut_short(snapshot: SnapshotAssertion) -> None:
    findings = tuple(
        replace(missing_gradient("sequence_vjp"), block=block, diagnoses=())
        for block in ("d_params['W']", "d_params['U']", "d_params['b']", "d_xs", "d_state0[0]")
    )
    text = render(report(failed("sequence_vjp"), findings=(*findings, findings[0], findings[1])))
    assert text == snapshot


@pytest.mark.parametrize(
    ("check", "word"),
    [
        (CheckResult("masking", Verdict.PASSED, 1), "passed"),
        (CheckResult("masking", Verdict.FAILED, 1), "FAILED"),
        (CheckResult("masking", Verdict.INCONCLUSIVE, 1), "inconclusive"),
        (CheckResult("masking", None, skipped="no masks"), "skipped"),
        (CheckResult("masking", None, 1, expected_failure="known"), "expected failure"),
        (CheckResult("masking", Verdict.PASSED, 1, expected_failure="known"), "expected failure"),
        (CheckResult("masking", Verdict.FAILED, 1, expected_failure="known"), "FAILED"),
        (CheckResult("masking", None), "not run"),
    ],
)
def test_every_outcome_has_its_word(check: CheckResult, word: str) -> None:
    assert outcome(check) == word


def test_the_counts_have_their_fixed_form() -> None:
    full = report(
        failed("step_vjp"),
        failed("sequence_vjp"),
        CheckResult("masking", None, skipped="supports_mask is False"),
        replace(passed("linearity"), verdict=Verdict.INCONCLUSIVE),
        replace(passed("causality"), expected_failure="known"),
    )
    assert counts(full) == (
        "10 checks, 9 run, 1 skipped (supports_mask is False), 2 failed, 1 inconclusive, "
        "1 expected failure"
    )
    assert counts(Report("x", (passed("purity"),))) == "1 check, 1 run, 0 skipped, 0 failed"


def test_a_report_in_which_nothing_ran_is_inconclusive_and_says_so() -> None:
    empty = Report("Elman", (CheckResult("masking", None, skipped="no masks"),))
    assert headline(empty) == "INCONCLUSIVE  Elman: no check ran"
    assert "seed 0" in render(empty)


@given(
    hand=st.floats(-1e30, 1e30),
    relative=st.floats(1e-13, 10),
    error=st.floats(0, 1) | st.just(math.inf),
)
def test_the_printed_values_differ_whenever_the_values_do(
    hand: float, relative: float, error: float
) -> None:
    other = hand + relative * max(abs(hand), 1e-30)
    shown = [text.strip() for text in aligned([(hand, None), (other, error), (None, None)])]
    assert (shown[0] != shown[1]) == (hand != other)
    assert shown[2] == ""
    largest = max(abs(hand), abs(other))  # all share its exponent, and show four digits of it
    assert abs(float(shown[1]) - other) <= 0.501e-3 * largest


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4))
def test_the_printed_values_align_on_the_decimal_point(values: list[float]) -> None:
    texts = aligned([(value, 1e-3) for value in values])
    points = {text.index(".") for text in texts if "." in text and "e" not in text}
    assert len(points) <= 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_printed_as_they_are(value: float) -> None:
    assert aligned([(value, None), (0.5, 1e-9)])[0].strip() == str(value)


def test_short_numbers_have_no_padded_exponent() -> None:
    assert [short(x) for x in (1.84, 3.1e13, 8e-6, 0.0, math.inf)] == [
        "1.8",
        "3.1e13",
        "8e-6",
        "0",
        "inf",
    ]


def test_a_case_from_the_run_has_its_number_and_a_shrunk_one_says_so() -> None:
    case = Case(7, 12, 3, 2, 1, 4, "float32", "holes", "ordinary")
    assert describe(case).endswith("float32, ordinary, mask=holes (seed 7, case 12)")
    assert describe(replace(case, index=-1)).endswith("(seed 7, shrunk)")


words = st.text("abc ()_.['\n", max_size=150)


@given(message=words, exception=words, reason=words, block=words, width=st.sampled_from([80, 100]))
def test_no_line_is_wider_than_asked_for(
    message: str, exception: str, reason: str, block: str, width: int
) -> None:
    finding = replace(
        missing_gradient("step_vjp"), message=message, exception=exception, block=block
    )
    unclear = replace(passed("linearity"), verdict=Verdict.INCONCLUSIVE, reason=reason)
    skipped = CheckResult("masking", None, skipped="no masks")
    full = report(failed("step_vjp"), unclear, skipped, findings=(finding,), notes=(message,))
    lines = render(full, width).splitlines()
    assert max(map(len, lines)) <= width
    assert re.fullmatch(r"\d+ checks, .* failed, 1 inconclusive", lines[-1])


def test_a_second_finding_about_one_output_says_only_what_is_new(
    snapshot: SnapshotAssertion,
) -> None:
    first = replace(missing_gradient("step_vjp"), block="d_previous_state", time_step=None)
    second = replace(
        missing_gradient("sequence_vjp"),
        block="d_state0",
        time_step=3,
        diagnoses=(*first.diagnoses, Diagnosis("truncated", "only the last 3 steps count")),
    )
    law = replace(
        second, check="linearity", block="d_state0", time_step=None, diagnoses=(),
        comparison=Measured(0.5, 1e-17), message="this law is broken",
    )  # fmt: skip
    whole = report(
        failed("step_vjp"), failed("sequence_vjp"), failed("linearity"),
        findings=(first, second, law),
    )  # fmt: skip
    assert render(whole) == snapshot


def test_a_broken_law_without_a_wrong_gradient_is_told_in_full() -> None:
    law = replace(
        missing_gradient("linearity"), diagnoses=(), comparison=Measured(0.5, 1e-17),
        message="this law is broken",
    )  # fmt: skip
    assert "   this law is broken" in render(report(failed("linearity"), findings=(law,)))


def test_the_same_mistake_in_other_blocks_is_told_once(snapshot: SnapshotAssertion) -> None:
    first = missing_gradient("step_vjp")
    second = replace(first, block="d_params['W']")
    assert render(report(failed("step_vjp"), findings=(first, second))) == snapshot


def test_a_block_that_no_case_could_judge_does_not_hide_the_resolution_of_the_others() -> None:
    never = BlockSummary("d_params['h0']", "float64", 0, 0, math.inf, math.inf, math.nan)
    check = replace(passed("step_vjp"), blocks=(never, *blocks()))
    assert "visible from 8e-14 (float64), 8e-6 (float32)" in render(report(check))


def test_str_of_a_report_is_its_text(one_missing_gradient: Report) -> None:
    assert str(one_missing_gradient) == render(one_missing_gradient)
