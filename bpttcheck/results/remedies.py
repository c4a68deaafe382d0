"""The remedies of a report, as text and as HTML: each once, whatever it mends."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from bpttcheck.results.records import Remedy
from bpttcheck.results.words import wrapped

if TYPE_CHECKING:
    from bpttcheck.results.report import Report


def remedies_of(report: Report) -> list[Remedy]:
    """The remedies of all findings, none twice."""
    found = [finding.remedy for finding in report.findings if finding.remedy is not None]
    return list({remedy.diff: remedy for remedy in found}.values())


def as_text(report: Report, width: int) -> Iterator[str]:
    """What to write instead; the lines of the diff are whole, whatever their width."""
    for remedy in remedies_of(report):
        yield from ("", *wrapped(f"remedy: {remedy.sentence}", "", width, "   "))
        yield from (f"   {line}".rstrip() for line in remedy.diff.splitlines())
        for other in remedy.others:
            yield from wrapped(f"the same numbers: {other}", "   ", width, "     ")


def as_html(report: Report) -> str:
    """The same for a page."""
    parts: list[str] = []
    for remedy in remedies_of(report):
        parts.append(f"<h2>Remedy</h2><p>{escape(remedy.sentence)}.</p>")
        parts.append(f"<pre>{escape(remedy.diff)}</pre>")
        for other in remedy.others:
            parts.append(f"<p class=dim>The same numbers: <code>{escape(other)}</code></p>")
    return "".join(parts)
