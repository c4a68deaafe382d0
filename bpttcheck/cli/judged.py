"""One checked target: everything that is printed about it, as values that can be serialised."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bpttcheck.errors import ContractError, InternalError

Progress = Callable[[int, int, str], None]

_NO_REMEDY = (
    "--fix: no remedy was found: of the edits that were tried, of one place or of two, none makes "
    "every check pass"
)


@dataclass(frozen=True)
class Order:
    """A request to check one target.

    Args:
        target: the command line argument.
        options: for :func:`bpttcheck.check`.
        folder: where failures are stored, or None.
        width: columns to write for.
        alone: whether it is the only target, whose report is printed in full.
        function: what the options say of functions, such as their signature.
        reference: what ``--reference`` names, or ``""``.
        page: whether its part of the HTML page is wanted.
        fix: whether to look for an edit that mends it.
    """

    target: str
    options: Mapping[str, Any]
    folder: str | None
    width: int
    alone: bool
    function: Mapping[str, str] = field(default_factory=dict)
    reference: str = ""
    page: bool = False
    fix: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Order:
        """From what :meth:`to_dict` gave."""
        options: Any = {key: _tuples(value) for key, value in values["options"].items()}
        known: dict[str, Any] = {**values, "options": options}
        return cls(**known)


@dataclass(frozen=True)
class JudgedTarget:
    """The result of one target.

    Args:
        target: the command line argument.
        verdict: ``"passed"``, ``"failed"``, ``"inconclusive"``, or ``""``: not checked.
        ran: whether any check ran.
        text: the report as it is printed, without colours.
        report: the report as plain values.
        stored: ids of its stored failures.
        lines: the lines to print about these.
        failures: what is wrong and where, as :class:`bpttcheck.cli.github.PlacedFailure` has it.
        note: a remark on how the subject was loaded, or ``""``.
        error: why it was not checked, or ``""``.
        page: its part of the HTML page, if that was wanted.
        patch: the edit that mends it, as a diff; or ``""``.
        mends: the file of that edit.
        mended: that file's whole text with the edit.
    """

    target: str
    verdict: str = ""
    ran: bool = False
    text: str = ""
    report: Mapping[str, Any] | None = None
    stored: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    failures: tuple[Mapping[str, Any], ...] = ()
    note: str = ""
    error: str = ""
    page: str = ""
    patch: str = ""
    mends: str = ""
    mended: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> JudgedTarget:
        """From what :meth:`to_dict` gave."""
        lists: dict[str, Any] = {k: tuple(values[k]) for k in ("stored", "lines", "failures")}
        return cls(**{**values, **lists})


def judge(order: Order, progress: Progress | None = None) -> JudgedTarget:
    """Check one target in this process.

    Args:
        order: the request.
        progress: called as ``progress(done, total, what)``.
    """
    import bpttcheck
    from bpttcheck.cli import github
    from bpttcheck.cli.functions import for_subject
    from bpttcheck.cli.stored import keep
    from bpttcheck.cli.targets import load

    note = ""
    try:
        target = load(order.target, order.function)
        note = target.note
        options, left_out = for_subject(target.subject, order.options)
        note = "; ".join(filter(None, (note, left_out)))
        options |= _reference(order, target.subject)
        report = bpttcheck.check(target.subject, raises=False, progress=progress, **options)
        report, trouble = _mended(order, target.subject, report, options)
        note = "; ".join(filter(None, (note, trouble)))
    except ContractError as error:
        return JudgedTarget(order.target, note=note, error=str(error))
    folder = None if order.folder is None else Path(order.folder)
    # A replay has arguments of its own: it needs the file of `at` for the shapes alone.
    needed = {
        n: v for n, v in order.function.items() if n != "at" or "signature" not in order.function
    }
    ids, lines = keep(report, folder, order.target, subject=target.subject, function=needed)
    found = tuple(asdict(failure) for failure in github.failures(target.subject, report))
    return of_report(order, report, tuple(ids), tuple(lines), found, note)


def _mended(order: Order, subject: Any, report: Any, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The report with a remedy, if one is asked for and found; and what went wrong with that."""
    if not order.fix or report.passed:
        return report, ""
    from bpttcheck.remedy import remedies, with_remedies
    from bpttcheck.remedy.proved import unsearchable
    from bpttcheck.subject.subject import Subject

    own = ("reference", "sizes", "lengths", "batches", "accept")
    known = Subject.of(subject, **{key: options[key] for key in own if key in options})
    try:
        found = remedies(known, report)
        if found:
            return with_remedies(report, found), ""
        reason = unsearchable(known)
        return report, f"--fix: no remedy was looked for: {reason}" if reason else _NO_REMEDY
    except Exception as error:  # a defect of ours: the report stays what it is
        if os.environ.get("BPTTCHECK_DEBUG"):
            raise
        return report, str(InternalError("looking for a remedy", error))


def _reference(order: Order, subject: Any) -> dict[str, Any]:
    """What the subject is compared with, if it was named."""
    from bpttcheck.cli.targets import load_reference
    from bpttcheck.traits import trait

    if not order.reference:
        return {}
    if trait(getattr(subject, "target", subject), "signature") is not None:
        raise ContractError(
            f"target {order.target!r} is a function, but --reference names what a cell or layer is "
            "compared with: leave it out"
        )
    return {"reference": load_reference(order.reference)}


def of_report(
    order: Order,
    report: Any,
    stored: tuple[str, ...] = (),
    lines: tuple[str, ...] = (),
    failures: tuple[Mapping[str, Any], ...] = (),
    note: str = "",
) -> JudgedTarget:
    """A report in serialisable form."""
    from bpttcheck.results.remedies import remedies_of
    from bpttcheck.results.text import brief, render

    page = ""
    remedy = next(iter(remedies_of(report)), None)
    if order.page:
        from bpttcheck.results.page import section

        page = section(report)
    full = order.alone or not report.passed
    text = render(report, order.width) if full else brief(report, order.width)
    return JudgedTarget(
        order.target,
        report.verdict.value,
        any(check.verdict for check in report.checks),
        text + ("\n" if full and not order.alone else ""),
        report.to_dict(),
        stored,
        lines,
        failures,
        note,
        page=page,
        patch="" if remedy is None else remedy.diff,
        mends="" if remedy is None else remedy.file,
        mended="" if remedy is None else remedy.patched,
    )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
