"""A mismatch confirmed without the checker: central differences of a function at one point.

Of each input a random direction is taken; the derivative of the loss ``sum(y * dy)`` along it is
compared with what the hand-written gradient says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bpttcheck.adapt.function import Function

SIZES = {"T": 4, "N": 2, "B": 2, "D": 3, "H": 2, "V": 3}
STEP = {"float64": 1e-5, "float32": 1e-2}


def departures(function: Function, dtype: str, seed: int = 0) -> dict[str, float]:
    """Input -> how far its gradient departs from the central difference, relative to the larger.

    Args:
        function: what is judged.
        dtype: of the arrays, and of the step with it.
        seed: of the point and the directions.
    """
    rng = np.random.default_rng(seed)
    signature = function.signature
    sizes = {x: min(signature.allowed.get(x, (SIZES[x],))) for x in signature.letters}
    point: dict[str, Any] = {}
    for name, leaf in signature.expanded(sizes):
        shape = leaf.shape(sizes)
        whole = leaf.kind == "int"
        point[name] = (
            rng.integers(0, leaf.below.at(sizes), shape)
            if whole
            else (rng.standard_normal(shape) / 2).astype(dtype)
        )
    nothing = np.zeros((1, 1, 0), dtype)
    row, _, tape = function.forward(point, nothing, ())
    slope = rng.standard_normal(row.shape).astype(dtype)
    found, _ = function.gradients(tape, slope)
    step = STEP[dtype]
    wrong: dict[str, float] = {}
    for name, gradient in found.items():
        if gradient is None:
            continue
        along = rng.standard_normal(point[name].shape).astype(dtype)
        up, down = (
            np.sum(
                slope.astype(float)
                * function.forward({**point, name: point[name] + sign * along}, nothing, ())[0]
            )
            for sign in (np.asarray(step, dtype), np.asarray(-step, dtype))
        )
        difference, hand = (up - down) / (2 * step), float(np.sum(gradient * along))
        wrong[name] = abs(difference - hand) / max(abs(difference), abs(hand), 1e-12)
    return wrong
