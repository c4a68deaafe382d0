"""The edits that mend a failed subject: found on its failing problems, proved by all checks.

A backward pass that writes into its arguments is mended first: ``a = a + b`` for ``a += b``.
"""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bpttcheck.errors import BpttcheckError
from bpttcheck.judge.run import STEP, Run
from bpttcheck.remedy.backward import BackwardSource
from bpttcheck.remedy.patch import diff, patched, size
from bpttcheck.remedy.search import Mended, search
from bpttcheck.remedy.trials import trials
from bpttcheck.results.records import Finding, Remedy, Verdict
from bpttcheck.results.report import Report
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.check import check


def out_of_place(source: BackwardSource) -> Iterator[Mended]:
    """The source without the augmented assignments to its arguments, then without any to a name.

    An argument may have another name: ``d = d_state``, then ``d += d_y``.
    """
    arguments = source.method.tree.args
    own = {one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    before: Mended | None = None
    for names in (own, None):
        found = _without(source, names)
        if found is not None and (before is None or found.edits > before.edits):
            before = found
            yield found


def _without(source: BackwardSource, names: set[str] | None) -> Mended | None:
    edited, line, count = source, 0, 0
    while (way := _first(edited.method.tree, names)) is not None:
        node = way[-1]
        assert isinstance(node, ast.AugAssign)
        assert isinstance(node.target, ast.Name)
        sum_of = ast.BinOp(ast.Name(node.target.id, ast.Load()), node.op, node.value)
        new = ast.Assign([ast.Name(node.target.id, ast.Store())], sum_of)
        done = patched(edited.text, way, ast.fix_missing_locations(ast.copy_location(new, node)))
        if done is None:
            return None
        edited, line, count = edited.edited(*done), line or node.lineno, count + 1
    if not count:
        return None
    tokens = size(ast.unparse(source.method.tree), ast.unparse(edited.method.tree))
    return Mended(edited, line, count, tokens)


def _first(
    node: ast.AST, names: set[str] | None, above: tuple[ast.AST, ...] = ()
) -> tuple[ast.AST, ...] | None:
    """The way down to the first augmented assignment to one of the names; None: to any."""
    way = (*above, node)
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        return way if names is None or node.target.id in names else None
    for child in ast.iter_child_nodes(node):
        found = _first(child, names, way)
        if found is not None:
            return found
    return None


_PROVED = 3
"""So many edits that pass the trials are put to all checks before it is given up."""
_NAMED = 3
_DTYPES = ("float64", "float32")


def remedies(subject: Any, report: Report, *, seconds: float = 10.0) -> tuple[Remedy, ...]:
    """The smallest edit of the user's own source after which every check passes.

    The source of ``step_vjp``, of ``vjp`` or of a backward function, and then that of each function
    or method that it alone calls in its file, is edited as a planted bug would be undone (a sign, a
    factor, a term, a name, a transposition, an order, an axis, ...), in one place, or in two where
    blocks are wrong independently; ``a += b`` that writes into an argument becomes ``a = a + b``.
    Every edit is tried on problems whose gradient is known; what passes these is put to all checks.

    Args:
        subject: what was checked, with the options that belong to it.
        report: what :func:`bpttcheck.check` said of it.
        seconds: how long to search; the proof takes as long as a check, and comes on top.

    Returns:
        One remedy, or none: the code has no source that may be edited, or no edit was found. A
        remedy is proved on the problems tried; no more than any other pass does it say that the
        code is right everywhere.
    """
    if report.verdict is not Verdict.FAILED or not report.findings:
        return ()
    known = Subject.of(subject)
    try:
        run = Run(known, report.seed, report.dtypes or _DTYPES)
        source = BackwardSource.of(run.subject.target, bool(run.code.absent))
        if any(f.check == "purity" for f in report.findings):
            for one in out_of_place(source):
                if (passed := _proof(known, one, report)) is not None:
                    return (_remedy(source, one, passed, []),)
        kept = [f.problem for f in report.findings if f.problem is not None and _fits(f, source)]
        found: list[Mended] = []
        for place in (source, *source.helpers()):
            tried = trials(run, place, kept)
            if not tried:
                return ()
            found += search(place, tried, time.monotonic() + seconds)
            seconds /= 2
    except BpttcheckError:
        return ()
    found.sort(key=lambda one: (one.edits, one.tokens))
    for one in found[:_PROVED]:
        passed = _proof(known, one, report)
        if passed is not None:
            others = [_short(source, other) for other in found if other is not one]
            return (_remedy(source, one, passed, _distinct(_short(source, one), others)),)
    return ()


def unsearchable(subject: Any) -> str:
    """Why there is no source whose edits could be tried, or ``""``."""
    try:
        BackwardSource.of(Subject.of(subject).target)
    except BpttcheckError as error:
        return str(error)
    return ""


def with_remedies(report: Report, found: tuple[Remedy, ...]) -> Report:
    """The report with the remedy beside each finding that it mends."""
    if not found:
        return report
    findings = tuple(replace(finding, remedy=found[0]) for finding in report.findings)
    return replace(report, findings=findings)


def _fits(finding: Finding, source: BackwardSource) -> bool:
    """Whether the problem of a finding can be tried: of a cell, one of a single step."""
    case = finding.case
    return case is not None and (source.mode != STEP or (case.T == 1 and case.mask == "none"))


def _proof(subject: Subject, mended: Mended, report: Report) -> int | None:
    """How many checks pass with the edit; None if any does not."""
    target, dtypes = mended.source.proved_as(), report.dtypes or _DTYPES
    options: dict[str, Any] = {"seed": report.seed, "examples": report.examples, "dtypes": dtypes}
    try:
        again = check(replace(subject, target=target), raises=False, **options)
    except BpttcheckError:
        return None
    if not again.passed:
        return None
    return sum(one.verdict is Verdict.PASSED for one in again.checks)


def _remedy(source: BackwardSource, one: Mended, passed: int, others: list[str]) -> Remedy:
    what = "this edit" if one.edits == 1 else f"these {one.edits} edits"
    sentence = (
        f"with {what} all {passed} checks pass, which is proof on the problems tried and no more"
    )
    return Remedy(
        diff(source.text, one.source.text, source.file), sentence, source.file, one.line,
        tuple(dict.fromkeys(others[:_NAMED])), one.source.text,
    )  # fmt: skip


def _distinct(mine: str, others: list[str]) -> list[str]:
    """Those that are other edits: not this one, nor each other, times a comparison that holds."""

    def plain(text: str) -> str:
        return re.sub(r" \* \(\w+ > 0\)", "", text)

    return [
        text for k, text in enumerate(others)
        if plain(text) not in {plain(mine), *map(plain, others[:k])}
    ]  # fmt: skip


def _short(source: BackwardSource, other: Mended) -> str:
    """The lines that another edit changes, as they then are."""
    before, after = source.text.splitlines(), other.source.text.splitlines()
    changed = [line.strip() for line in after if line not in before]
    return f"line {other.line}: {' '.join(changed)}" if changed else f"line {other.line}"
