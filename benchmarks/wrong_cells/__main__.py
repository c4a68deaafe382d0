"""Wrong backward passes: what `check` says about each, and what it says that it could not show.

python -m benchmarks.wrong_cells [--seeds 0] [--jobs 1] [NAME...]
"""

from __future__ import annotations

import argparse
from collections import Counter

from benchmarks.common import table
from benchmarks.right_cells.judged import Verdict, all_judged, by_class
from benchmarks.wrong_cells import CELLS

BY_NAME = {one.__name__: one for one in CELLS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="subjects at a time")
    parser.add_argument("names", nargs="*", help="classes; none: all")
    options = parser.parse_args()
    paths = [f"benchmarks.wrong_cells:{name}" for name in options.names or BY_NAME]
    found: list[Verdict] = []
    for one in all_judged(paths, options.seeds, by_class, options.jobs):
        found.append(one)
        name = one.name.rpartition(":")[2]
        print(f"{name} seed {one.seed}: {one.verdict}, {one.seconds:.0f} s", flush=True)
    print(text(found))


def text(found: list[Verdict]) -> str:
    """The table, the counts by kind, and what was hidden in whatever did not fail."""
    rows, odd = [], []
    kinds: dict[str, Counter[str]] = {}
    for one in found:
        wrong = BY_NAME[one.name.rpartition(":")[2]]
        kinds.setdefault(wrong.kind, Counter())[one.verdict] += 1
        first = one.findings[0].partition(": ")[0] if one.findings else "-"
        rows.append(
            [wrong.__name__, wrong.kind, one.seed, f"{wrong().exposure():.1e}", one.verdict,
             first, len(one.remarks), f"{one.seconds:.1f}"]
        )  # fmt: skip
        if one.verdict != "failed":
            odd += [f"- {wrong.__name__} (seed {one.seed}), {one.verdict}: {wrong.where}"]
            odd += [f"    - {line}" for line in (*one.hidden, *one.remarks, *one.reasons)]
            odd += [f"    - {line}" for line in one.findings]
    by_kind = [[kind, sum(c.values()), c["failed"], c["passed"]] for kind, c in kinds.items()]
    failed = sum(one.verdict == "failed" for one in found)
    header = ["subject", "kind", "seed", "exposure", "verdict", "shown by", "remarks", "CPU s"]
    return "\n".join(
        [
            table(header, rows), "", table(["kind", "runs", "failed", "passed"], by_kind), "",
            f"{failed} of {len(found)} runs failed, as they should", "", *odd,
        ]
    )  # fmt: skip


if __name__ == "__main__":
    main()
