"""The kept results of the children, read again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.speed.growth import Growth
from benchmarks.speed.memory import Checkpoints, Peak
from bpttcheck.bench import statistics
from bpttcheck.bench.report.records import Benchmark, Interval, MeasuredPoint, load
from bpttcheck.errors import ContractError

LARGE = 4096  # B H from which on the time is in the products


@dataclass(frozen=True)
class Results:
    """Everything on the page.

    Args:
        grids: the benchmark of the grid for each number of cores.
        blas: what was measured with the BLAS held to older kernels, or as the environment had it.
        growth: the growth with T.
        peaks: the memory of the fused layers.
        checkpoints: the memory of checkpoints.
        cores: of the growth.
        tried: the hand-written text of what was tried.
    """

    grids: dict[int, Benchmark]
    blas: Benchmark | None = None
    growth: Sequence[Growth] = field(default_factory=list)
    peaks: Sequence[Peak] = field(default_factory=list)
    checkpoints: Sequence[Checkpoints] = field(default_factory=list)
    cores: int = 1
    tried: str = ""


def read(keep: Path, tried: Path | None = None) -> Results:
    """What the children left in ``keep``, and the text of what was tried, where there is one.

    Raises:
        ContractError: there is no grid.
    """
    folders = sorted(keep.glob("cores-*"), key=lambda folder: int(folder.name.split("-")[1]))
    grids = {int(one.name.split("-")[1]): load(one / "report.json") for one in folders}
    if not grids:
        raise ContractError(f"{keep} holds no cores-N/report.json: measure the grid first")
    blas = keep / "blas" / "report.json"
    growth, memory = _json(keep / "growth.json"), _json(keep / "memory.json")
    return Results(
        grids=grids,
        blas=load(blas) if blas.exists() else None,
        growth=[Growth(**one) for one in growth.get("found", [])],
        peaks=[Peak(**one) for one in memory.get("peaks", [])],
        checkpoints=[Checkpoints(**one) for one in memory.get("checkpoints", [])],
        cores=growth.get("cores", 1),
        tried=tried.read_text() if tried is not None and tried.exists() else "",
    )


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def points(benchmark: Benchmark) -> Iterator[tuple[str, MeasuredPoint]]:
    """Every point with the name of its cell."""
    for subject in benchmark.subjects:
        for point in subject.points:
            yield subject.target, point


def is_large(point: MeasuredPoint) -> bool:
    """True where the products count, not the calls."""
    return point.size.B * point.size.n_hidden >= LARGE


def name(cell: str, point: MeasuredPoint) -> str:
    """A point in words."""
    size = point.size
    return f"{cell} T={size.T} B={size.B} H={size.n_hidden} {point.dtype}"


def ratio(point: MeasuredPoint, form: str) -> Interval | None:
    """The time of a form over that of the faster JAX autodiff."""
    timing = point.timing(form)
    return None if timing is None else timing.ratio


def mean(some: Sequence[MeasuredPoint], form: str) -> Interval | None:
    """The geometric mean of these ratios over points; None without any."""
    pairs = [
        (own.samples, base.samples) for point in some
        if (own := point.timing(form)) and (base := point.timing(point.baseline))
    ]  # fmt: skip
    return statistics.geometric_mean(pairs) if pairs else None


def same(some: Sequence[MeasuredPoint]) -> Interval | None:
    """The geometric mean of the ratio of a form to itself; None without its samples."""
    pairs = [(p.again, own.samples) for p in some if p.again and (own := p.timing("numpy"))]
    return statistics.geometric_mean(pairs) if pairs else None
