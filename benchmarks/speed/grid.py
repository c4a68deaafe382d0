"""What the suite times: forward, and forward with backward, of each form of each cell."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from bpttcheck.bench import correct
from bpttcheck.bench.by_hand import fused_layer
from bpttcheck.bench.form import PreparedRun
from bpttcheck.bench.forms import FORMS
from bpttcheck.bench.report.records import Size
from bpttcheck.cells import builtin
from bpttcheck.problems.cases import build
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject

CELLS = ("elman", "lstm", "gru_reset_after", "gru_reset_before", "peephole_lstm", "jordan")
DTYPES = ("float64", "float32")
SIZES = (
    Size(20, 1, 4, 1), Size(20, 1, 8, 8), Size(20, 8, 32, 32), Size(100, 1, 32, 32),
    Size(100, 8, 32, 32), Size(100, 32, 128, 128), Size(20, 8, 16, 1024),
)  # fmt: skip
WAYS = tuple(FORMS)


@cache
def problem(cell: str, size: Size, dtype: str) -> tuple[Subject, Problem]:
    subject = Subject(builtin(cell))
    case = Case(0, 0, size.T, size.B, size.n_in, size.n_hidden, dtype, "none", "ordinary")
    return subject, build(subject, case)


@cache
def reference(cell: str, size: Size, dtype: str) -> correct.Right:
    """The right gradient of a problem and its limits; call it in 64-bit mode."""
    subject, at = problem(cell, size, dtype)
    judge = FORMS["jax"].build(subject, at).at
    assert judge is not None
    return correct.right(judge, at)


def ready(cell: str, size: Size, dtype: str, way: str) -> PreparedRun:
    """One form, ready to run forward and backward; raises Declined where there is none."""
    return FORMS[way].build(*problem(cell, size, dtype))


def forward(cell: str, size: Size, dtype: str, way: str) -> Callable[[], Any] | None:
    """The forward pass of a NumPy form with its tape; None where there is none."""
    subject, at = problem(cell, size, dtype)
    layer = subject.layer if way == "numpy" else fused_layer(subject.target)
    return None if layer is None else lambda: layer.forward(at.params, at.xs, at.state0)
