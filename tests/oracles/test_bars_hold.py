from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest

from bpttcheck.oracles.complex_step import complex_step
from bpttcheck.oracles.estimate import Estimate
from bpttcheck.oracles.finite_difference import finite_difference

# One line per oracle: a directional derivative with a bar, whatever it is made of.
ORACLES: dict[str, Callable[..., Estimate]] = {
    "finite_difference": finite_difference,
    "complex_step": complex_step,
}

# What an oracle cannot take by its nature; there it must decline, elsewhere its bars must hold.
NOT_FOR = {"complex_step": {"relu"}}

CASES = 350
WITHIN = 3.0
SHARE = 0.99


class Dual:
    """A value and its derivative in mpmath numbers."""

    def __init__(self, value: Any, slope: Any = 0) -> None:
        self.value, self.slope = mpmath.mpf(value), mpmath.mpf(slope)

    def __add__(self, other: Any) -> Dual:
        other = as_dual(other)
        return Dual(self.value + other.value, self.slope + other.slope)

    def __mul__(self, other: Any) -> Dual:
        other = as_dual(other)
        return Dual(self.value * other.value, self.slope * other.value + self.value * other.slope)

    def through(self, value: Any, derivative: Any) -> Dual:
        return Dual(value, derivative * self.slope)


def as_dual(x: Any) -> Dual:
    return x if isinstance(x, Dual) else Dual(x)


def exact_tanh(z: Dual) -> Dual:
    return z.through(mpmath.tanh(z.value), mpmath.sech(z.value) ** 2)


def exact_sigmoid(z: Dual) -> Dual:
    s = 1 / (1 + mpmath.exp(-z.value))
    return z.through(s, s / (1 + mpmath.exp(z.value)))


def exact_softplus(z: Dual) -> Dual:
    return z.through(mpmath.log1p(mpmath.exp(z.value)), 1 / (1 + mpmath.exp(-z.value)))


def exact_relu(z: Dual) -> Dual:
    return z if z.value > 0 else Dual(0)


EXACT = {
    "tanh": exact_tanh,
    "sigmoid": exact_sigmoid,
    "softplus": exact_softplus,
    "sine": lambda z: z.through(mpmath.sin(z.value), mpmath.cos(z.value)),
    "relu": exact_relu,
}


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


NUMERIC = {
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "softplus": lambda z: np.log1p(np.exp(z)),
    "sine": np.sin,
    "relu": lambda z: np.maximum(z, 0),
}

GATES = {"lstm": 4, "gru": 3}


def numeric_net(kind: str) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    def elman(x, h, c, U, W, b):  # noqa: ANN001
        return NUMERIC[kind](x @ U.T + h @ W.T + b), c

    def lstm(x, h, c, U, W, b):  # noqa: ANN001
        i, f, o, g = np.split(x @ U.T + h @ W.T + b, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    def gru(x, h, c, U, W, b):  # noqa: ANN001
        H = h.shape[1]
        a = x @ U.T + b
        z, r = np.split(sigmoid(a[:, : 2 * H] + h @ W[: 2 * H].T), 2, axis=1)
        n = np.tanh(a[:, 2 * H :] + (r * h) @ W[2 * H :].T)
        return (1 - z) * n + z * h, c

    step = {"lstm": lstm, "gru": gru}.get(kind, elman)

    def net(leaves: list[np.ndarray]) -> list[np.ndarray]:
        U, W, b, xs, h, c = leaves
        hs = []
        for x in xs:
            h, c = step(x, h, c, U, W, b)
            hs.append(h)
        return [np.stack(hs), c]

    return net


def exact_net(kind: str, leaves: list[np.ndarray]) -> list[np.ndarray]:
    """The same networks on object arrays of duals, written entry by entry."""
    U, W, b, xs, h, c = leaves
    hs = []
    for x in xs:
        rows = [exact_row(kind, x[k], h[k], c[k], U, W, b) for k in range(len(h))]
        h, c = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
        hs.append(h)
    return [np.array(hs), c]


def exact_row(kind, x, h, c, U, W, b):  # noqa: ANN001
    def affine(j: int, hidden: Any) -> Dual:
        total = as_dual(b[j])
        for weight, value in (*zip(U[j], x, strict=True), *zip(W[j], hidden, strict=True)):
            total = total + as_dual(weight) * value
        return total

    H = len(h)
    if kind == "lstm":
        i, f, o = ([exact_sigmoid(affine(g * H + j, h)) for j in range(H)] for g in range(3))
        g = [exact_tanh(affine(3 * H + j, h)) for j in range(H)]
        c = [f[j] * c[j] + i[j] * g[j] for j in range(H)]
        return [o[j] * exact_tanh(c[j]) for j in range(H)], c
    if kind == "gru":
        z, r = ([exact_sigmoid(affine(g * H + j, h)) for j in range(H)] for g in range(2))
        reset = [r[j] * h[j] for j in range(H)]
        n = [exact_tanh(affine(2 * H + j, reset)) for j in range(H)]
        return [(z[j] * -1 + 1) * n[j] + z[j] * h[j] for j in range(H)], list(c)
    return [EXACT[kind](affine(j, h)) for j in range(H)], list(c)


@dataclass(frozen=True)
class Case:
    kind: str
    regime: str
    point: list[np.ndarray]
    direction: list[np.ndarray]
    weights: list[np.ndarray]
    truth: float


KINDS = ("tanh", "sigmoid", "softplus", "sine", "relu", "lstm", "gru")
# The factor on the parameters and the factor on the cotangents.
REGIMES = {
    "ordinary": (1.0, 1.0),
    "saturated": (15.0, 1.0),
    "tiny": (1e-8, 1.0),
    "large": (4.0, 1.0),
    "zero": (0.0, 1.0),
    "tiny cotangents": (1.0, 1e-30),
    "large cotangents": (1.0, 1e30),
}


def make_case(index: int) -> Case:
    rng = np.random.default_rng([2024, index])
    kind = KINDS[index % len(KINDS)]
    regime = list(REGIMES)[(index // len(KINDS)) % len(REGIMES)]
    if kind == "relu" and regime == "zero":
        regime = "ordinary"
    gain, cotangent = REGIMES[regime]
    T, B, n_in, H = (int(n) for n in rng.integers(1, 4, 4))
    rows = GATES.get(kind, 1) * H
    shapes = [(rows, n_in), (rows, H), (rows,), (T, B, n_in), (B, H), (B, H)]
    point = [rng.standard_normal(shape) for shape in shapes]
    point[:3] = [gain * leaf for leaf in point[:3]]
    blocks = set(range(6)) if index % 3 == 0 else {int(rng.integers(0, 5))}
    direction = [rng.standard_normal(s) * (k in blocks) for k, s in enumerate(shapes)]
    weights = [cotangent * rng.standard_normal(s) for s in ((T, B, H), (B, H))]
    return Case(kind, regime, point, direction, weights, truth_of(kind, point, direction, weights))


def truth_of(kind, point, direction, weights) -> float:  # noqa: ANN001
    with mpmath.workdps(60):
        duals = [
            np.array([Dual(v, d) for v, d in zip(p.flat, q.flat, strict=True)]).reshape(p.shape)
            for p, q in zip(point, direction, strict=True)
        ]
        outputs = exact_net(kind, duals)
        slopes = [
            mpmath.mpf(w) * o.slope
            for ws, os in zip(weights, outputs, strict=True)
            for w, o in zip(ws.flat, os.flat, strict=True)
        ]
        return float(mpmath.fsum(slopes))


@cache
def cases() -> list[Case]:
    return [make_case(index) for index in range(CASES)]
