"""Distributes the cases of a run over the workers of an executor and merges results in order.

Case ``i`` is a function of ``(seed, i)`` alone, so nothing depends on which worker runs it. The two
gradient checks are cut into jobs of one compiled shape each, so that a worker compiles few
programs; a law is one job. A worker only judges: if a case is wrong, raises or needs a search, the
caller runs that check again without the executor, and so shrinks and explains once. Cases are
independent only if the subject keeps no state: one that fails ``purity`` is not distributed.
"""

from __future__ import annotations

import copy
import os
import pickle
import threading
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bpttcheck.errors import BpttcheckError, ContractError
from bpttcheck.judge.gradient import examine
from bpttcheck.judge.gradient_finding import count
from bpttcheck.judge.outcome import CaseOutcome
from bpttcheck.judge.reference import JaxReference
from bpttcheck.judge.run import STEP, Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.user_code import Notes
from bpttcheck.verify.checks import CHECKS
from bpttcheck.verify.checks.base import Context, NotApplicable
from bpttcheck.verify.gradient_check import wide_cases

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


# Cases in one job: with few examples one worker compiles each program, with many all are busy.
_CASES = 100

Runs = Callable[[Context], Tally]
"""A function that runs a check."""

Jobs = list[tuple[tuple[Key, ...], Callable[[], dict[Key, JobResult]]]]


@contextmanager
def spread(
    run: Run, examples: int, names: Sequence[str], executor: Executor
) -> Generator[Mapping[str, Runs]]:
    """The named checks, their work distributed over the workers.

    Args:
        run: the caller's run.
        examples: cases of each gradient check.
        names: the checks wanted, in their order.
        executor: any executor; its workers are threads or import this package for themselves.

    Yields:
        The checks by name, to be called in order. Unused jobs are cancelled.

    Raises:
        ContractError: if the subject does not pickle and the workers are not threads.
    """
    place = _place(run, executor)
    found: dict[str, Runs] = {name: one.run for name, one in CHECKS.items()}
    for name in names:
        if CHECKS[name].alone:
            alone = run_check(ThreadContext(run), name, examples)
            found[name] = _finished(lambda alone=alone: alone)
            if alone[0].failures:
                yield found  # cases that depend on each other stay in their order
                return
    if isinstance(place, ThreadContext):
        run.jax.prepare(run.cases, examples)
    modes = {
        n: CHECKS[n].mode
        for n in names
        if CHECKS[n].mode and (CHECKS[n].mode, run.subject.kind) != (STEP, "layer")
    }
    laws = [name for name in names if not (CHECKS[name].mode or CHECKS[name].alone)]
    futures: list[Future[Any]] = []

    def submit(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        with _answering():
            future = executor.submit(function, place, *args)
        futures.append(future)
        return lambda: _result(future)

    try:
        jobs: Jobs = [
            (keys, submit(judge, keys)) for keys in _jobs(run, examples, list(modes.values()))
        ]
        found.update({n: _gathered(n, m, jobs) for n, m in modes.items()})
        found.update({name: _finished(submit(run_check, name, examples)) for name in laws})
        yield found
    finally:
        for future in futures:
            future.cancel()


def _place(run: Run, executor: Executor) -> ThreadContext | ProcessContext:
    if isinstance(executor, ThreadPoolExecutor):
        return ThreadContext(run)
    subject = run.subject
    for name in ("target", "reference"):
        _require_pickle(name, getattr(subject, name))
    return ProcessContext(
        uuid.uuid4().hex, subject.target, subject.reference, subject.name, run.cases.sizes,
        subject.lengths, subject.batches, subject.masks, run.seed, run.dtypes,
    )  # fmt: skip


def _jobs(run: Run, examples: int, modes: Sequence[str]) -> list[tuple[Key, ...]]:
    """All cases, grouped by compiled shape, the longest shape first."""
    groups: dict[Template | None, list[Key]] = {}
    for mode in modes:
        for index in range(examples):
            groups.setdefault(run.cases.scheduled(index, mode == STEP).template, []).append(
                (mode, index)
            )
    ordered = sorted(groups.items(), key=lambda group: -(group[0].T if group[0] else 0))
    return [
        tuple(keys[start : start + _CASES])
        for _, keys in ordered
        for start in range(0, len(keys), _CASES)
    ]


def _gathered(name: str, mode: str, jobs: Jobs) -> Runs:
    """The gradient check that merges the workers' results in the order of the cases."""

    def check(context: Context) -> Tally:
        if context.run.accepted:  # what is accepted is counted where it is judged
            return CHECKS[name].run(context)
        results: dict[int, JobResult] = {}
        for keys, answer in jobs:
            wanted = [key for key in keys if key[0] == mode]
            answers = answer() if wanted else {}
            for key in wanted:
                if key not in answers or answers[key].outcome is None:
                    return CHECKS[name].run(context)
                results[key[1]] = answers[key]
                context.tick()
        tally = Tally(name)
        for index in range(context.examples):
            outcome = results[index].outcome
            assert outcome is not None
            tally.cases += 1
            _note(context.run, results[index].notes)
            context.run.code.lines.include(results[index].lines)
            count(context.run, tally, outcome)
        wide_cases(context.run, mode, tally, {}, context.examples)
        return CHECKS[name].run(context) if tally.failures else tally

    return check


def _finished(answer: Callable[[], tuple[Tally, tuple[str, ...], frozenset[int]]]) -> Runs:
    """A check that was run as a whole."""

    def check(context: Context) -> Tally:
        tally, notes, lines = answer()
        _note(context.run, notes)
        context.run.code.lines.include(lines)
        for _ in range(tally.cases):
            context.tick()
        return tally

    return check


def _note(run: Run, texts: Sequence[str]) -> None:
    for text in texts:
        run.code.notes.add(text)


def _result(future: Future[Any]) -> Any:
    with _answering():
        return future.result()


@contextmanager
def _answering() -> Generator[None]:
    """Pass bpttcheck's errors through; any other error means a dead worker or executor."""
    try:
        yield
    except (BpttcheckError, NotApplicable):
        raise
    except (Exception, CancelledError) as error:
        raise BpttcheckError(
            f"a worker of the executor gave no answer ({type(error).__name__}: {error}), so there "
            "is no verdict. If the cell kills its process, `executor=None` shows where; otherwise "
            "the worker could not load the cell, ran out of memory or was stopped: mend that and "
            "make the executor again"
        ) from error


def _require_pickle(name: str, value: Any) -> None:
    """Raise unless ``value`` can be sent to another process, naming the attribute that cannot."""
    trouble = _trouble(value)
    if trouble is None:
        return
    inside = getattr(value, "__dict__", {})
    for key, member in inside.items() if isinstance(inside, dict) else ():
        _require_pickle(f"{name}.{key}", member)
    raise ContractError(
        f"{name} (type={type(value).__name__}) does not pickle, but the workers of this executor "
        f"are other processes: {trouble}; define its class or function at the top of a module, "
        "make what does not pickle when it is first used, or take a ThreadPoolExecutor",
        item=name,
    )


def _trouble(value: Any) -> str | None:
    try:
        pickle.dumps(value)
    except Exception as error:  # whatever an odd object raises
        return f"{type(error).__name__}: {error}"
    return None
