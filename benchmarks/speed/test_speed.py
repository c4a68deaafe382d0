"""Seconds of forward, and of forward with backward, by pytest-benchmark.

    pytest benchmarks/speed -o addopts="--import-mode=importlib" --benchmark-disable-gc

The project's own options switch pytest-benchmark off and run tests side by side in several
processes; ``-o addopts=`` replaces them. ``-k "lstm and float64"`` picks a part of the grid, and
``--benchmark-group-by=group`` is what puts the forms of one problem side by side. A gradient that
is wrong fails its test before it is timed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import pytest

from benchmarks.speed import grid
from bpttcheck.bench.forms import FORMS
from bpttcheck.bench.report.records import Size
from bpttcheck.errors import Declined
from bpttcheck.jax_mode import enable_x64

_PROBLEMS = [(cell, size, dtype) for cell in grid.CELLS for size in grid.SIZES
             for dtype in grid.DTYPES]  # fmt: skip
_IDS = [f"{cell}-T{s.T}-B{s.B}-H{s.n_hidden}-{dtype}" for cell, s, dtype in _PROBLEMS]
over_problems = pytest.mark.parametrize(("cell", "size", "dtype"), _PROBLEMS, ids=_IDS)


@pytest.fixture(autouse=True)
def jax_on_the_cpu() -> Iterator[None]:
    with enable_x64(), jax.default_device(jax.devices("cpu")[0]):
        yield


@over_problems
@pytest.mark.parametrize("way", ["numpy", "fused"])
def test_forward(benchmark: Any, cell: str, size: Size, dtype: str, way: str) -> None:
    run = grid.forward(cell, size, dtype, way)
    if run is None:
        pytest.skip("there is no fused form of this cell")
    require_right(cell, size, dtype, way)
    benchmark.group = f"forward {cell} {size} {dtype}"
    benchmark(run)


@over_problems
@pytest.mark.parametrize("way", grid.WAYS)
def test_forward_and_backward(benchmark: Any, cell: str, size: Size, dtype: str, way: str) -> None:
    if FORMS[way].smallest_only and size != grid.SIZES[0]:
        pytest.skip("so slow that it is measured at the smallest size only")
    try:
        run = require_right(cell, size, dtype, way)
    except Declined as error:
        pytest.skip(str(error))
    benchmark.group = f"forward and backward {cell} {size} {dtype}"
    benchmark(run)


def require_right(cell: str, size: Size, dtype: str, way: str) -> Any:
    """The form's ``run`` once its gradients have been found right."""
    ready = grid.ready(cell, size, dtype, way)
    right, blocks = grid.reference(cell, size, dtype), ready.blocks(ready.run())
    block, error, limit = right.worst(blocks)
    if (own := FORMS[way].limit) is not None:
        error, limit = right.error(blocks), own[dtype]
    assert error <= limit, f"{way}: {block} is off by {error:.2g}, allowed is {limit:.1g}"
    return ready.run
