"""Remedies: planted bugs in the built-in cells' own source, and how many are mended rightly.

    python -m benchmarks.remedies [--each N] [--search] [--pairs N] [NAME...]

Every bug is a file of its own, which is checked and mended as a user's file would be. A patch is
wrong if all checks pass with it and it does not give the right cell's gradients on fresh seeds and
sizes. With ``--search`` the check before and the proof after are left out; with ``--pairs`` two
bugs are planted at a time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import bpttcheck
from benchmarks.common import environment, table
from benchmarks.remedies.plant import in_a_file, is_right, planted
from bpttcheck.cells import BUILTINS
from bpttcheck.cli.targets import load
from bpttcheck.errors import BpttcheckError
from bpttcheck.judge.run import Run
from bpttcheck.remedy import remedies
from bpttcheck.remedy.backward import BackwardSource
from bpttcheck.remedy.search import search
from bpttcheck.remedy.trials import trials
from bpttcheck.results.records import Verdict
from bpttcheck.subject.subject import Subject

NAMES = (*BUILTINS, "elman[relu]")
DTYPES = ("float64", "float32")
MENDED, NOTHING, WRONG, HIDDEN = "mended", "nothing found", "wrong patch", "not visible"


@dataclass(frozen=True)
class Attempt:
    """What became of one bug, and the seconds of the check before and of the remedy."""

    cell: str
    title: str
    operator: str
    outcome: str
    check: float
    remedy: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, help="so many bugs of each cell, evenly spread")
    parser.add_argument("--search", action="store_true", help="the search alone")
    parser.add_argument("--pairs", type=int, default=0, help="so many pairs of bugs in each cell")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("names", nargs="*", help="targets; none: all built-ins and elman[relu]")
    options = parser.parse_args()
    found: list[Attempt] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or NAMES:
            cell: Any = load(name).subject
            cell = getattr(cell, "target", cell)
            bugs = pairs(cell, options.pairs) if options.pairs else list(planted(cell))
            count = min(options.each or len(bugs), len(bugs))
            bugs = [bugs[(2 * i + 1) * len(bugs) // (2 * count)] for i in range(count)]
            for number, bug in enumerate(bugs):
                path = Path(folder) / f"planted_{len(found)}_{number}.py"
                found.append(attempt(name, cell, bug, path, options))
                last = found[-1]
                if last.outcome in (NOTHING, WRONG):
                    print(f"  {name} {last.title} ({last.operator}): {last.outcome}", flush=True)
            print(summary(name, [one for one in found if one.cell == name]), flush=True)
    print(page(found))


def pairs(cell: Any, count: int) -> list[tuple[str, str, str]]:
    """Two bugs at a time: the second is planted in the file that has the first."""
    rng = np.random.default_rng(0)
    found: list[tuple[str, str, str]] = []
    first = list(planted(cell))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(20 * count):
            title, operator, text = first[int(rng.integers(len(first)))]
            try:
                wrong = in_a_file(cell, text, Path(folder) / f"first_{number}.py")
                others = list(planted(wrong))
            except Exception:
                continue
            if not others or is_right(cell, wrong):
                continue
            other, second, both = others[int(rng.integers(len(others)))]
            found.append((f"{title}; {other}", f"{operator} and {second}", both))
            if len(found) == count:
                break
    return found


def attempt(
    name: str, cell: Any, bug: tuple[str, str, str], path: Path, options: argparse.Namespace
) -> Attempt:
    title, operator, text = bug
    wrong = in_a_file(cell, text, path)
    once = time.perf_counter()
    report = None
    if not options.search:
        report = bpttcheck.check(wrong, raises=False, examples=options.examples)
    checked = time.perf_counter()
    mended = None
    if report is None:
        mended, visible = _searched(wrong)
    else:
        visible = report.verdict is Verdict.FAILED
        proved = remedies(wrong, report)
        mended = proved[0].patched if proved else None
    seconds = time.perf_counter() - checked
    if not visible:
        outcome = HIDDEN
    elif mended is None:
        outcome = NOTHING
    else:
        again = in_a_file(cell, mended, path.with_name(f"{path.stem}_mended.py"))
        outcome = MENDED if is_right(cell, again) else WRONG
    return Attempt(name, title, operator, outcome, checked - once, seconds)


def _searched(wrong: Any) -> tuple[str | None, bool]:
    try:
        run = Run(Subject(wrong), 0, DTYPES)
        source = BackwardSource.of(wrong)
        tried = trials(run, source, [])
    except BpttcheckError:
        return None, True
    if not tried:
        return None, False
    found = search(source, tried, time.monotonic() + 60)
    return (found[0].source.text if found else None), True


def summary(name: str, found: list[Attempt]) -> str:
    outcomes = Counter(one.outcome for one in found)
    told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    times = [one.remedy for one in found if one.outcome != HIDDEN] or [0.0]
    return f"{name}: {told}; seconds {np.median(times):.1f} median, {max(times):.1f} most"


def page(found: list[Attempt]) -> str:
    rows: list[list[object]] = []
    for operator in sorted({one.operator for one in found}):
        some = [one for one in found if one.operator == operator and one.outcome != HIDDEN]
        outcomes = Counter(one.outcome for one in some)
        rows.append([operator, len(some), *(outcomes[o] for o in (MENDED, NOTHING, WRONG))])
    visible = [one for one in found if one.outcome != HIDDEN]
    mended = sum(one.outcome == MENDED for one in visible)
    wrong = sum(one.outcome == WRONG for one in visible)
    times = [one.remedy for one in visible] or [0.0]
    return f"""
{table(["operator", "visible", MENDED, NOTHING, WRONG], rows)}

{mended} of {len(visible)} visible bugs mended ({mended / max(len(visible), 1):.1%}), {wrong} wrong
patches; seconds beyond the failed check: {np.median(times):.1f} in the middle,
{np.quantile(times, 0.95):.1f} at the 95th percentile, {max(times):.1f} at most.
Measured with {environment()}.
"""


if __name__ == "__main__":
    main()
