"""The largest memory in use at once, by tracemalloc, beside what the layers state."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bpttcheck import trees
from bpttcheck.bptt.checkpoint import checkpointed, stored_bytes
from bpttcheck.bptt.fused import FUSED
from bpttcheck.cells import builtin
from bpttcheck.problems.cases import build
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject

# Beyond this many numbers in the states of a sequence nothing new is seen, but it takes a gigabyte.
_LARGEST = 4_000_000
_ROWS, _WIDTH, _INPUTS = 16, 48, 4  # of the checkpoints


@dataclass(frozen=True)
class Peak:
    """One fused layer, forward and backward.

    Args:
        cell: the cell.
        dtype: the dtype.
        size: ``T, B, n_in, n_hidden``.
        stated: ``peak_bytes``.
        measured: bytes in use at most.
    """

    cell: str
    dtype: str
    size: list[int]
    stated: int
    measured: int


@dataclass(frozen=True)
class Checkpoints:
    """A cell with ``ceil(sqrt(T))`` segments, float64, beside arguments and results.

    Args:
        cell: the cell.
        T: steps.
        kept: bytes that a step keeps, ``C``.
        beside: bytes of its adjoint or its output, ``A``.
        stated: ``peak_bytes``.
        measured: bytes in use at most.
    """

    cell: str
    T: int
    kept: int
    beside: int
    stated: int
    measured: int

    @property
    def over_root(self) -> float:
        """What was measured in units of ``sqrt(T) (C + A)``."""
        return self.measured / ((self.kept + self.beside) * math.sqrt(self.T))


def peaks(sizes: Iterable[Sequence[int]], dtypes: Iterable[str]) -> list[Peak]:
    """Every fused layer at every size that is not too large."""
    chosen = [list(size) for size in sizes if size[0] * size[1] * size[3] <= _LARGEST]
    return [_peak(cell, dtype, size) for cell in FUSED for dtype in dtypes for size in chosen]


def checkpoints(cells: Iterable[str], lengths: Iterable[int]) -> list[Checkpoints]:
    """Every cell at every length, of one width and batch."""
    lengths = list(lengths)
    return [_checkpoints(cell, T) for cell in cells for T in lengths]


def _peak(cell: str, dtype: str, size: list[int]) -> Peak:
    layer, problem = FUSED[cell](), _problem(cell, dtype, *size)
    _, measured = _traced(lambda: _everything(layer, problem))
    return Peak(cell, dtype, size, layer.peak_bytes(*size, dtype), measured)


def _checkpoints(cell: str, T: int) -> Checkpoints:
    problem = _problem(cell, "float64", T, _ROWS, _INPUTS, _WIDTH)
    layer = checkpointed(builtin(cell))
    found, measured = _traced(lambda: _everything(layer, problem))
    results = sum(leaf.nbytes for leaf in trees.leaves(found))
    state = sum(leaf.nbytes for leaf in trees.leaves(problem.state0))
    return Checkpoints(
        cell, T, stored_bytes(builtin(cell), problem.params, _ROWS, _INPUTS),
        max(state, found["ys"][0].nbytes),
        layer.peak_bytes(problem.params, T, _ROWS, _INPUTS), measured - results,
    )  # fmt: skip


def _problem(cell: str, dtype: str, T: int, B: int, n_in: int, n_hidden: int) -> Problem:
    case = Case(0, 0, T, B, n_in, n_hidden, dtype, "none", "ordinary")
    return build(Subject(builtin(cell)), case)


def _everything(layer: Any, problem: Problem) -> dict[str, Any]:
    ys, state_T, tape = layer.forward(problem.params, problem.xs, problem.state0)
    d_params, d_xs, d_state0 = layer.vjp(problem.params, tape, problem.d_ys, problem.d_state)
    return {"ys": ys, "state_T": state_T, "d_xs": d_xs, "d_state0": d_state0, **d_params}


def _traced(action: Callable[[], Any]) -> tuple[Any, int]:
    """The result, and the bytes in use at most."""
    action()  # imports and caches of NumPy are no part of it
    tracemalloc.start()
    try:
        found = action()
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
