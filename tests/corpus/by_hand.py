"""Central differences of a subject, with nothing of the checker but its layer: the proof."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_SIZES = {
    "T": 5, "N": 3, "B": 3, "M": 3, "D": 2, "H": 3, "V": 4, "K": 2, "S": 4, "E": 2, "L": 2, "O": 2,
    "C": 2,
}  # fmt: skip
_NOTHING = np.zeros((1, 1, 0))


def _sizes(signature: Any) -> dict[str, int]:
    return {
        letter: min(signature.allowed.get(letter, [_SIZES[letter]]),
                    key=lambda n, wanted=_SIZES[letter]: abs(n - wanted))
        for letter in signature.letters
    }  # fmt: skip


def _point(signature: Any, dtype: Any) -> dict[str, Any]:
    sizes, rng = _sizes(signature), np.random.default_rng(0)
    found: dict[str, Any] = {}
    for name, leaf in signature.expanded(sizes):
        shape = leaf.shape(sizes)
        if leaf.kind == "float":
            found[name] = rng.normal(size=shape).astype(dtype)
        elif leaf.kind == "int":
            found[name] = rng.integers(0, leaf.below.at(sizes), shape)
        elif leaf.kind == "bool":
            found[name] = rng.random(shape) < 0.6
    return found


def errors(subject: Any, dtype: Any = np.float64) -> dict[str, float]:
    """Input -> how far its gradient is from central differences, over the largest entry.

    Inputs of which no gradient is returned are left out.
    """
    point = _point(subject.signature, dtype)
    row, _, tape = subject.forward(dict(point), _NOTHING, ())
    d_row = np.random.default_rng(1).normal(size=row.shape).astype(dtype)
    gradients: Mapping[str, Any] = subject.vjp(point, tape, d_row, ())[0]
    step = 1e-5 if dtype is np.float64 else 1e-2

    def value(name: str, index: tuple[int, ...], by: float) -> float:
        moved = {**point, name: point[name].copy()}
        moved[name][index] += by
        return float(np.sum(np.float64(subject.forward(moved, _NOTHING, ())[0]) * d_row))

    found: dict[str, float] = {}
    for name, given in point.items():
        if given.dtype.kind == "f" and gradients[name] is not None:
            right = np.zeros(given.shape)
            for index in np.ndindex(*given.shape):
                right[index] = (value(name, index, step) - value(name, index, -step)) / (2 * step)
            error = np.max(np.abs(right - gradients[name]))
            found[name] = float(error / max(np.max(np.abs(right)), 1e-3))
    return found


def wrong(subject: Any, dtype: Any = np.float64) -> set[str]:
    """The inputs whose gradients are wrong."""
    limit = 1e-6 if dtype is np.float64 else 1e-2
    return {name for name, error in errors(subject, dtype).items() if error > limit}
