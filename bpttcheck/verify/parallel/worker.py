"""The worker's side of a distributed run: makes the run once, judges cases, runs whole laws."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bpttcheck.errors import BpttcheckError, ContractError
from bpttcheck.judge.gradient import examine
from bpttcheck.judge.outcome import CaseOutcome
from bpttcheck.judge.reference import JaxReference
from bpttcheck.judge.run import STEP, Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.user_code import Notes
from bpttcheck.verify.checks import CHECKS
from bpttcheck.verify.checks.base import Context

Key = tuple[str, int]
"""The mode of a gradient check, and the number of a case."""

# A forked child inherits this number and not JAX's threads.
_LOADED_IN = os.getpid()


class NeedsMainProcess(Exception):
    """A worker needs something that only the caller may do."""


class _WithoutSearch(JaxReference):
    """Searches are rare, so the caller makes them, in the order of the cases."""

    def __init__(self, shared: JaxReference) -> None:
        self.__dict__.update(shared.__dict__)

    def departure(self, mode: str, problem: Problem) -> str:
        """Leave it to the caller."""
        raise NeedsMainProcess


def _job_run(run: Run) -> Run:
    """A run for one job: shared programs, separate notes, no search for an operation."""
    job_run = copy.copy(run)
    job_run.code, job_run.jax = copy.copy(run.code), _WithoutSearch(run.jax)
    job_run.oracles = {**run.oracles, "jax": job_run.jax}
    job_run.code.notes = Notes()
    return job_run


@dataclass(frozen=True)
class ThreadContext:
    """A run for workers that are threads of this process."""

    run: Run

    def job_run(self) -> Run:
        """The run for one job."""
        return _job_run(self.run)


@dataclass(frozen=True)
class ProcessContext:
    """What a worker needs to make the run for itself, once for all jobs of one ``token``."""

    token: str
    target: Any
    reference: Any
    name: str
    sizes: tuple[tuple[int, int], ...] | None
    lengths: tuple[int, ...] | None
    batches: tuple[int, ...] | None
    masks: tuple[str, ...]
    seed: int
    dtypes: tuple[str, ...]

    def job_run(self) -> Run:
        """The run for one job; its programs are kept for the next.

        Raises:
            BpttcheckError: if this process is a fork of the caller's.
        """
        if os.getpid() != _LOADED_IN:
            raise BpttcheckError(
                "this worker was forked from a process that had loaded JAX, whose threads a fork "
                "does not copy: it would hang. Make the pool with "
                'ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))'
            )
        return _job_run(_KEPT.get(self))

    def make(self) -> Run:
        """A run of the same cases: the sizes drawn are sent, for a strategy does not pickle."""
        from hypothesis import strategies

        sizes = None if self.sizes is None else strategies.just(self.sizes[0])
        subject = Subject(
            self.target, self.reference, sizes, name=self.name, lengths=self.lengths,
            batches=self.batches, masks=self.masks,
        )  # fmt: skip
        run = Run(subject, self.seed, self.dtypes)
        run.cases.compile_for(self.sizes)
        return run


class _Kept:
    """The last run of a worker, whose programs the next job needs."""

    def __init__(self) -> None:
        self._lock, self._token = threading.Lock(), ""
        self._run: Run | None = None

    def get(self, place: ProcessContext) -> Run:
        with self._lock:
            if self._run is None or self._token != place.token:
                self._run, self._token = place.make(), place.token
            return self._run


_KEPT = _Kept()


@dataclass(frozen=True)
class JobResult:
    """A worker's result for one case; without an outcome the caller must run it itself."""

    outcome: CaseOutcome | None
    notes: tuple[str, ...]
    lines: frozenset[int] = frozenset()


def judge(place: ThreadContext | ProcessContext, keys: Sequence[Key]) -> dict[Key, JobResult]:
    """One job of cases, in a worker; a check stops at the first case left to the caller."""
    run, results, over = place.job_run(), dict[Key, JobResult](), set[str]()
    for mode, index in keys:
        if mode in over:
            continue
        run.code.notes = Notes()
        outcome = _judged(run, mode, index)
        if outcome is not None and outcome.spoke:
            run.code.lines.commit()
        else:
            run.code.lines.discard()
        results[mode, index] = JobResult(outcome, run.code.notes.texts, run.code.lines.progress())
        if outcome is None:
            over.add(mode)
    return results


def _judged(run: Run, mode: str, index: int) -> CaseOutcome | None:
    case, template, alone = run.cases.scheduled(index, mode == STEP)
    try:
        outcome = examine(run, mode, run.cases.problem(case), template, differences_only=alone)
    except (ContractError, NeedsMainProcess):
        return None
    if outcome.wrong:
        return None
    none = np.empty((0, 0, 0))
    return replace(outcome, problem=Problem(case, {}, none, (), None, none, ()), hand=None)


def run_check(
    place: ThreadContext | ProcessContext, name: str, examples: int
) -> tuple[Tally, tuple[str, ...], frozenset[int]]:
    """One whole check in a worker: its tally, notes, and the lines that were reached."""
    run = place.job_run()
    tally = CHECKS[name].run(Context(run, examples))
    return tally, run.code.notes.texts, run.code.lines.progress()
