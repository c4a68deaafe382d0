"""The wall: hand-written recurrent gradients that anyone can install from the package index.

    pip install "bpttcheck[wild]"
    pip install numpy-ml==0.1.2 pyrenn==0.1 && pip install --no-deps EpyNN==1.2.13
    python -m benchmarks.wild [--examples 40] [--write] [NAME...]

Checks every implementation that is installed; with ``--write`` the result replaces
``docs/evidence/wild.md``. A mismatch stands beside a central difference that knows nothing of the
checker.
"""

from __future__ import annotations

import argparse
import time
import warnings
from datetime import date

from benchmarks.common import DOCS, environment
from benchmarks.wild import libraries, teaching  # noqa: F401 (they enter their adapters)
from benchmarks.wild.by_hand import departures
from benchmarks.wild.implementation import IMPLEMENTATIONS, Implementation
from benchmarks.wild.page import Row, page
from bpttcheck import check


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write docs/evidence/wild.md")
    parser.add_argument("names", nargs="*", help="packages; none: all that are installed")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # theirs, of old packages on new ones
    started = time.perf_counter()
    rows: list[Row] = []
    for one in IMPLEMENTATIONS:
        if options.names and one.package not in options.names:
            continue
        row = judged(one, options.examples, options.seed)
        print(
            f"{one.name} {one.version}: {row.verdict}, {row.says}; by hand {row.by_hand}",
            flush=True,
        )
        rows.append(row)
    text = page(rows, options.examples, environment(), time.perf_counter() - started, date.today())
    if options.write:
        (DOCS / "wild.md").write_text(text)


def judged(one: Implementation, examples: int, seed: int) -> Row:
    """The row of one implementation."""
    if not one.version:
        return Row(one, "not installed")
    function = one.adapter()
    report = check(function, examples=examples, seed=seed, raises=False)
    apart = departures(function, "float32" if one.coarse else "float64")
    return Row.of(one, report, apart)


if __name__ == "__main__":
    main()
