"""The page ``docs/evidence/wild.md``: a row for each implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from benchmarks.common import table
from benchmarks.wild.implementation import Implementation
from bpttcheck.results.report import Report

HEADER = ["implementation", "version", "licence", "door", "verdict", "what it says", "by hand"]


@dataclass(frozen=True)
class Row:
    """What the page says of one implementation.

    Args:
        implementation: which one.
        verdict: PASSED, FAILED, INCONCLUSIVE, or why there is none.
        says: of a mismatch, the gradients at fault and the diagnosis; else what was judged.
        by_hand: the largest departure from a central difference, and of which input.
        seconds: the time of its check.
    """

    implementation: Implementation
    verdict: str
    says: str = ""
    by_hand: str = ""
    seconds: float = 0.0

    @classmethod
    def of(cls, one: Implementation, report: Report, apart: Mapping[str, float]) -> Row:
        """From a report, and the departures from central differences by input."""
        worst = max(apart, key=lambda name: apart[name])
        return cls(
            one,
            report.verdict.value.upper(),
            _says(report),
            f"{apart[worst]:.1e} (d_{worst})",
            report.seconds,
        )

    @property
    def shown(self) -> str:
        """The verdict as it stands in the table."""
        if self.verdict != "FAILED":
            return self.verdict
        return "**FAILED**" + (", on purpose" if self.implementation.on_purpose else "")

    @property
    def cells(self) -> list[str]:
        """As a row of the table."""
        one = self.implementation
        return [
            f"{one.package}: {one.what}", one.version or "-", one.licence, f"`{one.door}`",
            self.shown,
            self.says.replace("|", "\\|"), self.by_hand,
        ]  # fmt: skip


def _says(report: Report) -> str:
    if not report.findings:
        judged, cases = report.judged
        missing = [one.split()[0] for one in report.unchecked if "no gradient" in one]
        unchecked = f"; not returned: {', '.join(missing)}" if missing else ""
        return f"{judged} of {cases} cases judged, in {' and '.join(report.dtypes)}{unchecked}"
    of_gradients = [f for f in report.findings if f.check == "vjp"]
    findings = of_gradients or report.findings
    blocks = list(dict.fromkeys(finding.block for finding in findings))
    shown = ", ".join(blocks[:6]) + (f" and {len(blocks) - 6} more" if len(blocks) > 6 else "")
    first = next((f for f in findings if f.diagnoses), findings[0])
    says = first.diagnoses[0].sentence if first.diagnoses else first.message
    step = "" if first.time_step is None else f" (from t = {first.time_step})"
    return f"{shown}: {says}{step}"


def page(rows: Sequence[Row], examples: int, where: str, seconds: float, day: date | str) -> str:
    """The text of ``docs/evidence/wild.md``."""
    judged = [row for row in rows if row.verdict in ("PASSED", "FAILED", "INCONCLUSIVE")]
    counts = {v: sum(row.verdict == v for row in judged) for v in ("PASSED", "FAILED")}
    meant = sum(row.verdict == "FAILED" and row.implementation.on_purpose for row in judged)
    packages = len({row.implementation.package for row in judged})
    notes = [
        f"- **{row.implementation.package}: {row.implementation.what}.** {row.implementation.note}"
        for row in rows
        if row.implementation.note
    ]
    return f"""# In the wild

Hand-written recurrent gradients that anyone can install from the package index by name, checked as
they are published, and two controls. {len(judged)} rows of {packages} packages (a layer with
an option that matters has a row for each of its settings): {counts["PASSED"]} passed,
{counts["FAILED"]} did not, {meant} of them because they return something else on purpose.

{table(HEADER, [row.cells for row in rows])}

*By hand*: the largest relative departure of a gradient from a central difference along a random
direction, at one point of its own that the checker has not seen (float64; float32 with a step of
0.01 where the code computes in float32 only). It confirms a mismatch without the checker.

A verdict is about one thing: whether what comes back is the gradient of what was computed. A
library may choose something else on purpose, such as a clipped gradient, and some do; where that
can be switched off there is a second row.

{chr(10).join(notes)}

Left out: chainer 7.8.1 and npdl 0.4 (their builds fail with current tools), PyBrain 0.3 (Python 2),
DeepGenerator 0.1 (its loss function uses names that it does not define). Libraries whose recurrent
layers are differentiated by their own autodiff have no hand-written recurrent gradient to check;
torch and JAX stand here as controls.

```
pip install "bpttcheck[wild]"
pip install numpy-ml==0.1.2 pyrenn==0.1 && pip install --no-deps EpyNN==1.2.13
python -m benchmarks.wild --examples {examples} --write
```

{day}, {where}, in {seconds:.0f} s. What is not installed says so.
"""
