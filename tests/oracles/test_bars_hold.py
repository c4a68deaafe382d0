from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest

from bpttcheck.oracles import torch_autodiff
from bpttcheck.oracles.autodiff.autodiff import Autodiff, Point, Spread, spread_estimate
from bpttcheck.oracles.differences.finite_difference import finite_difference
from bpttcheck.oracles.estimate import Estimate
from bpttcheck.oracles.tracer.trace import lift

Oracle = Callable[..., Estimate]

EPS = float(np.finfo(np.float64).eps)


@cache
def autodiff_of(function: Any) -> Autodiff:
    """The function as one step: its leaves are the parameters, its outputs are one row of y."""

    def step(params: Any, state: Any, x: Any) -> Any:
        outputs = function(list(params.values()))
        return state, np.concatenate([out.reshape(-1) for out in outputs])[None]

    return Autodiff(lift(step))


def as_point(leaves: Any, weights: Any) -> Point:
    row = np.concatenate([np.ravel(w) for w in weights])[None, None]
    one = np.zeros((1, 1))
    params = {str(k): leaf for k, leaf in enumerate(leaves)}
    return Point(params, one, one[None], np.ones((1, 1), bool), row, one)


def jax_reverse(function: Any, point: Any, direction: Any, weights: Any) -> Estimate:
    found = autodiff_of(function).gradients(as_point(point, weights), EPS, 1).d_params
    spreads = list(zip(found.values(), direction, strict=True))
    value = sum((g.value * v).sum() for g, v in spreads)
    copies = sum((g.copies * v).reshape(len(g.copies), -1).sum(1) for g, v in spreads)
    return spread_estimate(Spread(np.asarray(value), copies), EPS)


def jax_forward(function: Any, point: Any, direction: Any, weights: Any) -> Estimate:
    at, along = as_point(point, weights), as_point(direction, weights)
    return autodiff_of(function).directional(at, along, EPS, 1)


def torch_of(kind: Any) -> Any:
    """The same networks in torch."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    gates = {
        "tanh": torch.tanh, "sigmoid": torch.sigmoid, "softplus": torch.nn.functional.softplus,
        "sine": torch.sin, "relu": torch.relu,
    }  # fmt: skip

    def net(leaves: list[Any]) -> list[Any]:
        U, W, b, xs, h, c = leaves
        H, hs = h.shape[1], []
        for x in xs:
            a, r = x @ U.T + b, h @ W.T
            if kind == "lstm":
                i, f, o, g = torch.split(a + r, H, 1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            elif kind == "gru":
                z, reset = torch.split(torch.sigmoid((a + r)[:, : 2 * H]), H, 1)
                n = torch.tanh(a[:, 2 * H :] + (reset * h) @ W[2 * H :].T)
                h = (1 - z) * n + z * h
            else:
                h = gates[kind](a + r)
            hs.append(h)
        return [torch.stack(hs), c]

    return net


def torch_reverse(function: Any, point: Any, direction: Any, weights: Any) -> Estimate:
    found = torch_autodiff.gradients(torch_of(KIND_OF[function]), point, weights, EPS, 1).gradients
    spreads = list(zip(found, direction, strict=True))
    value = sum((g.value * v).sum() for g, v in spreads)
    copies = sum((g.copies * v).reshape(len(g.copies), -1).sum(1) for g, v in spreads)
    return spread_estimate(Spread(np.asarray(value), copies), EPS)


def torch_twice(function: Any, point: Any, direction: Any, weights: Any) -> Estimate:
    net = torch_of(KIND_OF[function])
    return torch_autodiff.directional(net, point, direction, weights, EPS, 1)


# One line per oracle: a directional derivative with a bar, whatever it is made of.
ORACLES: dict[str, Oracle] = {
    "finite_difference": finite_difference,
    "jax_reverse": jax_reverse,
    "jax_forward": jax_forward,
    "torch_reverse": torch_reverse,
    "torch_twice": torch_twice,
}

# JAX compiles a program for each shape: its cases have one shape for each kind of network.
ONE_SHAPE = ("jax_reverse", "jax_forward")

# What an oracle must decline by its nature; everywhere else its bars must hold.

CASES = 350
WITHIN = 3.0  # bars are standard widths
SHARE = 0.99  # of the cases
ABSTAINED = 0.05  # of the cases at most: overflow, no more


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
KIND_OF: dict[Any, str] = {}


@cache
def numeric_net(kind: str) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    def elman(x, h, c, U, W, b):
        return NUMERIC[kind](x @ U.T + h @ W.T + b), c

    def lstm(x, h, c, U, W, b):
        i, f, o, g = np.split(x @ U.T + h @ W.T + b, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    def gru(x, h, c, U, W, b):
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

    KIND_OF[net] = kind
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


def exact_row(kind, x, h, c, U, W, b):
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
# Every pre-activation of the first row and step within a millionth of zero: for relu, not zero.
NEAR = "near a kink"
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


def make_case(index: int, one_shape: bool = False) -> Case:
    rng = np.random.default_rng([2024, index])
    kind = KINDS[index % len(KINDS)]
    regime = list(REGIMES)[(index // len(KINDS)) % len(REGIMES)]
    if kind == "relu" and regime == "zero":
        regime = NEAR
    gain, cotangent = REGIMES.get(regime, (1.0, 1.0))
    T, B, n_in, H = (int(n) for n in rng.integers(1, 4, 4))
    if one_shape:
        T, B, n_in, H = 3, 2, 2, 2
    rows = GATES.get(kind, 1) * H
    shapes = [(rows, n_in), (rows, H), (rows,), (T, B, n_in), (B, H), (B, H)]
    point = [rng.standard_normal(shape) for shape in shapes]
    point[:3] = [gain * leaf for leaf in point[:3]]
    if regime == NEAR:
        U, W, _, xs, h, _ = point
        side = rng.choice((-1e-6, 1e-6), H)
        point[2] = side - xs[0, 0] @ U.T - h[0] @ W.T
    blocks = set(range(6)) if index % 3 == 0 else {int(rng.integers(0, 5))}
    direction = [rng.standard_normal(s) * (k in blocks) for k, s in enumerate(shapes)]
    weights = [cotangent * rng.standard_normal(s) for s in ((T, B, H), (B, H))]
    return Case(kind, regime, point, direction, weights, truth_of(kind, point, direction, weights))


def truth_of(kind, point, direction, weights, *, value: bool = False) -> Any:
    """The derivative along ``direction``, or the weighted outputs themselves."""
    with mpmath.workdps(100 if value else 60):
        duals = [
            np.array([Dual(v, d) for v, d in zip(p.flat, q.flat, strict=True)]).reshape(p.shape)
            for p, q in zip(point, direction, strict=True)
        ]
        outputs = exact_net(kind, duals)
        terms = [
            mpmath.mpf(w) * (o.value if value else o.slope)
            for ws, os in zip(weights, outputs, strict=True)
            for w, o in zip(ws.flat, os.flat, strict=True)
        ]
        return mpmath.fsum(terms) if value else float(mpmath.fsum(terms))


@cache
def cases(one_shape: bool = False) -> list[Case]:
    return [make_case(index, one_shape) for index in range(CASES)]


@dataclass(frozen=True)
class Tally:
    """How an oracle did on the cases that it must judge."""

    judged: int
    abstained: int
    covered: int
    median_error: float
    median_bar: float
    evaluations: float

    @property
    def share(self) -> float:
        return self.covered / self.judged

    def __str__(self) -> str:
        return (
            f"{self.covered} of {self.judged} within {WITHIN:g} bars ({self.share:.4f}), "
            f"{self.abstained} abstained; median relative error {self.median_error:.1e}, "
            f"bar {self.median_bar:.1e}; median evaluations {self.evaluations:g}"
        )


def of_kinds(name: str, *kinds: str) -> list[Case]:
    return [case for case in cases(name in ONE_SHAPE) if case.kind in kinds]


def tally(oracle: Oracle, judged: list[Case]) -> Tally:
    found = [oracle(numeric_net(c.kind), c.point, c.direction, c.weights) for c in judged]
    pairs = [(c.truth, e) for c, e in zip(judged, found, strict=True) if not e.abstains]
    gaps = [abs(float(e.value) - truth) for truth, e in pairs]
    scaled = [(gap, e, abs(t)) for gap, (t, e) in zip(gaps, pairs, strict=True) if t != 0]
    return Tally(
        judged=len(pairs),
        abstained=len(judged) - len(pairs),
        covered=sum(
            gap <= WITHIN * float(e.error) for gap, (_, e) in zip(gaps, pairs, strict=True)
        ),
        median_error=float(np.median([gap / size for gap, _, size in scaled])),
        median_bar=float(np.median([float(e.error) / size for _, e, size in scaled])),
        evaluations=float(np.median([e.evaluations for _, e in pairs])),
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ORACLES)
def test_the_bars_of_every_oracle_hold_against_sixty_digits(name: str) -> None:
    result = tally(ORACLES[name], of_kinds(name, *KINDS))
    print(f"{name}: {result}")
    assert result.judged >= 0.8 * CASES
    assert result.abstained <= ABSTAINED * CASES
    assert result.share >= SHARE
    assert result.median_bar < 1e-10


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ORACLES)
def test_bars_that_are_a_thousand_times_too_short_are_found_out(name: str) -> None:
    def boastful(*args: Any) -> Estimate:
        found = ORACLES[name](*args)
        return Estimate(found.value, found.error / 1000, found.evaluations)

    assert tally(boastful, of_kinds(name, "tanh", "lstm")).share < SHARE


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ORACLES)
def test_a_value_that_is_off_by_a_millionth_is_found_out(name: str) -> None:
    def sloppy(*args: Any) -> Estimate:
        found = ORACLES[name](*args)
        return Estimate(found.value * (1 + 1e-6), found.error, found.evaluations)

    assert tally(sloppy, of_kinds(name, "tanh", "lstm")).share < 0.5


def test_differences_that_step_over_kinks_are_found_out() -> None:
    def naive(function: Any, point: Any, direction: Any, weights: Any) -> Estimate:
        def slope(h: float) -> float:
            ends = [
                function([p + s * h * d for p, d in zip(point, direction, strict=True)])
                for s in (1, -1)
            ]
            return sum(
                float(np.sum(w * (a - b))) / (2 * h) for w, a, b in zip(weights, *ends, strict=True)
            )

        wide, narrow = slope(2e-4), slope(1e-4)
        return Estimate(np.asarray(narrow), np.asarray(abs(wide - narrow) + 1e-10))

    near = [case for case in cases() if case.regime == NEAR]
    assert len(near) >= 5
    assert tally(naive, near).share < 0.9
    assert tally(finite_difference, near).share == 1


def test_the_two_ways_to_the_truth_agree() -> None:
    """The duals' derivative and a high-precision difference of their values."""
    for case in cases()[:: len(KINDS) * 7 + 1]:
        h = mpmath.mpf(10) ** -30
        with mpmath.workdps(100):
            values = [
                truth_of(case.kind, moved(case, sign * h), case.direction, case.weights, value=True)
                for sign in (1, -1)
            ]
            assert float((values[0] - values[1]) / (2 * h)) == pytest.approx(case.truth, rel=1e-12)


def moved(case: Case, step: Any) -> list[np.ndarray]:
    return [
        np.array([mpmath.mpf(v) + step * q for v, q in zip(p.flat, d.flat, strict=True)]).reshape(
            p.shape
        )
        for p, d in zip(case.point, case.direction, strict=True)
    ]
