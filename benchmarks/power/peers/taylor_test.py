"""A Taylor test, as in pyadjoint: the remainder must fall with the square of the step."""

from __future__ import annotations

import numpy as np

from benchmarks.power.flat import Flat
from benchmarks.power.peers.base import Named, Peer, Settings

EPS = (1e-1, 1e-2, 1e-3, 1e-4)
EPS32 = (1e-1, 3e-2, 1e-2)
ORDER = 1.9


def look(flat: Flat, settings: Settings | None) -> None:
    h0 = 1e-2 if settings is None else settings.eps
    wanted = ORDER if settings is None else 2 - settings.tol
    rng = np.random.default_rng(flat.seed)
    dtype = flat.problem.dtype
    along = [rng.standard_normal(leaf.shape).astype(dtype) for leaf in flat.point]
    weights = [np.asarray(rng.standard_normal(shape), dtype) for shape, _ in flat.outputs]

    def loss(outputs) -> float:
        return sum(float((a * w).sum()) for a, w in zip(outputs, weights, strict=True))

    outputs, record = flat.forward(*flat.point)
    start = loss(outputs)
    gradient = flat.backward(flat.point, record, weights)
    slope = sum(float((g * v).sum()) for g, v in zip(gradient, along, strict=True))
    remainders = []
    for k in range(4):
        h = dtype.type(h0 / 2**k)
        moved = [leaf + h * v for leaf, v in zip(flat.point, along, strict=True)]
        remainders.append(abs(loss(flat.forward(*moved)[0]) - start - float(h) * slope))
    with np.errstate(all="ignore"):
        orders = np.log2(np.array(remainders[:-1]) / np.array(remainders[1:]))
    if not min(orders) > wanted:
        raise AssertionError(f"order of the Taylor remainder {orders}, expected above {wanted:g}")


def named(message: str, flat: Flat) -> Named:
    """It compares one number for all arguments: nothing is named."""
    return Named("", None)


TAYLOR = Peer("Taylor test", "numpy", look, named, EPS, EPS32,
              "four steps from 1e-2, halved; order above 1.9")  # fmt: skip
