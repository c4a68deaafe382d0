"""Verdicts and ratios before and after a refactoring.

    git stash; python -m benchmarks.same_verdicts before.json; git stash pop
    python -m benchmarks.same_verdicts after.json --against before.json

Checks right subjects (the built-ins, the gallery, ``benchmarks/right_cells``) with default settings
and writes, for each check, its verdict, the number of its cases and its largest ratio. With
``--against`` every difference is printed, and one is enough for exit code 1. A run is a function of
its seed, so on one machine nothing at all may differ; between machines last digits of ratios do.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import bpttcheck
from benchmarks.false_alarms import verdicts

Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="where the verdicts are written")
    parser.add_argument("--against", type=Path, help="an earlier file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--group", action="append", choices=verdicts.GROUPS, help="repeatable")
    parser.add_argument("names", nargs="*", help="as the others name them; none: all")
    options = parser.parse_args()
    names = options.names or verdicts.names(options.group or verdicts.GROUPS)
    found: dict[str, Record] = {}
    for name in names:
        for seed in options.seeds:
            found[f"{name} seed {seed}"] = record(name, seed, options.examples)
    options.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{len(found)} verdicts in {options.file}")
    if options.against is None:
        return
    lines = differences(json.loads(options.against.read_text(encoding="utf-8")), found)
    print("\n".join(lines) or "nothing differs")
    raise SystemExit(bool(lines))


def record(name: str, seed: int, examples: int) -> Record:
    """What one check of one subject says, without times."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = bpttcheck.check(verdicts.find(name), seed=seed, examples=examples, raises=False)
    return {
        "verdict": report.verdict.value,
        "checks": {
            one.name: [one.verdict.value if one.verdict else one.skipped, one.cases,
                       one.worst_ratio]
            for one in report.checks
        },
        "findings": [[f.check, f.block, str(f.case)] for f in report.findings],
    }  # fmt: skip


def differences(before: dict[str, Record], after: dict[str, Record]) -> list[str]:
    """One line for each difference of what both have, and for what one of them lacks."""
    lines = [f"{name}: only before" for name in before if name not in after]
    lines += [f"{name}: only after" for name in after if name not in before]
    for name in (name for name in before if name in after):
        one, other = before[name], after[name]
        for key in ("verdict", "findings"):
            if one[key] != other[key]:
                lines.append(f"{name}: {key} was {one[key]}, is {other[key]}")
        for check in dict.fromkeys([*one["checks"], *other["checks"]]):
            a, b = (side["checks"].get(check) for side in (one, other))
            if a != b:
                lines.append(f"{name}: {check} was {a}, is {b}")
    return lines


if __name__ == "__main__":
    main()
