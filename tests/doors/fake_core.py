"""A stand-in for the core: its verdicts are written on the subject.

Tests copy this file beside the tests they generate, so that it also works in another process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import bpttcheck
from bpttcheck.results.records import Case, CheckResult, Diagnosis, Finding, Measured, Verdict
from bpttcheck.results.report import Report
from bpttcheck.verify.checks import CHECKS

ALL = tuple(CHECKS)


@dataclass
class Faked:
    """Looks like a cell; ``verdicts`` says what becomes of which check, the others pass."""

    name: str = "Faked"
    verdicts: dict[str, str] = field(default_factory=dict)
    talks: bool = False

    def init(self, rng: Any, n_in: int, n_hidden: int) -> Any: ...
    def initial_state(self, params: Any, batch_size: int) -> Any: ...
    def step(self, params: Any, state: Any, x: Any) -> Any: ...
    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> Any: ...


CALLS: list[dict[str, Any]] = []
RELEASED: list[bool] = []


def check(
    subject: Any,
    *,
    checks: Any = None,
    examples: int = 100,
    seed: int = 0,
    raises: bool = True,
    progress: Any = None,
    expected_failures: Any = None,
    session: Any = None,
    **options: Any,
) -> Report:
    from bpttcheck.subject.subject import Subject

    known = Subject.of(subject, expected_failures=expected_failures)
    names = ALL if checks is None else tuple(checks)
    CALLS.append({"checks": names, "examples": examples, "seed": seed, **options})
    if getattr(known.target, "talks", False):
        print("the subject prints something")
    words = {
        name: getattr(known.target, "verdicts", {}).get(name, "passed")
        for name in ("contract", *names)
    }
    if words["contract"] == "failed":
        names = ("contract", *(name for name in names if name != "contract"))
        words = {name: "failed" if name == "contract" else "broken" for name in names}
    expected = known.expected_failures or {}
    results = []
    findings = []
    for name in names:
        if progress is not None:
            progress(1, len(names), name)
        if words[name] == "interrupt":
            raise KeyboardInterrupt
        result, found = _one(name, words[name], examples, expected.get(name, ""), seed)
        results.append(result)
        findings += found
    report = Report(
        subject=known.name,
        checks=tuple(results),
        findings=tuple(findings),
        seed=seed,
        examples=examples,
        dtypes=("float64",),
        seconds=0.5,
    )
    if raises and not report.passed:
        raise bpttcheck.GradientMismatch(str(report), report)
    return report


def _one(
    name: str, word: str, examples: int, expected: str, seed: int
) -> tuple[CheckResult, list[Finding]]:
    if word == "skipped":
        return CheckResult(name, None, skipped="a fake has no masks"), []
    if word == "broken":
        return CheckResult(name, None, skipped="the contract is broken"), []
    if word == "inconclusive":
        reason = "everything was blind"
        return CheckResult(name, Verdict.INCONCLUSIVE, examples, reason=reason), []
    if word == "internal":
        reason = "internal error while tracing the step: KeyError: 'x'"
        return CheckResult(name, Verdict.INCONCLUSIVE, examples, reason=reason), []
    if word == "failed" and expected:
        return CheckResult(name, Verdict.PASSED, examples, expected_failure=expected), []
    if expected:
        finding = Finding(name, "", "expected_failures", f"expected to fail ({expected})")
        return CheckResult(name, Verdict.FAILED, examples), [finding]
    if word == "failed":
        return CheckResult(name, Verdict.FAILED, examples, worst_ratio=1e9, limit=32), [
            _wrong(name, seed)
        ]
    return CheckResult(name, Verdict.PASSED, examples, worst_ratio=0.5, limit=32), []


def _wrong(name: str, seed: int) -> Finding:
    if name == "contract":
        message = "d_previous_state has shape (4, 2), expected (2, 4): transposed?"
        return Finding(name, "step_vjp", "d_previous_state", message)
    return Finding(
        check=name,
        method="step_vjp",
        block="d_params['W']",
        message="d_params['W'] is off by 1.0e+00 of its largest entry, 100%",
        case=Case(seed, -1, 1, 1, 1, 1, "float64", "none", "ordinary"),
        entry=(0, 0),
        hand=-0.25,
        jax=Measured(0.25, 1e-17),
        ratio=1e9,
        limit=32,
        diagnoses=(Diagnosis("sign", "the gradient of W has the wrong sign"),),
    )


def install() -> None:
    """Put the stand-in where the doors look for the core."""
    vars(bpttcheck)["check"] = check
