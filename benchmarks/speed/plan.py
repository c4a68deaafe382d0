"""What is measured for the page about speed, and the children that measure it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CELLS = ("elman", "gru_reset_after", "lstm")
DTYPES = ("float32", "float64")
SIZES = (
    "50,1,32,32", "50,8,32,32", "1000,1,32,32", "1000,16,32,32", "100,1,256,256", "100,32,64,64",
    "100,32,128,128", "100,64,256,256", "100,64,512,512",
)  # fmt: skip
LENGTHS = (100, 200, 500, 1000, 2000)
WIDTHS = ((8, 32), (16, 64))  # B, H of the growth with T
CONTRAST = ("50,1,32,32", "100,32,128,128", "100,64,512,512")
VARIABLE, OLDER = "OPENBLAS_CORETYPE", "Haswell"
JOBS = ("grid", "blas", "growth", "memory")
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Plan:
    """What the children are asked for.

    Args:
        keep: the folder of their results.
        cores: the numbers of cores that the grid is measured on; the other jobs take the first.
        rounds: paired rounds, at the least.
        sizes: of the grid, as ``bpttcheck bench --sizes`` takes them.
        lengths: of the growth with T.
    """

    keep: Path
    cores: Sequence[int] = (1, 2)
    rounds: int = 15
    sizes: Sequence[str] = SIZES
    lengths: Sequence[int] = LENGTHS


def carry_out(plan: Plan, jobs: Sequence[str]) -> None:
    """Run the jobs one after another, each in a process of its own; nothing runs beside them."""
    plan.keep.mkdir(parents=True, exist_ok=True)
    first = plan.cores[0]
    for cores in plan.cores if "grid" in jobs else ():
        _child(plan, "grid", plan.keep / f"cores-{cores}", cores, CELLS, DTYPES, plan.sizes)
    if "blas" in jobs:
        given = os.environ.get(VARIABLE, "")
        rows = (CELLS, DTYPES, plan.sizes) if given else (["lstm"], ["float32"], contrast(plan))
        _child(plan, "grid", plan.keep / "blas", first, *rows, coretype=given or OLDER)
    for job in ("growth", "memory"):
        if job in jobs:
            _child(plan, job, plan.keep / f"{job}.json", first, CELLS, DTYPES, plan.sizes)


def contrast(plan: Plan) -> list[str]:
    """The sizes of the small part that shows what the variable does."""
    return [size for size in CONTRAST if size in plan.sizes] or list(plan.sizes)


def environment(cores: int, coretype: str, given: Mapping[str, str]) -> dict[str, str]:
    """The variables of a child: as many threads as cores, and the BLAS's kernels of ``coretype``.

    Args:
        cores: the cores.
        coretype: of OpenBLAS; ``""``: its own choice.
        given: the variables of this process.
    """
    found = {key: value for key, value in given.items() if key != VARIABLE}
    found.update(OMP_NUM_THREADS=str(cores), OPENBLAS_NUM_THREADS=str(cores))
    if coretype:
        found[VARIABLE] = coretype
    if cores == 1:
        flags = f"{found.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
        found["XLA_FLAGS"] = flags.strip()
    return found


def _child(
    plan: Plan,
    job: str,
    out: Path,
    cores: int,
    cells: Sequence[str],
    dtypes: Sequence[str],
    sizes: Sequence[str],
    coretype: str = "",
) -> None:
    print(f"{job}, {cores} cores {coretype}".strip(), flush=True)
    command = [
        sys.executable, "-m", "benchmarks.speed.child", job, str(out.absolute()), "--cores",
        str(cores), "--rounds", str(plan.rounds), "--cells", *cells, "--dtypes", *dtypes,
        "--sizes", *sizes, "--lengths", *map(str, plan.lengths),
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=_ROOT, env=environment(cores, coretype, os.environ))
