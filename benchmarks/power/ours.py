"""This package in the seat of a peer: one case, or a whole check, with its calls counted."""

from __future__ import annotations

import threading
import time
import warnings
from dataclasses import replace
from typing import Any
from unittest import mock

from benchmarks.power.flat import Calls
from benchmarks.power.peers.base import Answer
from bpttcheck.bptt import layer as layer_module
from bpttcheck.calibration import COPIES
from bpttcheck.errors import ContractError
from bpttcheck.judge.gradient import examine
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.results.records import Verdict
from bpttcheck.results.report import Report
from bpttcheck.subject.options import Options, validate_options
from bpttcheck.subject.subject import Subject
from bpttcheck.verify import gradient_check
from bpttcheck.verify.check import _outcomes, check_one
from bpttcheck.verify.checks import NAMES
from bpttcheck.verify.reporting import report_of


class CountedLayer:
    """A layer that counts its passes."""

    def __init__(self, layer: Any, calls: Calls) -> None:
        self._layer, self._calls = layer, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def forward(self, *arguments: Any) -> Any:
        self._calls.count_forward()
        return self._layer.forward(*arguments)

    def vjp(self, *arguments: Any) -> Any:
        self._calls.backward += 1
        return self._layer.vjp(*arguments)


class CountedCell:
    """A cell that counts the steps that are no part of a forward pass."""

    def __init__(self, cell: Any, calls: Calls, inside: threading.local) -> None:
        self._cell, self._calls, self._inside = cell, calls, inside

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cell, name)

    def step(self, *arguments: Any) -> Any:
        if not getattr(self._inside, "loop", False):
            self._calls.count_forward()
        return self._cell.step(*arguments)

    def step_vjp(self, *arguments: Any) -> Any:
        return self._cell.step_vjp(*arguments)


def look(base: Run, target: Any, problem: Problem, template: Template | None) -> Answer:
    """One case, as ``sequence_vjp`` examines it.

    Args:
        base: a run of the right cell, whose programs are used.
        target: the cell or layer under test.
        problem: the case.
        template: the compiled shape to use.
    """
    run, calls, traced = base.fork(_subject(base, target)), Calls(), [0]
    run.code.layer = CountedLayer(run.code.layer, calls)
    _count_traced(run, traced)
    started = time.perf_counter()
    message = ""
    try:
        outcome = examine(run, SEQUENCE, problem, template)
        flagged = bool(outcome.wrong)
        if flagged:
            message = f"{outcome.wrong[0].block} is wrong"
    except ContractError as error:
        flagged, message = True, str(error)
    seconds = time.perf_counter() - started
    return Answer(flagged, message, calls.forward, calls.backward, seconds, traced=traced[0])


def check_fails(base: Run, target: Any, examples: int) -> bool:
    """Whether a whole check fails; nothing is shrunk or explained, which changes no verdict."""
    run, options = base.fork(_subject(base, target)), _options(base, examples)
    silent = mock.patch.object(gradient_check, "_explain", return_value=None)
    with silent, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return any(check_one(run, options, n)[0].verdict is Verdict.FAILED for n in NAMES)


def report(base: Run, target: Any, examples: int) -> Report:
    """The report of a whole check, as :func:`bpttcheck.check` would return it."""
    run, options = base.fork(_subject(base, target)), _options(base, examples)
    started = time.perf_counter()
    outcomes = _outcomes(run, options, None, None)
    return report_of(run, options, outcomes, time.perf_counter() - started)


def passes_of_a_check(cell: Any, examples: int, seed: int, dtypes: tuple[str, ...]) -> Answer:
    """How often a whole check of right code runs it forward and backward.

    A single step that is asked for by itself counts as a forward pass, too.
    """
    calls, traced, inside = Calls(), [0], threading.local()
    unroll = layer_module.unroll

    def in_a_loop(*arguments: Any) -> Any:
        inside.loop = True
        try:
            return unroll(*arguments)
        finally:
            inside.loop = False

    started = time.perf_counter()
    with mock.patch.object(layer_module, "unroll", in_a_loop):
        run = Run(Subject(CountedCell(cell, calls, inside), reference=cell), seed, dtypes)
        run.code.layer = CountedLayer(run.code.layer, calls)
        _count_traced(run, traced)
        options = _options(run, examples)
        failed = [
            name for name in NAMES if check_one(run, options, name)[0].verdict is Verdict.FAILED
        ]
    seconds = time.perf_counter() - started
    return Answer(bool(failed), "", calls.forward, calls.backward, seconds, traced=traced[0])


def _count_traced(run: Run, traced: list[int]) -> None:
    gradient, directional = run.jax.gradient, run.jax.directional

    def counted(*arguments: Any) -> Any:
        traced[0] += 1 + COPIES
        return gradient(*arguments)

    def counted_directional(*arguments: Any) -> Any:
        traced[0] += 1 + COPIES
        return directional(*arguments)

    run.jax.gradient, run.jax.directional = counted, counted_directional


def _subject(base: Run, target: Any) -> Subject:
    return replace(base.subject, target=target, reference=base.subject.target)


def _options(run: Run, examples: int) -> Options:
    return validate_options(
        dtypes=run.dtypes, examples=examples, seed=run.seed, checks=None, expected_failures=None,
        known_checks=NAMES,
    )  # fmt: skip
