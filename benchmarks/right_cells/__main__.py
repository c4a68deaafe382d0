"""Right cells of other kinds: what `check` says about each.

    python -m benchmarks.right_cells [--seeds 0 1 2 3 4] [--jobs 1] [NAME...]

Prints verdict, largest ratio of error to bar, remarks and CPU seconds; whatever did not pass is
listed below with its finding. Nothing here may fail: the cells are proved right elsewhere.
"""

from __future__ import annotations

import argparse
from collections import Counter

from benchmarks.common import table
from benchmarks.right_cells import CELLS
from benchmarks.right_cells.judged import Verdict, all_judged, by_class


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=1, help="subjects at a time")
    parser.add_argument("names", nargs="*", help="classes; none: all")
    options = parser.parse_args()
    names = options.names or [one.__name__ for one in CELLS]
    paths = [f"benchmarks.right_cells:{name}" for name in names]
    found: list[Verdict] = []
    for one in all_judged(paths, options.seeds, by_class, options.jobs):
        found.append(one)
        name = one.name.rpartition(":")[2]
        print(f"{name} seed {one.seed}: {one.verdict}, {one.seconds:.0f} s", flush=True)
        for line in (*one.findings, *one.reasons):
            print(f"    {line[:300]}", flush=True)
    print(text(found))


def text(found: list[Verdict]) -> str:
    """The table, and every finding of what did not pass."""
    rows = [
        [one.name.rpartition(":")[2], one.seed, one.verdict,
         "-" if one.ratio is None else f"{one.ratio:.3g}", len(one.remarks), f"{one.seconds:.1f}"]
        for one in found
    ]  # fmt: skip
    counts = Counter(one.verdict for one in found)
    seconds = sorted(one.seconds for one in found)
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    odd = [
        f"- {one.name.rpartition(':')[2]} (seed {one.seed}): {line}"
        for one in found
        if one.verdict != "passed"
        for line in (*one.findings, *one.reasons)
    ]
    return "\n".join(
        [
            table(["subject", "seed", "verdict", "worst ratio", "remarks", "CPU s"], rows),
            "",
            f"{said}; CPU seconds: median {seconds[len(seconds) // 2]:.1f}, most {seconds[-1]:.1f}",
            "",
            *odd,
        ]
    )


if __name__ == "__main__":
    main()
