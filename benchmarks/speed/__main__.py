"""How fast the layers are beside JAX autodiff and torch, and what they need.

    python -m benchmarks.speed [--write] [--rounds 15] [--cores 1 2] [--keep DIR] [--from DIR]

A grid of cells, dtypes and sizes on one core and on two, the same with the BLAS held to older
kernels, the growth with T, and memory. Each is measured in a process of its own, one after another:
nothing else should run on the machine. It takes about a quarter of an hour for each number of
cores. With ``--write`` the result replaces ``docs/evidence/performance.md``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks.common import DOCS
from benchmarks.speed.plan import JOBS, LENGTHS, SIZES, Plan, carry_out


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/evidence/performance.md")
    parser.add_argument("--rounds", type=int, default=15, help="paired rounds, at the least")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="numbers of cores")
    parser.add_argument("--jobs", nargs="+", choices=(*JOBS, "none"), default=list(JOBS),
                        help="what to measure; the rest is taken from --keep")  # fmt: skip
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), metavar="T,B,N,H")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), metavar="T")
    parser.add_argument("--keep", type=Path, help="the folder of the results (default: none kept)")
    parser.add_argument("--from", dest="kept", type=Path, help="measure nothing, read this folder")
    options = parser.parse_args(arguments)
    allowed = len(os.sched_getaffinity(0))
    if not options.kept and max(options.cores) > allowed:
        parser.error(f"--cores {max(options.cores)}, but this process may use {allowed}")
    if options.kept:
        text = written(options.kept)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            plan = Plan(options.keep or Path(scratch), options.cores, options.rounds,
                        options.sizes, options.lengths)  # fmt: skip
            carry_out(plan, options.jobs)
            text = written(plan.keep)
    print(text)
    if options.write:
        (DOCS / "performance.md").write_text(text)


def written(keep: Path) -> str:
    """The page of what a folder holds."""
    from benchmarks.speed.page import page
    from benchmarks.speed.results import read

    return page(read(keep, DOCS / "performance" / "tried.md"))


if __name__ == "__main__":
    main()
