"""Memory: many different subjects, checked one after another in one process.

    python -m benchmarks.many_subjects [--subjects 500] [--write]

JAX on the CPU keeps some thirty memory maps for every compiled program, and a process may hold
65,530 of them: programs that outlive their subject kill it after some two hundred subjects. Each
subject here has classes and closures of its own, so that no cache can serve two of them. A failed
check's exception is kept, as a test runner may keep it. With ``--write`` the result replaces
``docs/evidence/memory.md``.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import bpttcheck
from benchmarks.common import DOCS, environment, table
from benchmarks.many_subjects.subjects import KINDS, make

_MAPS = Path("/proc/self/maps")
_PAGES = Path("/proc/self/statm")
_LIMIT = Path("/proc/sys/vm/max_map_count")


@dataclass(frozen=True)
class Sample:
    """The process after some subjects.

    Args:
        subjects: checked so far.
        seconds: since the first.
        resident: resident memory in MB.
        maps: memory maps.
        programs: compiled programs that are alive.
        compiled: programs that XLA has compiled so far.
    """

    subjects: int
    seconds: float
    resident: float
    maps: int
    programs: int
    compiled: int


class Compilations:
    """Counts what XLA compiles in this process, whoever asks for it."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, _: float, **__: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=500)
    parser.add_argument("--every", type=int, default=25, help="subjects between two samples")
    parser.add_argument("--examples", type=int, default=5, help="cases of each gradient check")
    parser.add_argument("--write", action="store_true", help="write docs/evidence/memory.md")
    options = parser.parse_args()
    compilations, kept, verdicts = Compilations(), list[Exception](), Counter[str]()
    samples: list[Sample] = []
    started = time.perf_counter()
    for done in checked(options.subjects, verdicts, kept, examples=options.examples):
        if done % options.every == 0 or done == options.subjects:
            samples.append(sample(done, time.perf_counter() - started, compilations.count))
            print(samples[-1], flush=True)
    text = page(samples, verdicts, options.examples)
    print(text)
    if options.write:
        (DOCS / "memory.md").write_text(text)


def checked(
    count: int, verdicts: Counter[str], kept: list[Exception], **options: Any
) -> Iterator[int]:
    """Check subjects 0, 1, ... and yield how many are done."""
    for index in range(count):
        cell, reference = make(index)
        try:
            report = bpttcheck.check(cell, reference=reference, seed=index, **options)
            verdicts[report.verdict.value] += 1
        except bpttcheck.GradientMismatch as error:
            verdicts["failed"] += 1
            kept.append(error)
        yield index + 1


def sample(subjects: int, seconds: float, compiled: int = 0) -> Sample:
    """The process as it is now."""
    resident = int(_PAGES.read_text().split()[1]) * 4096 / 1e6
    programs = len(jax.devices("cpu")[0].client.live_executables())
    return Sample(subjects, seconds, resident, maps(), programs, compiled)


def maps() -> int:
    """Memory maps of this process."""
    return len(_MAPS.read_text().splitlines())


def slope(samples: Sequence[Sample], quantity: str) -> tuple[float, float]:
    """Growth per subject over the last half, and its standard error, by least squares."""
    half = samples[len(samples) // 2 :]
    x = np.array([s.subjects for s in half], float)
    y = np.array([getattr(s, quantity) for s in half], float)
    if len(half) < 3:
        return float("nan"), float("nan")
    x -= x.mean()
    rate = float(x @ y / (x @ x))
    rest = y - y.mean() - rate * x
    return rate, float(np.sqrt(rest @ rest / (len(half) - 2) / (x @ x)))


def page(samples: Sequence[Sample], verdicts: Counter[str], examples: int) -> str:
    last, half = samples[-1], samples[len(samples) // 2 :]
    limit = int(_LIMIT.read_text())
    growth = [
        [name, f"{rate:+.4f} ± {error:.4f} {unit}",
         f"{min(values):.0f} to {max(values):.0f} {unit}"]
        for name, quantity, unit in (
            ("resident memory", "resident", "MB"),
            ("memory maps", "maps", "maps"),
            ("programs alive", "programs", "programs"),
        )
        for rate, error in [slope(samples, quantity)]
        for values in [[getattr(s, quantity) for s in half]]
    ]  # fmt: skip
    rows = [
        [s.subjects, f"{s.seconds:.0f}", f"{s.resident:.0f}", s.maps, s.programs, s.compiled]
        for s in samples
    ]
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    header = ["subjects", "seconds", "resident (MB)", "memory maps", "programs alive", "compiled"]
    most = max(s.maps for s in samples)
    return f"""# Memory over many subjects

A test suite checks many cells in one process. JAX on the CPU holds memory maps for every compiled
program, and Linux allows a process {limit:,} of them: programs that outlived their subject would
kill it. This page is written by `python -m benchmarks.many_subjects --write`. It checks
{last.subjects} different subjects one after another: every check, {examples} examples, both dtypes.
Each has classes, numbers and sizes of its own; they are, in turn, {", ".join(KINDS)}. The
exceptions that the wrong ones raise are kept. Verdicts: {said}.

XLA compiled **{last.compiled} programs**, {last.compiled / last.subjects:.1f} a subject, which took
{last.seconds / last.subjects:.2f} s; {last.programs} were alive at the end. Growth with each
further subject over the last half of the run, by least squares, and the range there:

{table(["", "growth a subject", "range"], growth)}

With {most:,} maps at most, the process stays {limit // most} times below the limit.

{table(header, rows)}

Measured with {environment()}, in {last.seconds:.0f} s.
"""


if __name__ == "__main__":
    main()
