"""What the measurements share: cases of one regime, counts with intervals, Markdown tables."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from bpttcheck.cells import builtin, every_name
from bpttcheck.judge import gradient
from bpttcheck.judge.run import Run
from bpttcheck.judge.verdict import Judged, judge
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.subject.subject import Subject

DTYPES = ("float64", "float32")
DOCS = Path(__file__).parent.parent / "docs" / "evidence"


def runs(names: Iterable[str] = (), seed: int = 0) -> Iterator[tuple[str, Run]]:
    """A run for each named built-in; none: all of them, Elman with each activation."""
    for name in names or every_name():
        run = Run(Subject(builtin(name)), seed, DTYPES)
        run.jax.prepare(run.cases, 100)
        yield name, run


def problems(
    run: Run, regime: str, dtype: str, count: int, start: int = 0
) -> Iterator[tuple[Problem, Template]]:
    """``count`` problems of one regime and dtype, spread over the compiled templates."""
    for index in range(start, start + count):
        long = regime == "long"
        template = (
            run.cases.templates[-1]
            if long
            else run.cases.templates[index % (len(run.cases.templates) - 1)]
        )
        rng = np.random.default_rng([run.seed, index, 23])
        T = int(rng.choice([35, 70, 300])) if long else int(rng.integers(1, template.T + 1))
        B = int(rng.integers(1, template.B + 1))
        if template.exact:
            T, B = template.T, template.B
        case = run.cases.case(index)
        case = replace(
            case,
            T=T,
            B=B,
            n_in=template.n_in,
            n_hidden=template.n_hidden,
            regime=regime,
            dtype=dtype,
            mask=case.mask if T * B > 1 else "none",
        )
        yield run.cases.problem(case), template


def upper_bound(hits: int, trials: int) -> float:
    """Upper end of the 95 % Wilson interval; for no hits, three over the trials."""
    if hits == 0:
        return 3 / trials
    z, p = 1.96, hits / trials
    middle = p + z * z / (2 * trials)
    return (middle + z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))) / (
        1 + z * z / trials
    )


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def environment() -> str:
    """Versions that the numbers depend on."""
    return (
        f"Python {platform.python_version()}, NumPy {np.__version__}, JAX {jax.__version__}, "
        f"{platform.machine()}"
    )


@dataclass(frozen=True)
class Compared:
    """One block of one case, as the verdict is given it: the arguments of ``judge``."""

    block: str
    hand: Any
    value: Any
    copies: Any
    unit: float
    tiny: float


def compared(run: Run, mode: str, problem: Problem, template: Template | None) -> list[Compared]:
    """The blocks that :func:`examine` judges by JAX; none if it judges the case otherwise."""
    seen: dict[str, Compared] = {}

    def record(block: str, *given: Any) -> Judged:
        seen[block] = Compared(block, *given)
        return judge(block, *given)

    with mock.patch.object(gradient, "judge", record):
        outcome = gradient.examine(run, mode, problem, template, confirm=False)
    if "jax" not in outcome.spoke:
        return []
    return [seen[j.block] for j in outcome.judged]


def interval(hits: int, trials: int) -> tuple[float, float]:
    """Both ends of the 95 % Wilson interval of a share."""
    if trials == 0:
        return 0.0, 1.0
    z, p = 1.96, hits / trials
    middle = p + z * z / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))
    low, high = (middle - half) / (1 + z * z / trials), (middle + half) / (1 + z * z / trials)
    return (low if hits else 0.0), (high if hits < trials else 1.0)  # exactly, not to rounding
