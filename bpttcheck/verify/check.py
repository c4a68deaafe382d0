"""The door that every other door leads to: run the checks on one subject."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from bpttcheck.blocks import D_XS, Block, d_param
from bpttcheck.errors import BpttcheckError, ContractError, GradientMismatch, InternalError
from bpttcheck.judge.coverage import hidden_of, larger
from bpttcheck.judge.distance import distance_from_full
from bpttcheck.judge.gradient_finding import exception_finding
from bpttcheck.judge.run import Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.large import FIRST
from bpttcheck.results.records import CheckResult, Finding, Verdict
from bpttcheck.results.renamed import renamed
from bpttcheck.results.report import Report
from bpttcheck.subject.options import Options, validate_options
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.checks import CHECKS
from bpttcheck.verify.checks.base import Check, Context, NotApplicable
from bpttcheck.verify.parallel.distribute import spread
from bpttcheck.verify.session import Session

_SURROGATE = "judged against the declared surrogate, which is not the gradient"

Progress = Callable[[int, int, str], None]
Outcome = tuple[CheckResult, tuple[Finding, ...]]


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
        require: ``"jax"`` or ``"differences"``: a gradient check in which that oracle did not judge
            is inconclusive.
        lengths: the only T to be used, each of them tried; None: any.
        batches: the only B to be used, each of them tried; None: any.
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
    report = _run_all(known, options, executor, progress, session or Session())
    if raises and report.verdict is Verdict.FAILED:
        _raise(report)
    return report


def release() -> None:
    """Drop the compiled programs that are kept for the next check."""
    programs = sys.modules.get("bpttcheck.oracles.autodiff.programs")
    if programs is not None:
        programs.CACHE.clear()


_ABSURD = 1e9


def _run_all(
    subject: Subject,
    options: Options,
    executor: Executor | None,
    progress: Progress | None,
    session: Session,
) -> Report:
    started = time.perf_counter()
    run = session.run(subject, options)
    try:
        outcomes = _outcomes(run, options, executor, progress)
    except _CallersError as error:
        raise error.__cause__ or error from None
    return _report(run, options, outcomes, time.perf_counter() - started)


def _outcomes(
    run: Run, options: Options, executor: Executor | None, progress: Progress | None
) -> list[Outcome]:
    names = [n for n in options.checks or CHECKS if CHECKS[n].applies(run.subject)]
    wanted = [name for name in CHECKS if name in names]
    counter = _Counter(run, options, wanted, progress)
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
    counter: _Counter | None = None,
    spread_out: Callable[[Context], Tally] | None = None,
) -> Outcome:
    """One named check of a run, or its spread-out form: its result and its findings."""
    started = time.perf_counter()
    tick = (lambda: None) if counter is None else counter.start(name)
    try:
        tally = (spread_out or CHECKS[name])(Context(run, options.examples, tick))
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


def _report(run: Run, options: Options, outcomes: list[Outcome], seconds: float) -> Report:
    checks = tuple(result for result, _ in outcomes)
    findings = sorted((f for _, found in outcomes for f in found), key=_severity)
    gradient = {
        case.index: case
        for name, check in CHECKS.items()
        if check.mode
        for case in run.judged.get(name, ())
        if case.index < FIRST
    }
    cases = list(gradient.values())
    asked = options.examples if any(CHECKS[r.name].mode and r.verdict for r in checks) else 0
    unreached = run.code.unreached()
    by_letter = run.subject.traits.signature is not None
    report = Report(
        subject=run.subject.name,
        checks=checks,
        findings=tuple(findings),
        remarks=tuple(run.remarks),
        seed=options.seed,
        examples=options.examples,
        dtypes=tuple(d for d in run.dtypes if any(c.dtype == d for c in cases)) or run.dtypes,
        sizes=() if by_letter else tuple(sorted({(c.n_in, c.n_hidden) for c in cases})),
        lengths=None if by_letter else _range([c.T for c in cases]),
        batches=None if by_letter else _range([c.B for c in cases]),
        regimes=dict(Counter(c.regime for c in cases)),
        masks=dict(Counter(c.mask for c in cases)),
        larger=larger(run.judged),
        letters=_letters(run),
        judged=(len(cases), asked),
        lines=run.code.lines.share() if run.code.lines.available and asked else None,
        unreached=unreached if asked else (),
        unchecked=_unchecked(run, checks),
        hidden=hidden_of(run, cases) if asked else (),
        notes=_notes(run),
        seconds=seconds,
    )
    return renamed(report, run.names)


def _letters(run: Run) -> dict[str, tuple[int, int]]:
    """Of a function: how small and how large each letter was in a judged case."""
    signature = run.subject.traits.signature
    if signature is None:
        return {}
    sizes = [dict(case.letters) for case in run.judged.get("vjp", ()) if case.letters]
    return {
        letter: (min(one[letter] for one in sizes), max(one[letter] for one in sizes))
        for letter in signature.letters
        if sizes
    }


def _range(sizes: Sequence[int]) -> tuple[int, int] | None:
    return (min(sizes), max(sizes)) if sizes else None


def _severity(finding: Finding) -> tuple[bool, bool, float]:
    """The worst first: what has no ratio, then what is explained, by the ratio of error to bar.

    How absurd an absurd ratio is does not matter: beyond a billion the checks decide.
    """
    ratio = finding.ratio
    size = 0.0 if ratio is None or np.isnan(ratio) else min(ratio, _ABSURD)
    return (ratio is not None, finding.counted, -size)


def _unchecked(run: Run, checks: tuple[CheckResult, ...]) -> tuple[str, ...]:
    """Parameters without any gradient in the recurrence, and what no oracle judged."""
    found: list[str] = []
    missing = set(run.code.absent)
    signature = run.subject.traits.signature
    if signature is not None:  # what has no gradient lacks none
        missing -= {
            D_XS,
            *(d_param(leaf.name) for leaf in signature.leaves if leaf.kind != "float"),
        }
    why = "the code returns None" if signature is None else "the code returns none"
    absent = tuple(f"{block} ({why})" for block in sorted(missing))
    if not run.subject.traits.final_state_gradient:
        absent += ("the cotangent of the final state (it is declared to have no gradient)",)
    if run.subject.traits.initial_state_vjp is not None:
        return absent
    for result in checks:
        if result.name == "sequence_vjp" and result.verdict is Verdict.PASSED:
            names = {b.block for b in result.blocks}
            seen = {b.block for b in result.blocks if b.judged or b.blind}
            found = sorted(name for name in names - seen if Block(name).kind == "params")
    return absent + tuple(
        f"{name.removeprefix('d_')} (its gradient is zero in every case; if only initial_state "
        "reads it, write initial_state_vjp)"
        for name in found
    )


def _notes(run: Run) -> tuple[str, ...]:
    notes = list(run.code.notes.texts)
    if run.subject.surrogate:
        notes.insert(0, f"{_SURROGATE}: {run.subject.surrogate}")
        distances = distance_from_full(run)
        if distances:
            told = ", ".join(f"{block} {value:.2g}" for block, value in distances.items())
            notes.insert(1, f"relative distance from the full gradient, median at T = 12: {told}")
    if run.jax.declined:
        notes.append(f"JAX autodiff was not used: {run.jax.declined}")
    return tuple(notes)


def _raise(report: Report) -> None:
    broken = [f for f in report.findings if f.check == "contract"]
    if broken:
        first = broken[0]
        raise ContractError(first.message, method=first.method, item=first.block)
    raise GradientMismatch(str(report), report)


class _Counter:
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
