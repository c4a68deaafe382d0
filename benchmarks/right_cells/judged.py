"""What `check` says about one subject, found in a process of its own.

A process for each: a subject that hangs the interpreter or keeps compiled programs harms no other,
and its CPU seconds are its own.
"""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """One run of `check`.

    Args:
        name: the subject's name.
        seed: the run's seed.
        verdict: ``"passed"``, ``"failed"``, ``"inconclusive"`` or ``"raised"``.
        ratio: the largest ratio of error to bar among all checks; None if nothing was compared.
        findings: ``check, block: message``, worst first.
        remarks: what was said of conduct.
        hidden: what "could not show" said.
        reasons: why checks were inconclusive.
        seconds: of CPU.
        judged: the judged gradient cases, and all of them.
        lines: the lines of the backward pass that judged cases ran, and all; None: unknown.
    """

    name: str
    seed: int
    verdict: str
    ratio: float | None = None
    findings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0
    judged: tuple[int, int] = (0, 0)
    lines: tuple[int, int] | None = None


def judged(name: str, seed: int, find: Callable[[str], Any], **options: Any) -> Verdict:
    """What `check` says of ``find(name)``; an exception of the checker is a result, too."""
    import bpttcheck

    started = time.process_time()
    subject = find(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the user code's own
            report = bpttcheck.check(subject, seed=seed, raises=False, **options)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        return Verdict(
            name, seed, "raised", findings=(said,), seconds=time.process_time() - started
        )
    ratios = [check.worst_ratio for check in report.checks if check.worst_ratio is not None]
    return Verdict(
        name, seed, report.verdict.value, max(ratios, default=None),
        tuple(f"{f.check}, {f.block}: {f.message}" for f in report.findings),
        tuple(f"{f.check}, {f.block}: {f.message}" for f in report.remarks),
        report.hidden,
        tuple(f"{check.name}: {check.reason}" for check in report.checks if check.reason),
        time.process_time() - started, report.judged, report.lines,
    )  # fmt: skip


def by_class(path: str) -> Any:
    """An instance of ``package:Class``, looked up in the package's ``CELLS``."""
    package, _, name = path.rpartition(":")
    classes = importlib.import_module(package).CELLS
    return next(one for one in classes if one.__name__ == name)()


def all_judged(
    names: Iterable[str], seeds: Iterable[int], find: Callable[[str], Any], jobs: int = 1,
    **options: Any,
) -> Iterator[Verdict]:  # fmt: skip
    """Each name at each seed, in order; ``find`` must be importable by a new process."""
    wanted = [(name, seed) for name in names for seed in seeds]
    while wanted:
        with ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
            runs = [pool.submit(judged, *one, find, **options) for one in wanted]
            for run in runs:
                name, seed = wanted[0]
                try:
                    found = run.result()
                except BrokenProcessPool:
                    yield Verdict(name, seed, "raised", findings=("the process died",))
                    wanted = wanted[1:]
                    break
                wanted = wanted[1:]
                yield found
