"""Prints what the checker says of every version of every module of the corpus.

Usage: ``python tests/corpus/table.py [--examples N] [--first] [MODULE ...]``; ``--first`` runs only
the first mistake of each module.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from cases import ENTRIES, Bug, Module

import bpttcheck
from bpttcheck.verify.check import release


def row(entry: Module, bug: Bug | None, examples: int) -> tuple[str, str]:
    """The verdict and the row of one version."""
    started = time.process_time()
    report = bpttcheck.check(entry.subject(bug), examples=examples, raises=False)
    judged = sum(check.oracles.get("jax", 0) for check in report.checks if check.name == "vjp")
    blocks = sorted({finding.block for finding in report.findings})
    said = [one.code for finding in report.findings for one in finding.diagnoses]
    cells = [
        entry.name, str(entry.glue_lines), bug.name if bug else "right", report.verdict.value,
        str(judged), ", ".join(blocks), ", ".join(dict.fromkeys(said)),
        f"{time.process_time() - started:.1f}",
    ]  # fmt: skip
    release()
    return report.verdict.value, f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table and its sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", help="some modules; none: all")
    parser.add_argument("--examples", type=int, default=12)
    parser.add_argument("--first", action="store_true", help="only the first mistake of each")
    options = parser.parse_args()
    print("| module | glue | version | verdict | JAX | blocks | diagnosis | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    chosen = [ENTRIES[name] for name in options.modules or ENTRIES]
    verdicts: list[tuple[bool, str]] = []
    for entry in chosen:
        for bug in entry.versions[: 2 if options.first else None]:
            verdict, text = row(entry, bug, options.examples)
            verdicts.append((bug is None, verdict))
            print(text, flush=True)
    for right, wanted in ((True, "passed"), (False, "failed")):
        found = [verdict for is_right, verdict in verdicts if is_right is right]
        what = "right" if right else "wrong"
        print(f"{what}: {found.count(wanted)} of {len(found)} {wanted}")
    lines = [entry.glue_lines for entry in chosen]
    print(f"glue: median {statistics.median(lines)}, at most {max(lines)} lines")


if __name__ == "__main__":
    main()
