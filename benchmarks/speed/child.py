"""One measurement in a process of its own, on so many cores from its first import on."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=("grid", "growth", "memory"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    for name in ("cells", "dtypes", "sizes"):
        parser.add_argument(f"--{name}", nargs="+", required=True)
    parser.add_argument("--lengths", type=int, nargs="+", required=True)
    options = parser.parse_args()
    # NumPy and JAX count the cores when they are imported: nothing here may import them earlier.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    {"grid": grid, "growth": growth, "memory": memory}[options.job](options)


def grid(options: argparse.Namespace) -> None:
    from bpttcheck.cli.bench import bench

    arguments = [*options.cells, "--rounds", str(options.rounds), "--out", str(options.out)]
    for name, values in (("--dtype", options.dtypes), ("--sizes", options.sizes)):
        arguments += [text for value in values for text in (name, value)]
    code = bench.main(arguments, standalone_mode=False)
    if code:
        raise SystemExit(code)


def growth(options: argparse.Namespace) -> None:
    from benchmarks.speed.growth import measure

    _write(options, {"found": measure(options.dtypes, options.lengths, options.rounds)})


def memory(options: argparse.Namespace) -> None:
    from benchmarks.speed.memory import checkpoints, peaks

    sizes = [tuple(map(int, text.split(","))) for text in options.sizes]
    _write(options, {"peaks": peaks(sizes, options.dtypes),
                     "checkpoints": checkpoints(options.cells, options.lengths)})  # fmt: skip


def _write(options: argparse.Namespace, found: dict[str, list[Any]]) -> None:
    told = {name: [dataclasses.asdict(one) for one in some] for name, some in found.items()}
    options.out.write_text(json.dumps({"cores": options.cores, **told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
