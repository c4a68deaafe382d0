"""The report on one subject: everything that a run found."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bpttcheck.results.records import CheckResult, Finding, Verdict, plain
from bpttcheck.results.text import headline, render

SCHEMA_VERSION = 1


@dataclass(frozen=True, repr=False)
class Report:
    """Everything that one run of :func:`bpttcheck.check` found.

    Args:
        subject: the subject's name.
        checks: one entry for each named check, in the order of running.
        findings: one entry for each mismatch, worst first.
        remarks: faults of the code's behaviour that do not affect its gradient.
        seed: the run's seed.
        examples: cases asked for in each check.
        dtypes: the dtypes checked.
        sizes: the (n_in, n_hidden) pairs of judged gradient cases.
        lengths: the smallest and largest T of judged gradient cases.
        batches: the smallest and largest B of judged gradient cases.
        regimes: regime -> number of judged cases.
        masks: kind of mask -> number of judged cases.
        larger: sizes judged beyond those, and by which checks.
        judged: the judged gradient cases, and all of them.
        lines: the lines of the backward pass that judged cases ran, and all of them; None: unknown.
        unreached: lines of the backward pass that no judged case ran, and what guards them.
        sources: method -> its file's name, first line and text, where a gradient is wrong.
        letters: of a function, letter -> its smallest and largest size in judged gradient cases.
        unchecked: what nothing checked, by name.
        hidden: kinds of bugs that none of the cases could have shown, a sentence each.
        notes: remarks on the whole run.
        seconds: wall-clock time.
    """

    subject: str
    checks: tuple[CheckResult, ...]
    findings: tuple[Finding, ...] = ()
    seed: int = 0
    examples: int = 0
    dtypes: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    lengths: tuple[int, int] | None = None
    batches: tuple[int, int] | None = None
    regimes: Mapping[str, int] = field(default_factory=dict)
    masks: Mapping[str, int] = field(default_factory=dict)
    unchecked: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    remarks: tuple[Finding, ...] = ()
    larger: tuple[str, ...] = ()
    judged: tuple[int, int] = (0, 0)
    lines: tuple[int, int] | None = None
    unreached: tuple[str, ...] = ()
    letters: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    sources: Mapping[str, tuple[str, int, str]] = field(default_factory=dict, repr=False)

    @property
    def verdict(self) -> Verdict:
        """FAILED if any check failed, else INCONCLUSIVE if any check was, else PASSED."""
        found = {check.verdict for check in self.checks}
        if Verdict.FAILED in found:
            return Verdict.FAILED
        if Verdict.INCONCLUSIVE in found or Verdict.PASSED not in found:
            return Verdict.INCONCLUSIVE
        return Verdict.PASSED

    @property
    def passed(self) -> bool:
        """True if the verdict is PASSED."""
        return self.verdict is Verdict.PASSED

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON-ready values, with a ``schema_version``."""
        rest = asdict(replace(self, findings=(), remarks=()))
        del rest["sources"]  # for the page alone
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict.value,
            "passed": self.passed,
            **{key: plain(value) for key, value in rest.items()},
            "findings": [finding.to_dict() for finding in self.findings],
            "remarks": [remark.to_dict() for remark in self.remarks],
        }

    def __str__(self) -> str:
        """The report as text for a terminal, without colours."""
        return render(self)

    def __repr__(self) -> str:
        """The verdict in one line."""
        return f"<Report: {' '.join(headline(self).split())}>"

    def to_html(self) -> str:
        """The report as one offline HTML page, with maps of what is wrong beside the code."""
        from bpttcheck.results.page import page, section

        return page([(self.subject, self.verdict.value, section(self))])

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that it changes nothing else in a notebook."""
        height = 720 if self.findings else 420
        return (
            f'<iframe srcdoc="{html.escape(self.to_html())}" sandbox title="bpttcheck" '
            f'style="width:100%;height:{height}px;border:1px solid #8884"></iframe>'
        )
