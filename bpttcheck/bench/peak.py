"""What the machine could compute: its peak by a large product, and the operations of a cell."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bpttcheck import cells
from bpttcheck.bench.report.records import Size

_WIDTH, _PRODUCTS = 1024, 4
_GATES: dict[type, int] = {
    cells.Elman: 1, cells.GRUResetAfter: 3, cells.GRUResetBefore: 3, cells.LSTM: 4,
}  # fmt: skip


def peak_gflops(dtypes: Sequence[str], width: int = _WIDTH) -> dict[str, float]:
    """Billions of operations a second in NumPy's product of two square matrices, the best of a few.

    It is the peak of this process: of its threads, and of the BLAS that NumPy has here.

    Args:
        dtypes: the dtypes.
        width: of the matrices.
    """
    return {dtype: _peak(dtype, width) for dtype in dict.fromkeys(dtypes)}


def _peak(dtype: str, width: int) -> float:
    left, right, out = np.ones((3, width, width), dtype)
    took: list[float] = []
    for _ in range(_PRODUCTS):
        started = time.perf_counter()
        np.matmul(left, right, out=out)
        took.append(time.perf_counter() - started)
    return 2 * width**3 / max(min(took), 1e-9) / 1e9


def operations(cell: Any, size: Size) -> int | None:
    """Additions and multiplications in the products of forward and backward, ``6 T B g H (N + H)``.

    Forward, every number of ``g`` gates takes ``N + H`` products and as many sums; backward takes
    twice that, for the inputs and for the weights. What is done entry by entry is not counted.

    Args:
        cell: known are the package's own cells with a fused form; a subclass is another cell.
        size: the size.
    """
    gates = _GATES.get(type(cell))
    if gates is None:
        return None
    return 6 * size.T * size.B * gates * size.n_hidden * (size.n_in + size.n_hidden)
