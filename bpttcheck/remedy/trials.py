"""Problems with their known gradients, on which an edit is tried in NumPy alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bpttcheck.calibration import BLIND, LIMIT
from bpttcheck.contract import Array
from bpttcheck.errors import BpttcheckError
from bpttcheck.judge.run import STEP, Run
from bpttcheck.judge.verdict import rounding, width
from bpttcheck.mutants.source.planting import quiet
from bpttcheck.problems.problem import Problem, Template, each_leaf
from bpttcheck.remedy.backward import BackwardSource

_DRAWN = 36
"""Cases of the schedule that are tried: at least one of every regime."""


@dataclass(frozen=True)
class Known:
    """The right gradient of one block, and how far rounding may move it.

    Args:
        value: the reference.
        most: the largest error that rounding explains, entry by entry.
    """

    value: Array
    most: Array

    def wrong_entries(self, gradient: Any) -> Array:
        """Which entries of ``gradient`` rounding does not explain, and at the end if it has others.

        All of them, where it is None or has another shape.
        """
        if gradient is None or np.shape(gradient) != self.value.shape:
            return np.ones(self.value.size + 1, bool)
        wrong = ~(np.abs(np.asarray(gradient) - self.value) <= self.most)
        return np.append(np.ravel(wrong), False)

    def allows(self, gradient: Any) -> bool:
        """True if ``gradient`` may be it."""
        found = np.asarray(gradient)
        if found.shape != self.value.shape or found.dtype.kind != "f":
            return False
        return bool((np.abs(found - self.value) <= self.most).all())


@dataclass(frozen=True)
class Trial:
    """One problem.

    Args:
        problem: the arguments.
        known: the right gradients of the blocks that can be judged.
        record: what the forward pass kept; None: it runs before every call.
    """

    problem: Problem
    known: dict[str, Known]
    record: Any = field(default=None, repr=False)

    def gradients(self, source: BackwardSource, target: Any) -> Any:
        """What a planted target gives, by block; None if it raises."""
        try:
            record = self.record
            if record is None:
                record = source.forward(target, self.problem)
            return source.gradients(target, self.problem, record)
        except Exception:
            return None

    def wrong(self, source: BackwardSource, target: Any) -> frozenset[str] | None:
        """The blocks in which a planted target is wrong; None if it raises."""
        found = self.gradients(source, target)
        if found is None:
            return None
        try:
            return frozenset(b for b, one in self.known.items() if not one.allows(found[b]))
        except Exception:
            return None

    def wrong_entries(self, source: BackwardSource, target: Any) -> Array:
        """Which entries of all blocks a planted target has wrong, and at the end if it raises."""
        found = self.gradients(source, target)
        parts = [
            one.wrong_entries(None if found is None else found[block])
            for block, one in self.known.items()
        ]
        return np.concatenate([*parts, [found is None]])

    def passes(self, source: BackwardSource, target: Any) -> bool:
        """True if every block may be right."""
        found = self.gradients(source, target)
        try:
            return found is not None and all(
                one.allows(found[block]) for block, one in self.known.items()
            )
        except Exception:
            return False


def trials(run: Run, source: BackwardSource, kept: Sequence[Problem]) -> list[Trial]:
    """Problems that the wrong code fails, the most telling first, then fresh ones.

    Args:
        run: the subject and its oracles.
        source: its backward pass.
        kept: the problems of findings.

    Returns:
        The trials; none if the code fails none of them, or if no gradient is known.
    """
    target = source.planted(source.method.function)
    failed: list[tuple[float, Trial]] = []
    rest: list[Trial] = []
    with quiet():
        for problem, template in _problems(run, source.mode, kept):
            one = _solved(run, source, target, problem, template)
            if one is None:
                continue
            wrong = one.wrong(source, target)
            if wrong is None or wrong:
                failed.append((_telling(one, wrong, source.mode), one))
            else:
                rest.append(one)
    if not failed:
        return []
    failed.sort(key=lambda pair: -pair[0])
    return [one for _, one in failed] + rest


def _telling(one: Trial, wrong: frozenset[str] | None, mode: str) -> float:
    """How unlikely it is that a wrong edit passes: many wrong blocks, sizes that differ."""
    case = one.problem.case
    sizes = [case.n_in, case.n_hidden, case.B]
    return (
        (100 if case.regime == "ordinary" else 0)
        + (0 if wrong is None else 10 * len(wrong))
        + 50 * (min(sizes) > 1)
        + 30 * (len(set(sizes)) == len(sizes))
        + (20 if case.dtype == "float64" else 0)
        - 5 * abs(case.T - (1 if mode == STEP else 3))
    )


def _problems(
    run: Run, mode: str, kept: Sequence[Problem]
) -> Iterator[tuple[Problem, Template | None]]:
    for problem in kept:
        yield problem, None
    for index in range(_DRAWN):
        case, template, differences_only = run.cases.scheduled(index, mode == STEP)
        if differences_only:
            continue
        try:
            yield run.cases.problem(case), template
        except BpttcheckError:
            continue


def _solved(
    run: Run, source: BackwardSource, target: Any, problem: Problem, template: Template | None
) -> Trial | None:
    unit, tiny = rounding(problem.dtype)
    reference = None
    for oracle in run.oracles.values():
        try:
            reference = oracle.gradient(source.mode, problem, template)
        except BpttcheckError:
            continue
        break
    if reference is None:
        return None
    known: dict[str, Known] = {}
    for block, spread in reference.gradients.items():
        value = np.asarray(spread.value, np.float64)
        bar = width(value, spread.copies, unit, tiny)
        if not (np.isfinite(value).all() and np.isfinite(bar).all()):
            continue
        largest = float(np.abs(value).max(initial=0.0))
        if not value.size or (largest > 0 and bar.max() > BLIND * largest):
            continue
        known[block] = Known(value, LIMIT * bar)
    if not known:
        return None
    problem = each_leaf(problem, _read_only)  # an edit may write into them
    try:
        record = source.forward(target, problem)
        for name, value in source.outputs(record).items():
            known[name] = Known(np.array(value), np.zeros(np.shape(value)))
    except Exception:
        return None
    return Trial(problem, known, None if source.makes_anew else record)


def _read_only(leaf: Any) -> Any:
    kept = np.array(leaf)
    kept.flags.writeable = False
    return kept
