"""The door that every other door leads to: run the checks on one subject."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Any

from bpttcheck.errors import BpttcheckError, ContractError, GradientMismatch, InternalError
from bpttcheck.judge.gradient_finding import exception_finding
from bpttcheck.judge.run import Run
from bpttcheck.judge.tally import Tally
from bpttcheck.results.records import CheckResult, Finding, Verdict
from bpttcheck.results.report import Report
from bpttcheck.subject.options import Options, validate_options
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.checks import CHECKS, names_for
from bpttcheck.verify.checks.base import Check, Context, NotApplicable
from bpttcheck.verify.parallel import spread
from bpttcheck.verify.reporting import Outcome, report_of
from bpttcheck.verify.session import Session

Progress = Callable[[int, int, str], None]
"""``progress(done, total, what)``."""


def check(
    subject: Any,
    *,
    reference: Any = None,
    sizes: Any = None,
    dtypes: Any = ("float64", "float32"),
    examples: int = 100,
    seed: int = 0,
    checks: Iterable[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    strict: bool | None = None,
    require: Iterable[str] = (),
    lengths: Iterable[int] | None = None,
    batches: Iterable[int] | None = None,
    accept: Mapping[str, tuple[float, str]] | None = None,
    raises: bool = True,
    executor: Executor | None = None,
    progress: Progress | None = None,
    session: Session | None = None,
) -> Report:
    """Tell whether a hand-derived backward pass is right.

    >>> import bpttcheck
    >>> report = bpttcheck.check(bpttcheck.cells.Elman(), examples=5)
    >>> report.passed
    True

    Args:
        subject: a cell, a layer, or a :class:`bpttcheck.Subject`.
        reference: what JAX differentiates instead of the cell's own ``step``: another cell, or a
            JAX function ``step(params, state, x) -> (state, y)``. A layer needs the cell it fuses.
        sizes: pairs ``(n_in, n_hidden)``, or a Hypothesis strategy of them, if not every size will
            do. Each is tried.
        dtypes: out of ``"float64"`` and ``"float32"``.
        examples: cases for each gradient check.
        seed: case i is a function of ``(seed, i)`` alone.
        checks: names of the checks to run; None: all.
        expected_failures: check name -> reason; such a check must fail, and is then no failure.
        strict: remarks on conduct (a dtype that does not stay, T = 0 refused, ...) are failures;
            None: in checks that were asked for by name.
        require: ``"jax"``, ``"torch"`` (of a subject with a reference in torch) or
            ``"differences"``: a gradient check in which that oracle did not judge is inconclusive.
        lengths: the only T to be used, each of them tried; None: any.
        batches: the only B to be used, each of them tried; None: any.
        accept: gradient -> ``(relative error, reason)``: how far it may be off, for a constant that
            the code adds on purpose; a failure where it is not needed.
        raises: raise on failure, rather than only say so in the report.
        executor: any :class:`concurrent.futures.Executor`: spread cases and laws over its workers,
            with the same report; None: run them here, one after another.
        progress: called as ``progress(done, total, what)``.
        session: keeps what checks of one subject share that are called one by one; None: nothing
            is kept but compiled programs, by what was traced.

    Returns:
        The :class:`bpttcheck.Report`; an inconclusive one is returned, not raised.

    Raises:
        ContractError: a wrong argument, a subject that is neither cell nor layer, or, with
            ``raises``, a subject that breaks its contract.
        GradientMismatch: with ``raises``, any other failed check.
    """
    known = Subject.of(
        subject,
        reference=reference,
        sizes=sizes,
        expected_failures=expected_failures,
        lengths=None if lengths is None else tuple(lengths),
        batches=None if batches is None else tuple(batches),
        accept=accept,
    )
    options = validate_options(
        dtypes=dtypes,
        examples=examples,
        seed=seed,
        checks=checks,
        expected_failures=known.expected_failures,
        strict=strict,
        require=require if isinstance(require, str) else tuple(require),
        known_checks=CHECKS,
    )
    # No run in this frame: an exception that is kept would keep the compiled programs alive.
    report = _run_all(known, options, executor, progress, session)
    if raises and report.verdict is Verdict.FAILED:
        _raise(report)
    return report


def release() -> None:
    """Drop the compiled programs that are kept for the next check."""
    programs = sys.modules.get("bpttcheck.oracles.autodiff.programs")
    if programs is not None:
        programs.CACHE.clear()


def _run_all(
    subject: Subject,
    options: Options,
    executor: Executor | None,
    progress: Progress | None,
    session: Session | None,
) -> Report:
    started = time.perf_counter()
    try:
        if session is None:
            run = Run(subject, options.seed, options.dtypes)
        else:
            run = session.run(subject, options)
    except InternalError as error:  # the first calls, which find out what the code accepts
        first = _broken_off("contract", error, started)
        return Report(subject.name, (first,), seed=options.seed, examples=options.examples)
    try:
        outcomes = _outcomes(run, options, executor, progress)
    except _CallersError as error:
        raise error.__cause__ or error from None
    return report_of(run, options, outcomes, time.perf_counter() - started)


def _outcomes(
    run: Run, options: Options, executor: Executor | None, progress: Progress | None
) -> list[Outcome]:
    known = names_for(run.subject.target)
    wanted = [name for name in known if name in (options.checks or known)]
    counter = _ProgressCounter(run, options, wanted, progress)
    first = check_one(run, options, "contract", counter)
    if first[0].verdict is Verdict.FAILED:
        skipped = [
            (CheckResult(name, None, skipped="the contract is broken"), ())
            for name in wanted
            if name != "contract"
        ]
        return [first, *skipped]
    rest = [name for name in wanted if name != "contract"]
    # What needs no program goes first, and is reported in its place.
    order = sorted(rest, key=lambda name: bool(CHECKS[name].mode))
    if executor is None:
        if any(CHECKS[name].mode for name in rest):
            run.jax.prepare(
                run.cases, options.examples
            )  # compiles in the background of the first checks
        found = {name: check_one(run, options, name, counter) for name in order}
    else:
        with spread(run, options.examples, order, executor) as checks:
            found = {n: check_one(run, options, n, counter, checks[n]) for n in order}
    outcomes = [found[name] for name in rest]
    return [first, *outcomes] if "contract" in wanted else outcomes


def check_one(
    run: Run,
    options: Options,
    name: str,
    counter: _ProgressCounter | None = None,
    spread_out: Callable[[Context], Tally] | None = None,
) -> Outcome:
    """One named check of a run, or its spread-out form: its result and its findings."""
    started = time.perf_counter()
    tick = (lambda: None) if counter is None else counter.start(name)
    if name not in names_for(run.subject.target):
        return CheckResult(name, None, skipped="not for what this subject is"), ()
    try:
        tally = (spread_out or CHECKS[name].run)(Context(run, options.examples, tick))
    except NotApplicable as reason:
        return CheckResult(name, None, skipped=str(reason)), ()
    except ContractError as error:
        tally = Tally(name, cases=1, failures=1, findings=[exception_finding(name, error)])
    except InternalError as error:
        return _broken_off(name, error, started), ()
    except (BpttcheckError, _CallersError):
        raise
    except Exception as error:  # no user code is called but through guard.call: a defect of ours
        if os.environ.get("BPTTCHECK_DEBUG"):
            raise
        return _broken_off(name, InternalError(f"running the check {name}", error), started), ()
    if options.strict and (options.checks is None or name in options.checks):
        tally.findings += tally.conduct
    else:
        run.remarks += tally.conduct
    run.judged[name] = tally.judged
    if tally.cases and tally.cases == tally.skipped["refused"] and not tally.findings:
        return CheckResult(name, None, skipped="the code refuses it: see the remark"), ()
    result = _required(tally.result(time.perf_counter() - started), options.require)
    findings = _diagnosed(CHECKS[name], tally.findings)
    return _expected(result, findings, options.expected_failures.get(name, ""))


def _broken_off(name: str, error: InternalError, started: float) -> CheckResult:
    seconds = time.perf_counter() - started
    return CheckResult(name, Verdict.INCONCLUSIVE, reason=str(error), seconds=seconds)


def _required(result: CheckResult, oracles: Iterable[str]) -> CheckResult:
    """Inconclusive where an oracle that was required has not judged."""
    missing = [name for name in oracles if not result.oracles.get(name)]
    if not CHECKS[result.name].mode or result.verdict is not Verdict.PASSED or not missing:
        return result
    reason = f"{', '.join(missing)} required, but judged no case"
    return replace(result, verdict=Verdict.INCONCLUSIVE, reason=reason)


def _diagnosed(check: Check, findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings with what their check says, where nothing better is known."""
    return tuple(map(partial(_said_by, check), findings))


def _said_by(check: Check, finding: Finding) -> Finding:
    found = None if finding.diagnoses or finding.exception else check.says(finding)
    return finding if found is None else replace(finding, diagnoses=(found,))


def _expected(result: CheckResult, findings: tuple[Finding, ...], reason: str) -> Outcome:
    """A failure that was announced is a pass, and a pass that was not is a failure."""
    if not reason:
        return result, findings
    if result.verdict is Verdict.FAILED:
        return replace(result, verdict=Verdict.PASSED, expected_failure=reason), ()
    if result.verdict is Verdict.INCONCLUSIVE:
        return result, findings  # it neither failed nor passed
    sentence = f"expected to fail ({reason}), but passed: remove it from expected_failures"
    finding = Finding(result.name, "", "expected_failures", sentence)
    return replace(result, verdict=Verdict.FAILED), (finding,)


def _raise(report: Report) -> None:
    broken = [f for f in report.findings if f.check == "contract"]
    if broken:
        first = broken[0]
        raise ContractError(first.message, method=first.method, item=first.block)
    raise GradientMismatch(str(report), report)


class _ProgressCounter:
    """Turns ticks of single cases into progress of the whole run."""

    def __init__(
        self, run: Run, options: Options, names: list[str], progress: Progress | None
    ) -> None:
        laws = Context(run, options.examples).laws
        self._share = {n: options.examples if CHECKS[n].mode else laws for n in names}
        self._progress, self._done = progress, 0
        self._name, self._in_check = "", 0
        self.total = sum(self._share.values())

    def start(self, name: str) -> Callable[[], None]:
        """The tick of one check."""
        self._done += self._share.get(self._name, 0)
        self._name, self._in_check = name, 0
        self._tell()
        return self._tick

    def _tick(self) -> None:
        self._in_check = min(self._in_check + 1, self._share.get(self._name, 0))
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            try:
                self._progress(self._done + self._in_check, self.total, self._name)
            except Exception as error:
                raise _CallersError from error


class _CallersError(Exception):
    """The caller's own ``progress`` raised; ``__cause__`` is what."""
