"""False verdicts: `check` itself, over right subjects and seeds.

The count of problems looks at judgements of gradients only; a user meets verdicts, to which the
laws, purity and all else belong. Every subject here is right: whatever is FAILED is a false alarm,
and whatever is INCONCLUSIVE has to give a reason that a person would accept.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import environment, table, upper_bound
from benchmarks.right_cells import CELLS
from benchmarks.right_cells.judged import Verdict, all_judged, by_class
from bpttcheck.cells import builtin, every_name

GALLERY = Path(__file__).parents[2] / "examples" / "gallery"
GROUPS = ("builtins", "gallery", "right_cells")


def names(groups: Iterable[str] = GROUPS) -> list[str]:
    """``group:what`` for each right subject of the groups."""
    every = {
        "builtins": [f"builtins:{name}" for name in every_name()],
        "gallery": [
            f"gallery:{path.stem}:{name}"
            for path in sorted(GALLERY.glob("*.py"))
            for name in _classes(path)
        ],
        "right_cells": [f"right_cells:{one.__name__}" for one in CELLS],
    }
    return [name for group in groups for name in every[group]]


def find(name: str) -> Any:
    """The subject of that name."""
    group, _, rest = name.partition(":")
    if group == "builtins":
        return builtin(rest)
    if group == "gallery":
        stem, _, own = rest.partition(":")
        return getattr(_module(GALLERY / f"{stem}.py"), own)()
    return by_class(f"benchmarks.right_cells:{rest}")


def _classes(path: Path) -> list[str]:
    """Cells and layers that a file of the gallery defines, in order of writing."""
    module = _module(path)
    return [
        name
        for name, one in vars(module).items()
        if isinstance(one, type)
        and one.__module__ == module.__name__
        and (hasattr(one, "step_vjp") or hasattr(one, "vjp"))
        and not name.startswith("_")
    ]


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"gallery_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no module, but should be one of the gallery's files")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def count(wanted: Sequence[str], seeds: Sequence[int], jobs: int, **options: Any) -> list[Verdict]:
    """`check` on each subject at each seed, printed as they come."""
    found: list[Verdict] = []
    for one in all_judged(wanted, seeds, find, jobs, **options):
        found.append(one)
        print(f"{one.name} seed {one.seed}: {one.verdict}, {one.seconds:.0f} s", flush=True)
        for line in (*one.findings, *one.reasons):
            print(f"    {line[:200]}", flush=True)
    return found


def page(found: Sequence[Verdict]) -> str:
    """What was said of right subjects, group by group, and every verdict that was not PASSED."""
    groups: dict[str, list[Verdict]] = {}
    for one in found:
        groups.setdefault(one.name.partition(":")[0], []).append(one)
    rows = [[name, *_row(part)] for name, part in groups.items()]
    if len(groups) > 1:
        rows.append(["all", *_row(found)])
    alarms = sum(one.verdict in ("failed", "raised") for one in found)
    odd = [
        f"- {one.name}, seed {one.seed}, {one.verdict}: {line}"
        for one in found
        if one.verdict != "passed"
        for line in (*one.findings, *one.reasons)
    ] or ["None."]
    header = ["subjects", "runs", "passed", "with remarks", "inconclusive", "failed", "raised",
              "largest ratio", "CPU s, median", "CPU s, most"]  # fmt: skip
    seeds = sorted({one.seed for one in found})
    return "\n".join(
        [
            "# False verdicts", "",
            "A right subject must pass. This page is written by",
            "`python -m benchmarks.false_alarms --verdicts --write`: `check` with default settings",
            f"on every right subject, seeds {', '.join(map(str, seeds))}. The built-ins, the",
            "gallery, and `benchmarks/right_cells`, which are proved right by differences.", "",
            f"**{alarms} false alarms in {len(found)} verdicts**: with 95 % confidence the rate is",
            f"below {upper_bound(alarms, max(len(found), 1)):.1e}.", "",
            table(header, rows), "", *_shares(found), "## What did not pass", "", *odd, "",
            f"Measured with {environment()}.", "",
        ]
    )  # fmt: skip


def _shares(found: Sequence[Verdict]) -> list[str]:
    """Of the gallery: which part of the cases was judged, which part of the lines was run."""
    rows = [
        [one.name.rpartition(":")[2], one.seed, _share(one.judged), _share(one.lines or (0, 0))]
        for one in found
        if one.name.startswith("gallery:")
    ]
    header = ["cell", "seed", "judged cases", "lines of the backward pass that they ran"]
    return ["## Judged cases and covered lines", "", table(header, rows), ""] if rows else []


def _share(part: tuple[int, int]) -> str:
    return f"{part[0]} of {part[1]} ({part[0] / part[1]:.0%})" if part[1] else "unknown"


def _row(found: Sequence[Verdict]) -> list[object]:
    counts = Counter(one.verdict for one in found)
    seconds = sorted(one.seconds for one in found)
    ratios = [one.ratio for one in found if one.ratio is not None and one.verdict == "passed"]
    return [
        len(found), counts["passed"], sum(bool(one.remarks) for one in found),
        counts["inconclusive"], counts["failed"], counts["raised"],
        f"{max(ratios, default=0.0):.1f}", f"{seconds[len(seconds) // 2]:.1f}",
        f"{seconds[-1]:.1f}",
    ]  # fmt: skip
