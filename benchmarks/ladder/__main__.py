"""Power: the smallest error that is caught.

    python -m benchmarks.ladder [--cases 50] [--checks 20] [--write]

One block of a correct gradient times ``1 + d``, for every block, d from 1e-1 down to 1e-15: in
which share of single cases, and of whole checks, is it called wrong? With ``--write`` the result
replaces ``docs/evidence/resolution.md``.
"""

from __future__ import annotations

import argparse
import time

from benchmarks.common import DOCS, DTYPES, runs
from benchmarks.ladder.climb import (
    PROMISED,
    Climb,
    EndToEnd,
    climb,
    climb_checks,
    end_to_end,
    first_parameter,
)
from benchmarks.ladder.page import page
from bpttcheck.judge.run import SEQUENCE, STEP
from bpttcheck.problems.problem import REGIMES

NAMES = ("elman[tanh]", "elman[relu]", "lstm", "gru_reset_after", "jordan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=50, help="per built-in, dtype and regime")
    parser.add_argument("--planted", type=int, default=20, help="cases of each planted error")
    parser.add_argument("--checks", type=int, default=20, help="per built-in and dtype")
    parser.add_argument("--examples", type=int, default=100, help="cases of one check")
    parser.add_argument("--write", action="store_true", help="write docs/evidence/resolution.md")
    parser.add_argument("names", nargs="*", default=NAMES, help="built-ins")
    options = parser.parse_args()
    started = time.perf_counter()

    def say(what: str) -> None:
        print(f"{what}, {time.perf_counter() - started:.0f} s", flush=True)

    singles: list[Climb] = []
    for name, run in runs(options.names):
        singles.extend(climb(name, run, tuple(REGIMES), options.cases))
        say(f"{name}: {len(singles)} blocks")
    planted: list[EndToEnd] = []
    errors = [(dtype, f * d) for dtype, d in PROMISED.items() for f in (1e-2, 1e-1, 1.0, 10.0)]
    for name in options.names:
        for block in ("d_xs", first_parameter(name)):
            planted.extend(end_to_end(name, block, errors, options.planted))
        say(f"{name}: planted")
    checks: list[Climb] = []
    for name in options.names:
        for mode in (STEP, SEQUENCE):
            for dtype in DTYPES:
                checks.extend(climb_checks(name, mode, dtype, options.examples, options.checks))
        say(f"{name}: {options.checks} checks of each kind")
    text = page(singles, checks, planted, options.examples, time.perf_counter() - started)
    print(text)
    if options.write:
        (DOCS / "resolution.md").write_text(text)


if __name__ == "__main__":
    main()
