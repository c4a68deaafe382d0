"""One block's gradient times ``1 + d``: from which d on is it called wrong?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common import DTYPES, Compared, compared, problems
from bpttcheck import trees
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.cells import builtin
from bpttcheck.errors import ContractError
from bpttcheck.judge.gradient import examine
from bpttcheck.judge.run import SEQUENCE, STEP, Run
from bpttcheck.judge.verdict import judge
from bpttcheck.problems.cases import FREE_CASES
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.subject.subject import Subject

RUNGS = tuple(
    float(f"{mantissa}e-{exponent}") for exponent in range(15, 0, -1) for mantissa in (1, 3)
)[:-1]
"""The relative errors d, smallest first: 1e-15 to 1e-1, two a decade."""

PROMISED = {"float64": 1e-12, "float32": 1e-4}
"""The error that every dtype is promised to show in the ordinary regime."""


@dataclass(frozen=True)
class Climb:
    """One block of one case.

    Args:
        cell: the built-in.
        block: the block's name.
        dtype: the checked dtype.
        regime: the case's regime.
        caught: for each rung, whether the verdict was *wrong*.
        blind: the block's own noise hides it, whatever the error.
    """

    cell: str
    block: str
    dtype: str
    regime: str
    caught: tuple[bool, ...]
    blind: bool


def scaled(gradient: Any, d: float) -> Any:
    """``gradient`` times ``1 + d`` in its own dtype, as a wrong backward pass would return it."""
    array = np.asarray(gradient)
    return array * array.dtype.type(1 + d)


def caught(block: Compared) -> tuple[bool, ...]:
    """For each rung, whether the scaled block is called wrong."""
    return tuple(_judged(block, d).wrong for d in RUNGS)


def climb(
    name: str, run: Run, regimes: Sequence[str], cases: int, dtypes: Sequence[str] = DTYPES
) -> Iterator[Climb]:
    """Every block of ``cases`` cases for each regime and dtype; blocks that are zero left out."""
    for regime in regimes:
        for dtype in dtypes:
            for problem, template in problems(run, regime, dtype, cases):
                for block in compared(run, SEQUENCE, problem, template):
                    plain = _judged(block, 0.0)
                    if not plain.null:
                        rungs = caught(block)
                        yield Climb(name, block.block, dtype, regime, rungs, plain.blind)


def climb_checks(name: str, mode: str, dtype: str, examples: int, count: int) -> Iterator[Climb]:
    """The same for whole checks: caught is what any of a check's cases caught.

    The checks are consecutive stretches of one sequence of cases. Those that are judged by
    differences alone count as if they had caught nothing.
    """
    run = Run(Subject(builtin(name)), 0, (dtype,))
    run.jax.prepare(run.cases, examples)
    for start in range(0, count * examples, examples):
        found: dict[str, np.ndarray] = {}
        for index in range(start, start + examples):
            if mode == SEQUENCE and index % FREE_CASES == FREE_CASES - 1:
                continue
            case = run.cases.case(index, steps=1 if mode == STEP else None)
            for block in compared(run, mode, run.cases.problem(case), run.cases.template(index)):
                before = found.setdefault(block.block, np.zeros(len(RUNGS), bool))
                found[block.block] = before | np.array(caught(block))
        for block, rungs in found.items():
            yield Climb(name, block, dtype, mode, tuple(rungs.tolist()), False)


@dataclass(frozen=True)
class EndToEnd:
    """A planted error beside what the ladder says of it.

    Args:
        cell: the built-in.
        block: the block.
        dtype: the checked dtype.
        d: the error.
        cases: how many cases were judged.
        ladder: in how many of them the ladder catches the error.
        examined: in how many the whole examination, differences included, finds the block wrong.
        same: in how many the two say the same.
    """

    cell: str
    block: str
    dtype: str
    d: float
    cases: int
    ladder: int
    examined: int
    same: int


def end_to_end(
    name: str, block: str, errors: Sequence[tuple[str, float]], cases: int
) -> Iterator[EndToEnd]:
    """Plant each error ``(dtype, d)`` in a layer and examine ordinary cases as a check would."""
    cell = builtin(name)
    layer = Planted(cell, block)
    run = Run(Subject(layer, reference=cell), 0, DTYPES)
    for dtype, d in errors:
        total = ladder = examined = same = 0
        for problem, template in problems(run, "ordinary", dtype, cases):
            layer.d = 0.0
            predicted = _predicted(run, problem, template, block, d)
            if predicted is None:
                continue
            layer.d = d
            outcome = examine(run, SEQUENCE, problem, template)
            found = block in [j.block for j in outcome.wrong]
            total, ladder, examined = total + 1, ladder + predicted, examined + found
            same += predicted == found
        yield EndToEnd(name, block, dtype, d, total, ladder, examined, same)


def first_parameter(name: str) -> str:
    """The block of the built-in's first parameter."""
    params = builtin(name).init(np.random.default_rng(0), 2, 3)
    return f"d_params[{next(iter(params))!r}]"


class Planted:
    """A correct cell as a layer, with one block of its gradient times ``1 + d``."""

    def __init__(self, cell: Any, block: str) -> None:
        self._layer, self._block, self.d = CellLayer(cell), block, 0.0

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Any:
        return self._layer.init(rng, n_in, n_hidden)

    def initial_state(self, params: Any, batch_size: int) -> Any:
        return self._layer.initial_state(params, batch_size)

    def forward(self, params: Any, xs: Any, state0: Any, mask: Any = None) -> Any:
        return self._layer.forward(params, xs, state0, mask)

    def vjp(self, params: Any, tape: Any, d_ys: Any, d_state_T: Any) -> Any:
        d_params, d_xs, d_state0 = self._layer.vjp(params, tape, d_ys, d_state_T)
        names = [f"d_params[{key!r}]" for key in d_params]
        names += ["d_xs", *(f"d_state0{path}" for path in trees.structure(d_state0).paths)]
        if self._block not in names:
            raise ContractError(f"no block is called {self._block}, expected one of {names}")
        d_params = {key: self._one(f"d_params[{key!r}]", leaf) for key, leaf in d_params.items()}
        shape = trees.structure(d_state0)
        leaves = zip(shape.paths, trees.leaves(d_state0), strict=True)
        d_state0 = shape.unflatten([self._one(f"d_state0{path}", leaf) for path, leaf in leaves])
        return d_params, self._one("d_xs", d_xs), d_state0

    def _one(self, name: str, leaf: Any) -> Any:
        return scaled(leaf, self.d) if name == self._block else leaf


def _judged(block: Compared, d: float) -> Any:
    hand = scaled(block.hand, d)
    return judge(block.block, hand, block.value, block.copies, block.unit, block.tiny)


def _predicted(run: Run, problem: Problem, template: Template, name: str, d: float) -> bool | None:
    for block in compared(run, SEQUENCE, problem, template):
        if block.block == name and not _judged(block, 0.0).null:
            return bool(_judged(block, d).wrong)
    return None
