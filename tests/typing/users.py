"""What a type checker sees of the package: pyright reads this file, nobody runs it."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from collections.abc import Callable
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import bpttcheck
from bpttcheck import adapt, cells
from bpttcheck.networks import Network

Array = NDArray[np.floating[Any]]


class Mine:
    """A cell that subclasses nothing."""

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> dict[str, Array]: ...
    def initial_state(self, params: dict[str, Array], batch_size: int) -> Array: ...
    def step(
        self, params: dict[str, Array], state: Array, x: Array
    ) -> tuple[Array, Array, tuple[Array, ...]]: ...
    def step_vjp(
        self, params: dict[str, Array], cache: tuple[Array, ...], d_state: Array, d_y: Array
    ) -> tuple[dict[str, Array], Array, Array]: ...


def forward(x: Array, W: Array) -> tuple[Array, Any]: ...
def backward(dh: Array, cache: Any) -> tuple[Array, Array]: ...


cell: bpttcheck.Cell = Mine()
report = bpttcheck.check(cell, examples=10, dtypes=["float64"])
assert_type(report, bpttcheck.Report)
assert_type(report.passed, bool)
assert_type(report.verdict, bpttcheck.Verdict)
assert_type(bpttcheck.check_vjp(forward, backward, "x: N D, W: D H -> h: N H"), bpttcheck.Report)
for finding in report.findings:
    assert_type(finding.check, str)
subject = adapt.from_vjp(forward, backward, "x: N D, W: D H -> h: N H")
bpttcheck.check(subject)
network = Network([cells.LSTM(), cell], n_out=3)


@bpttcheck.parametrize_with_checks([cell, subject])
def test_gradients(subject: Any, check: Callable[[Any], None]) -> None:
    check(subject)


test_gradients(subject=cell, check=print)
bpttcheck.check(cell, examples="ten")  # pyright: ignore[reportArgumentType]
bpttcheck.check(cell, exampels=10)  # pyright: ignore[reportCallIssue]
