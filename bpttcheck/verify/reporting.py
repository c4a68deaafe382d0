"""The report of a run: what its checks said, on which cases, and what none of them could show."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bpttcheck.blocks import D_XS, Block, d_param
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.judge.shrink import ABSURD
from bpttcheck.problems.large import FIRST
from bpttcheck.problems.problem import GIVEN, NEAR_GIVEN, Problem
from bpttcheck.results.records import Case, CheckResult, Diagnosis, Finding, Verdict
from bpttcheck.results.renamed import renamed
from bpttcheck.results.report import Report
from bpttcheck.signature import Signature
from bpttcheck.subject.filled import unfilled
from bpttcheck.subject.options import Options
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.checks import CHECKS

_SURROGATE = "judged against the declared surrogate, which is not the gradient"

Outcome = tuple[CheckResult, tuple[Finding, ...]]
"""Of one check, its result and its findings."""


def report_of(run: Run, options: Options, outcomes: Sequence[Outcome], seconds: float) -> Report:
    """The report of a run.

    Args:
        run: what was judged, and what was said on the way.
        options: what was asked.
        outcomes: of every check, its result and its findings.
        seconds: time taken.
    """
    checks = tuple(result for result, _ in outcomes)
    findings = _worst_first(_explained([f for _, found in outcomes for f in found]))
    gradient = {
        case.index: case
        for name, check in CHECKS.items()
        if check.mode
        for case in run.judged.get(name, ())
        if case.index < FIRST
    }
    cases = list(gradient.values())
    asked = options.examples if any(CHECKS[r.name].mode and r.verdict for r in checks) else 0
    coverage = covered(run, cases)
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
        letters=_letters(run),
        regimes=dict(Counter(c.regime for c in cases)),
        masks=dict(Counter(c.mask for c in cases)),
        larger=coverage.larger,
        judged=(len(cases), asked),
        lines=coverage.lines if asked else None,
        unreached=coverage.unreached if asked else (),
        unchecked=_unchecked(run, checks),
        hidden=coverage.hidden if asked else (),
        notes=_notes(run),
        sources=_sources(run, findings),
        seconds=seconds,
    )
    return renamed(report, run.names)


def _explained(findings: Sequence[Finding]) -> list[Finding]:
    """The findings; what a method that is not pure gives has no other diagnosis.

    The formulas of diagnoses are about what was handed in, which such a method may have changed.
    """
    impure = {f.method for f in findings if f.check == "purity"}
    text = "may follow from {} not being a pure function, which is found above: mend that first"
    return [
        replace(f, diagnoses=(Diagnosis("impure", text.format(f.method), {"method": f.method}),))
        if f.method in impure and f.check != "purity"
        else f
        for f in findings
    ]


def _sources(run: Run, findings: Sequence[Finding]) -> dict[str, tuple[str, int, str]]:
    """Where a gradient is wrong, the source of the methods: file, first line, text."""
    target, found = run.subject.target, dict[str, tuple[str, int, str]]()
    methods = dict.fromkeys((*run.code.methods, *(finding.method for finding in findings)))
    for method in methods if findings else ():
        kind = "forward_function" if method == run.code.methods[0] else "backward_function"
        code: Any = getattr(target, kind, None) or getattr(type(target), method, None)
        try:
            lines, first = inspect.getsourcelines(inspect.unwrap(code))
            name = Path(inspect.getsourcefile(inspect.unwrap(code)) or "").name
        except (OSError, TypeError, AttributeError):
            continue
        found[method] = name, first, textwrap.dedent("".join(lines))
    return found


def _range(sizes: Sequence[int]) -> tuple[int, int] | None:
    return (min(sizes), max(sizes)) if sizes else None


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


def _worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """What has no ratio, then what is explained, by the ratio of error to bar.

    A block whose error is explained by its values needs no second cause: what has no ratio then
    follows from it (a mean over the batch is not zero for no rows). How absurd an absurd ratio is
    does not matter: beyond a billion the checks decide, and what is explained is the cause.
    """
    explained = {
        Block(f.block).in_sequence
        for f in findings
        if f.ratio is not None and any(d.code != "impure" for d in f.diagnoses)
    }

    order = list(dict.fromkeys(finding.check for finding in findings))

    def severity(finding: Finding) -> tuple[bool, bool, float, int, bool]:
        ratio, of_check = finding.ratio, order.index(finding.check)
        if ratio is None:
            follows = Block(finding.block).in_sequence in explained and not finding.diagnoses
            return (follows, follows, 0.0, 0, False)
        size = 0.0 if np.isnan(ratio) else min(ratio, ABSURD)
        return (True, finding.counted, -size, of_check, not finding.diagnoses)

    return sorted(findings, key=severity)


def _unchecked(run: Run, checks: tuple[CheckResult, ...]) -> tuple[str, ...]:
    """Parameters without any gradient in the recurrence, and what no oracle judged."""
    found: list[str] = []
    missing = set(run.code.absent)
    signature = run.subject.traits.signature
    if signature is not None:  # what has no gradient lacks none
        missing -= {D_XS, *(d_param(x.name) for x in signature.leaves if x.kind != "float")}
    why = "the code returns None" if signature is None else "no gradient of it is returned"
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
        distances = _distance_from_full(run)
        if distances:
            told = ", ".join(f"{block} {value:.2g}" for block, value in distances.items())
            notes.insert(1, f"relative distance from the full gradient, median at T = 12: {told}")
    own = run.subject.traits.adapter_notes
    notes += () if own is None else own()
    if run.jax.declined:
        notes.append(f"JAX autodiff was not used: {run.jax.declined}")
    return tuple(notes)


_OF_DISTANCE = 9
"""Cases over which the distance from the full gradient is measured."""


def _distance_from_full(run: Run) -> dict[str, float]:
    """Block -> median relative distance of the subject's gradient from that of its ``full`` layer.

    The distance of a block is ``|surrogate - full| / |full|``, 2-norms, on ordinary cases in
    float64; blocks whose full gradient is zero are left out.
    """
    full = run.subject.traits.full
    if full is None or not run.subject.surrogate:
        return {}
    whole = Run(Subject(full, sizes=run.subject.sizes), run.seed, run.dtypes)
    found: dict[str, list[float]] = {}
    for index in range(_OF_DISTANCE):
        case = replace(
            run.cases.case(index, free=True, steps=12), dtype="float64", regime="ordinary"
        )
        problem: Problem = run.cases.problem(case)
        mine, its = (r.code.run(SEQUENCE, problem).gradients for r in (run, whole))
        for block, value in its.items():
            size = float(np.linalg.norm(value))
            if size:
                gap = float(np.linalg.norm(mine[block] - value))
                found.setdefault(block, []).append(gap / size)
    return {block: float(np.median(values)) for block, values in found.items()}


_SHORT = 12

_BLIND_SPOTS: tuple[tuple[Callable[[Sequence[Case]], bool], str], ...] = (
    (lambda cases: all(c.B == 1 for c in cases), "B = 1 only: batch-reduction bugs cannot show"),
    (
        lambda cases: all(c.T == 1 for c in cases),
        "T = 1 only: bugs of the loop over time cannot show",
    ),
    (
        lambda cases: 1 < max(c.T for c in cases) <= _SHORT,
        "no long sequence: a truncation after more than {T} steps cannot show",
    ),
    (
        lambda cases: all(c.n_hidden == 1 for c in cases),
        "n_hidden = 1 only: transposed matrices cannot show",
    ),
    (
        lambda cases: not any(1 < c.n_in == c.n_hidden for c in cases),
        "n_in and n_hidden never coincide: what is transposed only where a matrix is square cannot "
        "show",
    ),
    (
        lambda cases: all(c.n_in == c.n_hidden for c in cases),
        "n_in = n_hidden only: sizes mixed up cannot show",
    ),
    (
        lambda cases: not any(c.regime == "large_cotangents" for c in cases),
        "no large cotangents: a clip that was left on cannot show",
    ),
    (
        lambda cases: not any(c.regime == "saturated" for c in cases),
        "no saturated units: bugs of saturation cannot show",
    ),
    (
        lambda cases: not any(c.regime in ("at_kinks", "near_kinks") for c in cases),
        "no value at a kink: a wrong branch there cannot show",
    ),
    (
        lambda cases: 1 < max(c.B for c in cases) < 8,
        "B <= {B} only: what begins at larger batches cannot show",
    ),
    (
        lambda cases: 1 < max(c.n_hidden for c in cases) < 32,
        "n_hidden <= {H} only: what begins at wider states (tiles of 32 or 64) cannot show",
    ),
    (
        lambda cases: _SHORT < max(c.T for c in cases) < 1000,
        "T <= {T} only: what begins at longer sequences cannot show",
    ),
    (
        lambda cases: not any(c.regime == "large_inputs" for c in cases),
        "no inputs beyond 5: thresholds on inputs cannot show",
    ),
    (
        lambda cases: not any(c.regime == "one_sign" for c in cases),
        "no cotangents of one sign: a sign test on cotangents cannot show",
    ),
    (
        lambda cases: not any(c.regime == "silent_outputs" for c in cases),
        "no output without a cotangent: a skipped step or row cannot show",
    ),
    (
        lambda cases: not any(c.regime in ("sparse_inputs", "tokens") for c in cases),
        "no zero rows and no one-hot inputs: what treats them as padding cannot show",
    ),
    (
        lambda cases: all(c.mask == "none" for c in cases),
        "no masks: a mask that is ignored cannot show",
    ),
    (
        lambda cases: all(c.dtype == "float64" for c in cases),
        "float64 only: what overflows in float32 cannot show",
    ),
    (
        lambda cases: all(c.dtype == "float32" for c in cases),
        "float32 only: relative errors below 1e-5 cannot show",
    ),
)


def hidden(cases: Sequence[Case], signature: Signature | None = None) -> tuple[str, ...]:
    """One sentence for each kind of bug that none of the cases could have shown.

    Args:
        cases: the judged cases of a run.
        signature: that of a function, which may lack an axis and has no masks.
    """
    if not cases:
        return ()
    if signature is not None:
        return _hidden_of_function(cases, signature)
    sizes = {
        "T": max(c.T for c in cases),
        "B": max(c.B for c in cases),
        "H": max(c.n_hidden for c in cases),
    }
    return tuple(text.format(**sizes) for blind, text in _BLIND_SPOTS if blind(cases))


_AXES = ("T", "B", "n_in", "n_hidden", "mask")


def _hidden_of_function(cases: Sequence[Case], signature: Signature) -> tuple[str, ...]:
    """Letters that had one size alone or small ones only, and what no value could show."""
    if all(case.regime == GIVEN for case in cases):
        return ("judged at the given arguments alone: what other sizes or values do cannot show",)
    if all(case.regime in (GIVEN, NEAR_GIVEN) for case in cases):
        return (
            "judged within 5 % of the given arguments: what other sizes or values do cannot show",
        )
    told: list[str] = []
    sizes = [dict(case.letters) for case in cases if case.letters]
    for letter in signature.letters if sizes else ():
        seen = {one[letter] for one in sizes}
        restricted = signature.allowed.get(letter)
        if len(seen) == 1 and restricted is None:
            told.append(f"{letter} = {min(seen)} only: what depends on {letter} cannot show")
        elif max(seen) < _SHORT and restricted is None:
            told.append(f"{letter} <= {max(seen)} only: what begins at larger sizes cannot show")
    values = [(blind, text) for blind, text in _BLIND_SPOTS
              if not any(re.search(rf"\b{axis}", text) for axis in _AXES)]  # fmt: skip
    return (*told, *(text for blind, text in values if blind(cases)))


@dataclass(frozen=True)
class Coverage:
    """What a run reached, and what it could not show.

    Args:
        larger: the sizes judged beyond those of the schedule, and by which check.
        lines: how many lines of the backward pass ran, and how many there are; None: not watched.
        unreached: the lines that no judged case ran, and what guards them.
        hidden: bugs that its cases could not have shown.
    """

    larger: tuple[str, ...]
    lines: tuple[int, int] | None
    unreached: tuple[str, ...]
    hidden: tuple[str, ...]


def covered(run: Run, cases: Sequence[Case]) -> Coverage:
    """What the judged cases of a run reached.

    Args:
        run: the run.
        cases: the judged cases of its gradient checks.
    """
    lines = run.code.lines
    unreached = run.code.unreached()
    share = lines.share() if lines.available else None
    return Coverage(_larger(run.judged), share, unreached, _hidden_of(run, cases, unreached))


def _hidden_of(run: Run, cases: Sequence[Case], unreached: Sequence[str]) -> tuple[str, ...]:
    """What the cases could not show: also sizes left out, lines, threads."""
    beyond = [case for name in run.judged for case in run.judged[name] if case.index >= FIRST]
    found = list(hidden([*cases, *beyond], run.subject.traits.signature))
    found += [f"lines that no judged case ran: {line}" for line in unreached]
    if not run.code.lines.available:
        found.append(f"lines of the backward pass were not watched: {run.code.lines.reason}")
    if run.untried:
        found.append(f"larger sizes left out, for they take too long: {_sizes(run.untried)}")
    of_functions = run.subject.traits.signature is not None
    if not of_functions and _keeps_buffers(unfilled(run.subject.target)):
        found.append(
            "it keeps arrays on the instance and ran in one thread: what two threads do to them "
            "cannot show"
        )
    return tuple(found)


def _larger(judged: Mapping[str, Sequence[Case]]) -> tuple[str, ...]:
    """The sizes judged beyond those of the schedule, and by which check.

    Args:
        judged: check's name -> its judged cases.
    """
    told: list[str] = []
    for name, axis in (("time_splitting", "T"), ("batch_additivity", "B")):
        sizes = sorted({getattr(c, axis) for c in judged.get(name, ()) if c.index >= FIRST})
        sizes = [size for size in sizes if size > 4]  # the others are wide
        if sizes:
            told.append(f"{axis} {sizes[0]}..{sizes[-1]} ({len(sizes)} sizes) by {name}")
    wide = {
        (c.n_in, c.n_hidden)
        for name in ("step_vjp", "sequence_vjp")
        for c in judged.get(name, ())
        if c.index >= FIRST
    }
    if wide:
        most = (max(n for n, _ in wide), max(n for _, n in wide))
        told.append(f"n_in x n_hidden up to {most[0]}x{most[1]} ({len(wide)} sizes) by differences")
    chained = {
        (c.n_in, c.n_hidden)
        for c in judged.get("time_splitting", ())
        if c.index >= FIRST and (c.n_in, c.n_hidden) in wide
    }
    if chained:
        told.append(f"{len(chained)} of these sizes over several steps by time_splitting")
    return tuple(told)


def _sizes(cases: Sequence[Case]) -> str:
    texts = dict.fromkeys(f"T={c.T} B={c.B} {c.n_in}x{c.n_hidden}" for c in cases)
    some = list(texts)[:6]
    return ", ".join(some) + (f" and {len(texts) - 6} more" if len(texts) > 6 else "")


def _keeps_buffers(target: Any) -> bool:
    held = getattr(target, "__dict__", {})
    kept = [v for v in held.values() if isinstance(v, (np.ndarray, list, dict))]
    return any(v.size > 1 if isinstance(v, np.ndarray) else bool(v) for v in kept)
