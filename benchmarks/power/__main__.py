"""Power: the same planted bugs through this package and through its peers.

    python -m benchmarks.power [--write] [--quick] [--mutants 2] [--workers 2]

Every checker sees the same mutants of the same cells at the same inputs: at its defaults, at its
best settings, and with as many forward evaluations as one check of this package takes. With
``--write`` the result replaces ``docs/evidence/power.md`` and the plots beside it. A peer that is
not installed (extra ``peers``) is left out, and the page says so.
"""

from __future__ import annotations

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

from benchmarks.common import DOCS, environment
from benchmarks.power.arms import Amounts
from benchmarks.power.bench import CELLS, DTYPES
from benchmarks.power.jobs import PARTS, catalogue_size, measure, tune_one
from benchmarks.power.peers import PEERS
from benchmarks.power.peers.base import version
from benchmarks.power.records import Reach, Said, Trial
from benchmarks.power.results import Results

FULL = Amounts(
    mutants=2, inputs=8, regimes=2, alarms=4, climbs=6, checks=2, budgets=9, examples=20, words=6,
    tuning=20,
)  # fmt: skip
QUICK = Amounts(
    mutants=1, inputs=2, regimes=1, alarms=1, climbs=1, checks=1, budgets=2, examples=5, words=2,
    tuning=2,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write its page and its plots")
    parser.add_argument("--quick", action="store_true", help="few of everything, two cells")
    parser.add_argument("--mutants", type=int, help="of each family, cell and dtype")
    parser.add_argument("--cases", type=int, help="inputs with right code, of each cell and dtype")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("cells", nargs="*", help=f"out of {', '.join(CELLS)}; none: all")
    options = parser.parse_args()
    amounts = QUICK if options.quick else FULL
    if options.mutants:
        amounts = replace(amounts, mutants=options.mutants)
    if options.cases:
        amounts = replace(amounts, inputs=options.cases, climbs=options.cases)
    cells = options.cells or (CELLS[:3:2] if options.quick else CELLS)
    results = collect(cells, amounts, options.seed, options.workers)
    from benchmarks.power.page import page

    text = page(results)
    print(text)
    if options.write:
        from benchmarks.power.plots import draw

        draw(results, DOCS / "power")
        (DOCS / "power.md").write_text(text)


def collect(cells: Any, amounts: Amounts, seed: int, workers: int) -> Results:
    """Everything, spread over processes; what is measured does not depend on their number."""
    started = time.perf_counter()
    absent = {peer.name: peer.missing for peer in PEERS if peer.missing}
    present = [peer for peer in PEERS if not peer.missing]
    names = tuple(peer.name for peer in present)
    found: list[Any] = []
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    with pool:
        tuning = [
            pool.submit(tune_one, name, dtype, cells, seed + 1000, amounts.tuning)
            for name in names for dtype in DTYPES
        ]  # fmt: skip
        tuned = [job.result() for job in tuning]
        print(f"tuned, {time.perf_counter() - started:.0f} s", flush=True)
        best = {(one.peer, one.dtype): one.settings for one in tuned}
        jobs = {
            pool.submit(measure, part, cell, seed, names, best, amounts): f"{part} {cell}"
            for part in PARTS for cell in cells
        }  # fmt: skip
        order = list(jobs)
        for job in as_completed(jobs):
            job.result()
            print(f"{jobs[job]}, {time.perf_counter() - started:.0f} s", flush=True)
        for job in order:
            found.extend(job.result())
        sizes = dict(zip(cells, pool.map(catalogue_size, cells), strict=True))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Results(
        trials=[r for r in found if isinstance(r, Trial)],
        reaches=[r for r in found if isinstance(r, Reach)],
        checks=[r for r in found if not isinstance(r, (Trial, Reach, Said))],
        said=[r for r in found if isinstance(r, Said)],
        tuned=tuned,
        peers={peer.name: f"{peer.package} {version(peer.package)}" for peer in present},
        absent=absent,
        amounts=amounts,
        seconds=time.perf_counter() - started,
        processor_seconds=used.ru_utime + used.ru_stime,
        environment=environment(),
        catalogue=sizes,
    )


if __name__ == "__main__":
    main()
