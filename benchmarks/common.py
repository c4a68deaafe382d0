"""What the measurements share: cases of one regime, counts with intervals, Markdown tables."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from bpttcheck.cells import builtin, every_name
from bpttcheck.verify.problem import Problem, Template
from bpttcheck.verify.run import Run
from bpttcheck.verify.subject import Subject

DTYPES = ("float64", "float32")
DOCS = Path(__file__).parent.parent / "docs"


def runs(names: Iterable[str] = (), seed: int = 0) -> Iterator[tuple[str, Run]]:
    """A run for each named built-in; none: all of them, Elman with each activation."""
    for name in names or every_name():
        run = Run(Subject(builtin(name)), seed, DTYPES)
        run.prepare(100)
        yield name, run


def problems(
    run: Run, regime: str, dtype: str, count: int, start: int = 0
) -> Iterator[tuple[Problem, Template]]:
    """``count`` problems of one regime and dtype, spread over the compiled templates."""
    for index in range(start, start + count):
        long = regime == "long"
        template = run.templates[-1] if long else run.templates[index % (len(run.templates) - 1)]
        rng = np.random.default_rng([run.seed, index, 23])
        T = int(rng.choice([35, 70, 300])) if long else int(rng.integers(1, template.T + 1))
        B = int(rng.integers(1, template.B + 1))
        if template.exact:
            T, B = template.T, template.B
        case = run.case(index)
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
        yield run.problem(case), template


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
