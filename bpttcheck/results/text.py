"""A report as plain text for a terminal: the verdict first, then where, then what was covered."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bpttcheck.blocks import Block
from bpttcheck.results.records import (
    BlockSummary,
    Case,
    CheckResult,
    Diagnosis,
    Finding,
    Verdict,
)
from bpttcheck.results.remedies import as_text
from bpttcheck.results.words import WIDTH, aligned, cut, joined, last_lines, plural, short, wrapped

if TYPE_CHECKING:
    from bpttcheck.results.report import Report

FINDINGS_SHOWN = 5
_INDENT = "   "
_LEGEND = (
    "visible from: the relative error that half of the cases would have shown, in the block that "
    "shows least"
)


def render(report: Report, width: int = WIDTH) -> str:
    """The report as text of at most ``width`` columns, without colours.

    Args:
        report: what a run found.
        width: columns available.

    Returns:
        The text, without a newline at its end. Its first line is the verdict and the subject, its
        last line the counts.
    """
    lines = wrapped(headline(report), "", width, hang="  ")
    lines += [line for text in first_lines(report) for line in wrapped(text, "  ", width, "    ")]
    lines += ["", *_table(report, width), *_findings(report, width), *as_text(report, width), ""]
    for remark in _remarks(report):
        lines += wrapped(remark, "", width, hang="  ")
    return "\n".join([*lines, counts(report)])


def brief(report: Report, width: int = WIDTH) -> str:
    """A pass among several reports: the checks against oracles in full, the rest in few lines.

    Args:
        report: what a run found.
        width: columns available.
    """
    rows = [check for check in report.checks if set(check.oracles) - {"law"}]
    others = [check for check in report.checks if check not in rows]
    lines = [f"{headline(report)}, {report.seconds:.1f} s"]
    lines += [line for check in rows for line in _row(check, rows, width)]
    return "\n".join([*lines, *_gathered(others, width)])


def headline(report: Report) -> str:
    """The verdict, the subject and the wrong blocks."""
    start = f"{report.verdict.value.upper()}  {report.subject}: "
    ran = [check for check in report.checks if not check.skipped]
    if report.verdict is Verdict.FAILED:
        failed = [check.name for check in ran if check.verdict is Verdict.FAILED]
        findings = _unexpected(report)
        # A block that is wrong in some case only and unexplained is probably a consequence.
        explained = [f for f in findings if not f.counted] or findings
        named = {_key(f)[1]: f.block for f in explained[::-1]}  # the first one counts
        blocks = [block for block in reversed(named.values()) if block]
        names = ", ".join(failed)
        return start + (f"{_some(blocks, 3, ', ')} ({names})" if blocks else names)
    if report.verdict is Verdict.PASSED:
        passed = [check for check in ran if outcome(check) == "passed"]
        expected = len(ran) - len(passed)
        more = f", {plural(expected, 'expected failure')}" if expected else ""
        return start + plural(len(passed), "check") + more
    unclear = [check.name for check in ran if check.verdict is Verdict.INCONCLUSIVE]
    return start + (", ".join(unclear) or "no check ran")


def first_lines(report: Report) -> Iterable[str]:
    """The lines below the verdict: remarks, and lines of the backward pass that never ran."""
    if report.remarks:
        names = dict.fromkeys(remark.check for remark in report.remarks)
        yield f"with {plural(len(report.remarks), 'remark')} ({', '.join(names)}): see below"
    if report.unreached:
        shown = "; ".join(report.unreached[:2])
        more = f" and {len(report.unreached) - 2} more" if len(report.unreached) > 2 else ""
        yield f"lines of the backward pass that never ran: {shown}{more}"


def outcome(check: CheckResult) -> str:
    """One word or two for a check: its verdict, ``"skipped"`` or ``"expected failure"``."""
    if check.skipped:
        return "skipped"
    if check.expected_failure and check.verdict is not Verdict.FAILED:
        return "expected failure"
    if check.verdict is None:
        return "not run"
    word = check.verdict.value
    return word.upper() if check.verdict is Verdict.FAILED else word


def counts(report: Report) -> str:
    """The line of counts: ``14 checks, 13 run, 1 skipped (no masks), 2 failed``."""
    skipped = [check for check in report.checks if check.skipped]
    kinds = [outcome(check) for check in report.checks]
    why = "; ".join(dict.fromkeys(check.skipped for check in skipped))
    parts = [
        plural(len(kinds), "check"),
        f"{len(kinds) - len(skipped)} run",
        f"{len(skipped)} skipped" + (f" ({why})" if why else ""),
        f"{kinds.count('FAILED')} failed",
    ]
    if "inconclusive" in kinds:
        parts.append(f"{kinds.count('inconclusive')} inconclusive")
    if "expected failure" in kinds:
        parts.append(plural(kinds.count("expected failure"), "expected failure"))
    return ", ".join(parts)


def _table(report: Report, width: int) -> list[str]:
    """A row for each check; where one failed, the others are summarised in few lines."""
    if report.verdict is Verdict.FAILED:
        rows = [check for check in report.checks if outcome(check) not in ("passed", "skipped")]
    else:
        rows = list(report.checks)
    lines = [line for check in rows for line in _row(check, rows, width)]
    lines += _gathered([check for check in report.checks if check not in rows], width)
    if any(_visible(check) for check in rows if check.verdict is not Verdict.FAILED):
        lines += wrapped(_LEGEND, "  ", width)
    return lines


def _gathered(checks: Sequence[CheckResult], width: int) -> list[str]:
    """Checks that need no row of their own: those that passed, and skipped ones by their reason."""
    passed = [f"{check.name} {check.cases}" for check in checks if not check.skipped]
    lines = wrapped(", ".join(passed), "  passed (cases): ", width, "    ") if passed else []
    reasons: dict[str, list[str]] = {}
    for check in checks:
        if check.skipped:
            reasons.setdefault(check.skipped, []).append(check.name)
    for reason, names in reasons.items():
        lines += wrapped(f"{', '.join(names)} ({reason})", "  skipped: ", width, "    ")
    return lines


def _row(check: CheckResult, among: Sequence[CheckResult], width: int) -> list[str]:
    """One check: name, outcome, then its details, wrapped under the third column."""
    names = max(len(other.name) for other in among)
    words = max(len(outcome(other)) for other in among)
    start = f"  {check.name:<{names}}  {outcome(check):<{words}}  "
    hang = " " * len(start)
    if check.skipped:
        return wrapped(check.skipped, start, width, hang=hang)
    cases = max(len(plural(other.cases, "case")) for other in among)
    lines = joined([f"{plural(check.cases, 'case'):>{cases}}", *_facts(check)], start, width)
    if check.expected_failure:
        lines += wrapped(f"expected to fail: {check.expected_failure}", hang, width)
    if check.reason:
        lines += wrapped(f"why: {check.reason}", hang, width)
    return lines


def _facts(check: CheckResult) -> list[str]:
    facts: list[str] = []
    if check.worst_ratio is not None:
        limit = "" if check.limit is None else f" (limit {check.limit:g})"
        facts.append(f"largest error {_times(check.worst_ratio)} error bars{limit}")
    if check.verdict is not Verdict.FAILED:  # the findings have their own error bars
        facts += _visible(check)
    names = sorted(check.oracles, key=lambda name: name != "jax")
    if check.verdict is Verdict.FAILED and "jax" in names:
        names = ["jax"]  # a block found wrong with differences is not compared with them again
    oracles = [f"{name} in {check.oracles[name]}" for name in names if name != "law"]
    if oracles:
        facts.append(f"judged by {', '.join(oracles)}")
    blind = max(check.blocks, key=lambda block: block.blind, default=None)
    if blind is not None and blind.blind:
        facts.append(
            f"rounding hides {blind.block} in {blind.blind} of {blind.blind + blind.judged} "
            f"{blind.dtype} cases"
        )
    facts += [f"{n} skipped ({why})" for why, n in check.skipped_cases.items() if n]
    return facts


def _visible(check: CheckResult) -> list[str]:
    """The resolution in each dtype, of the block that was resolved worst."""
    worst: dict[str, BlockSummary] = {}
    for block in check.blocks:
        if not math.isfinite(block.median_resolution):
            continue  # never judged: a gradient that is always zero, or the reason given below
        known = worst.get(block.dtype)
        if known is None or block.median_resolution > known.median_resolution:
            worst[block.dtype] = block
    if not worst:
        return []
    return [
        "visible from "
        + ", ".join(
            f"{short(block.median_resolution, 1)} ({dtype})" for dtype, block in worst.items()
        )
    ]


def _unexpected(report: Report) -> list[Finding]:
    expected = {check.name for check in report.checks if outcome(check) == "expected failure"}
    return [finding for finding in report.findings if finding.check not in expected]


def told_apart(report: Report) -> tuple[list[Finding], list[Finding]]:
    """The findings that are told in full, and those that are probably their consequences."""
    shown: list[Finding] = []
    others: list[Finding] = []
    for finding in _unexpected(report):
        (shown if _is_new(finding, shown, others) else others).append(finding)
    return shown[:FINDINGS_SHOWN], [*shown[FINDINGS_SHOWN:], *others]


def _findings(report: Report, width: int) -> list[str]:
    """The findings that add information in full, the others by name."""
    shown, others = told_apart(report)
    lines: list[str] = []
    reported: set[str] = set()
    for number, finding in enumerate(shown, 1):
        told = {*reported, finding.message}
        new = tuple(d for d in finding.diagnoses if d.sentence not in told)
        reported.update(d.sentence for d in new)
        unknown = finding.jax is not None and not finding.diagnoses
        said = finding.expected
        if said is not None and said.formula in reported:
            said = None
        reported.update([] if said is None else [said.formula])
        shortened = replace(finding, diagnoses=new, expected=said)
        lines += ["", *_finding(number, shortened, width, unknown)]
    if others:
        lines += ["", *wrapped(f"also wrong: {_also(others)}", "", width, hang=_INDENT)]
    return lines


def _is_new(finding: Finding, shown: Sequence[Finding], others: Sequence[Finding]) -> bool:
    """False if the block, or the same mistake in another block, was already reported.

    A law broken beside a wrong gradient is its consequence, unless it names a mistake of its own.
    So is what one expression mends together with a gradient whose error has a name.
    """
    if finding.counted and shown:
        return False  # wrong in some case and unexplained: a consequence of what is explained
    codes = {d.code for earlier in shown for d in earlier.diagnoses}
    mine = {d.code for d in finding.diagnoses}
    if _key(finding) in {_key(earlier) for earlier in (*shown, *others)} or mine & codes:
        return not mine <= codes
    mended = {e.expected.formula for e in shown if e.expected is not None and e.diagnoses}
    if not mine and finding.expected is not None and finding.expected.formula in mended:
        return False
    law = finding.comparison is not None
    return not law or not any(earlier.hand is not None for earlier in shown)


def _also(findings: Sequence[Finding]) -> str:
    """``d_params['W'], d_params['b'] (step_vjp); d_state0 (sequence_vjp, zero_length)``."""
    checks: dict[str, list[str]] = {}
    for finding in findings:
        names = checks.setdefault(finding.block, [])
        if finding.check not in names:
            names.append(finding.check)
    by_checks: dict[tuple[str, ...], list[str]] = {}
    for block, names in checks.items():
        by_checks.setdefault(tuple(names), []).append(block)
    return "; ".join(
        f"{_some(blocks, 6, ', ')} ({', '.join(names)})" for names, blocks in by_checks.items()
    )


def _key(finding: Finding) -> tuple[str, str]:
    """Findings of one step and of a sequence about the same output share their key."""
    return finding.method, Block(finding.block).in_sequence


def _finding(number: int, finding: Finding, width: int, unknown: bool) -> list[str]:
    place = " of ".join(dict.fromkeys(part for part in (finding.block, finding.method) if part))
    check = "" if finding.check == finding.method else f"{finding.check}: "
    lines = wrapped(f"{number}. {check}{place}", "", width, hang=_INDENT)
    lines += wrapped(finding.message, _INDENT, width)
    for diagnosis in finding.diagnoses:
        lines += _diagnosis(diagnosis, width)
    lines += _expected(finding, width)
    if unknown:
        lines.append(f"{_INDENT}no known pattern fits the error")
    if finding.case is not None:
        lines += wrapped(f"case: {describe(finding.case)}", _INDENT, width, hang=_INDENT * 2)
    lines += [_INDENT + line for line in _values(finding)]
    if _size(finding):
        lines += wrapped(_size(finding), _INDENT, width)
    lines += _departure(finding, width)
    if finding.exception not in finding.message:
        for line in last_lines(finding.exception, 6):
            lines.append(cut(f"{_INDENT}| {line}", width))
    return lines


def _expected(finding: Finding, width: int) -> list[str]:
    """The adjoint that is expected, the user's line, and what it lacks."""
    said = finding.expected
    if said is None:
        return []
    lines = [cut(f"{_INDENT}expected: {said.formula}", width)]
    if said.where:
        lines.append(cut(f"{_INDENT}yours:    {said.where}", width))
    if said.difference:
        lines += wrapped(said.difference, _INDENT, width, hang=_INDENT * 2)
    return lines


def _departure(finding: Finding, width: int) -> list[str]:
    if finding.time_step is None:
        return []
    steps = "" if finding.case is None else f" of T={finding.case.T}"
    text = (
        f"going back in time, the adjoint dL/dstate first departs at t={finding.time_step}{steps}"
    )
    return wrapped(text, _INDENT, width)


def _diagnosis(diagnosis: Diagnosis, width: int) -> list[str]:
    text = f"{diagnosis.code}: {diagnosis.sentence}"
    return wrapped(text, _INDENT + "-> ", width, hang=_INDENT * 2)


def _size(finding: Finding) -> str:
    parts: list[str] = []
    if finding.relative_error is not None and "off by" not in finding.message:
        parts.append(f"relative error {short(finding.relative_error)}")
    if finding.ratio is not None:
        limit = "" if finding.limit is None else f" (limit {finding.limit:g})"
        parts.append(f"{_times(finding.ratio)} times the error bar{limit}")
    return ", ".join(parts)


def _times(ratio: float) -> str:
    """A ratio of error to bar, capped: the size of a huge ratio does not matter."""
    return short(ratio) if ratio <= 1e9 else "over 1e9"


def describe(case: Case) -> str:
    """The case in one line; a shrunk case has no number of its own."""
    mask = "" if case.mask == "none" else f", mask={case.mask}"
    origin = "shrunk" if case.index < 0 else f"case {case.index}"
    return f"{case.sizes}, {case.dtype}, {case.regime}{mask} (seed {case.seed}, {origin})"


def compared_with(finding: Finding) -> str:
    """What the comparison of a finding is called: of a gradient, a reference in torch."""
    gradient = finding.check in ("vjp", "step_vjp", "sequence_vjp")
    return "reference" if gradient else "other side"


def _values(finding: Finding) -> list[str]:
    """The values of the worst entry under each other, their decimal points aligned."""
    if finding.hand is None:
        return []
    rows: list[tuple[str, float | None, float | None]] = [("hand", finding.hand, None)]
    sides = [("JAX", finding.jax, "declined"), ("differences", finding.finite_difference, "none")]
    if finding.comparison is not None:
        sides = [(compared_with(finding), finding.comparison, "")]
    for name, side, _ in sides:
        rows.append((name, None, None) if side is None else (name, side.value, side.error))
    absent = {name: word for name, _, word in sides}
    numbers = aligned([(value, error) for _, value, error in rows])
    entry = "" if finding.entry is None else f"entry {list(finding.entry)}  "
    if finding.entry is None and finding.comparison is None:
        entry = "along a random direction  "
    lines: list[str] = []
    for (name, value, error), number in zip(rows, numbers, strict=True):
        bar = "" if error is None else f" ± {short(error, 1)}"
        text = absent[name] if value is None else number + bar
        lines.append(f"{entry if not lines else ' ' * len(entry)}{name:<11}  {text}".rstrip())
    return lines


def _remarks(report: Report) -> Iterable[str]:
    """Everything below the findings except the counts."""
    for remark in report.remarks:
        yield f"remark ({remark.check}): {remark.message}"
    if report.unchecked:
        yield "not checked: " + ", ".join(report.unchecked)
    for check in report.checks:
        yield from (f"note ({check.name}): {note}" for note in check.notes)
    yield from (f"note: {note}" for note in report.notes)
    if report.verdict is not Verdict.FAILED:
        yield from (f"could not show: {sentence}" for sentence in report.hidden)
    covered = list(_covered(report))
    if covered:
        yield "covered: " + "; ".join(covered)
    yield (
        f"seed {report.seed} (to repeat: seed=, --seed or --bpttcheck-seed), "
        f"{plural(report.examples, 'example')}, {report.seconds:.1f} s"
    )


def _covered(report: Report) -> Iterable[str]:
    """The cases that were run; where a check failed, the failing case matters more."""
    brief = report.verdict is Verdict.FAILED
    usual = {"T": report.lengths, "B": report.batches}
    ranges = (report.letters or usual).items()
    spans = [f"{name} {low}..{high}" for name, span in ranges if span for low, high in [span]]
    if spans or report.dtypes:
        yield ", ".join([*spans, *report.dtypes])
    sizes = [f"{n_in}x{n_hidden}" for n_in, n_hidden in report.sizes]
    if sizes and not report.letters:
        yield plural(len(sizes), "size") if brief else f"n_in x n_hidden {_some(sizes, 8)}"
    if not brief:
        yield from report.larger
        if report.lines is not None and report.lines[1]:
            yield "lines of the backward pass {} of {}".format(*report.lines)
        if report.judged[1] > report.judged[0]:
            yield "{} of {} gradient cases judged".format(*report.judged)
    if report.regimes:
        regimes = ", ".join(f"{name} {count}" for name, count in report.regimes.items())
        yield plural(len(report.regimes), "regime") if brief else f"regimes {regimes}"


def _some(items: Sequence[str], limit: int, gap: str = " ") -> str:
    more = f" +{len(items) - limit} more" if len(items) > limit else ""
    return gap.join(items[:limit]) + more
