"""Distributes the cases of a run over the workers of an executor and merges results in order.

Case ``i`` is a function of ``(seed, i)`` alone, so nothing depends on which worker runs it. The two
gradient checks are cut into jobs of one compiled shape each, so that a worker compiles few
programs; a law is one job. A worker only judges: if a case is wrong, raises or needs a search, the
caller runs that check again without the executor, and so shrinks and explains once. Cases are
independent only if the subject keeps no state: one that fails ``purity`` is not distributed.
"""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from bpttcheck.errors import BpttcheckError, ContractError
from bpttcheck.judge.gradient_finding import count
from bpttcheck.judge.run import STEP, Run
from bpttcheck.judge.tally import Tally
from bpttcheck.problems.problem import Template
from bpttcheck.verify.checks import CHECKS
from bpttcheck.verify.checks.base import Context, NotApplicable
from bpttcheck.verify.gradient_check import wide_cases
from bpttcheck.verify.parallel.worker import (
    JobResult,
    Key,
    ProcessContext,
    ThreadContext,
    judge,
    run_check,
)

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
