"""How a call grows with T: the exponent, and seconds as a fixed cost and a cost of each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.speed.plan import WIDTHS
from bpttcheck.bench import statistics
from bpttcheck.bench.forms import FORMS
from bpttcheck.bench.measure import rounds
from bpttcheck.bptt.fused import FUSED
from bpttcheck.cells import builtin
from bpttcheck.jax_mode import enable_x64
from bpttcheck.problems.cases import build
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject

WAYS = ("fused", "on_jax")


@dataclass(frozen=True)
class Growth:
    """One form of one cell over T, forward and backward, at fixed B and ``n_in = n_hidden``.

    Args:
        cell: the cell.
        form: the form.
        dtype: the dtype.
        B: rows.
        H: the width.
        lengths: the T.
        seconds: the median at each.
    """

    cell: str
    form: str
    dtype: str
    B: int
    H: int
    lengths: list[int]
    seconds: list[float]

    @property
    def exponent(self) -> float:
        """The power of T."""
        return statistics.power_of([float(T) for T in self.lengths], self.seconds)[0]

    @property
    def line(self) -> tuple[float, float]:
        """``(a, b)`` of ``a + b T``, by least squares of the relative errors."""
        weights = 1 / np.array(self.seconds)
        columns = np.stack([np.ones(len(weights)), np.array(self.lengths, float)], axis=1)
        (a, b), *_ = np.linalg.lstsq(columns * weights[:, None], np.ones(len(weights)))
        return float(a), float(b)


def measure(
    dtypes: Iterable[str],
    lengths: Sequence[int],
    count: int,
    widths: Sequence[tuple[int, int]] = WIDTHS,
    cells: Iterable[str] = tuple(FUSED),
) -> list[Growth]:
    """All lengths and both forms of a cell take part in the same rounds."""
    with enable_x64():
        return [
            one for cell in cells for dtype in dtypes for B, H in widths
            for one in _grown(cell, dtype, B, H, lengths, count)
        ]  # fmt: skip


def _grown(
    cell: str, dtype: str, B: int, H: int, lengths: Sequence[int], count: int
) -> Iterable[Growth]:
    subject = Subject(builtin(cell))
    runs = {
        (form, T): FORMS[form]
        .build(subject, build(subject, Case(0, 0, T, B, H, H, dtype, "none", "ordinary")))
        .run
        for form in WAYS
        for T in lengths
    }
    calls = {T: max(lengths) // T for T in lengths}
    found = rounds({f"{form} {T}": repeated(run, calls[T]) for (form, T), run in runs.items()},
                   count)  # fmt: skip
    for form in WAYS:
        seconds = [statistics.median(found[f"{form} {T}"].seconds) / calls[T] for T in lengths]
        yield Growth(cell, form, dtype, B, H, list(lengths), seconds)


def repeated(run: Callable[[], Any], calls: int) -> Callable[[], None]:
    """As many steps in every sample, whatever T.

    What another action has left cold is then warmed in the same share of it; a single short call
    would be mostly that.
    """

    def repeated() -> None:
        for _ in range(calls):
            run()

    return repeated
