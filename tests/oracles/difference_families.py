"""Random problems on which differences are apt to lie, each with its true derivative.

A family draws one problem from a generator of random numbers. Its ``truth`` is an interval: one
number for a smooth function, all subgradients at a kink. The code under test is native NumPy
(``seen``) or leaves the recorded arrays at once, as a compiled kernel does (``opaque``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import mpmath
import numpy as np

Leaves = list[np.ndarray]
Rng = np.random.Generator
DIGITS = 60


@dataclass(frozen=True)
class Trap:
    function: Callable[[Leaves], Leaves]
    point: Leaves
    direction: Leaves
    weights: Leaves
    truth: tuple[float, float]

    def gap(self, value: float) -> float:
        low, high = self.truth
        return max(low - value, value - high, 0.0)


def opaque(function: Callable[[Leaves], Leaves]) -> Callable[[Leaves], Leaves]:
    return lambda leaves: function([np.array(leaf) for leaf in leaves])


def maybe_opaque(rng: Rng, function: Callable[[Leaves], Leaves]) -> Callable[[Leaves], Leaves]:
    return opaque(function) if rng.random() < 0.5 else function


def exactly(compute: Callable[[], Any]) -> tuple[float, float]:
    with mpmath.workdps(DIGITS):
        value = float(compute())
    return value, value


def mp(array: np.ndarray) -> list[Any]:
    return [mpmath.mpf(float(v)) for v in np.ravel(array)]


def dot(a: np.ndarray, b: Any) -> Any:
    return mpmath.fsum(x * y for x, y in zip(mp(a), b, strict=True))


OUTER = {
    "tanh": (np.tanh, lambda u: mpmath.sech(u) ** 2),
    "sine": (np.sin, mpmath.cos),
    "exp": (np.exp, mpmath.exp),
    "linear": (lambda u: u, lambda u: mpmath.mpf(1)),
    "rational": (lambda u: u / (1 + u * u), lambda u: (1 - u * u) / (1 + u * u) ** 2),
}


def scales(rng: Rng) -> Trap:
    """Two to four leaves, each of its own scale between 1e-12 and 1e+12, in one affine argument."""
    outer, slope = OUTER[list(OUTER)[rng.integers(len(OUTER))]]
    n = int(rng.integers(2, 5))
    size = 10.0 ** rng.uniform(-12, 12, n)
    point = [s * rng.standard_normal(3) for s in size]
    factors = [rng.standard_normal(3) / s for s in size]
    along = rng.random() < 0.5
    d = [rng.standard_normal(3) * (s if along else 1.0) for s in size]

    def function(leaves: Leaves) -> Leaves:
        return [outer(sum(f * x for f, x in zip(factors, leaves, strict=True)))]

    w = rng.standard_normal(3)

    def truth() -> Any:
        total = mpmath.mpf(0)
        for j in range(3):
            f = [mpmath.mpf(float(factor[j])) for factor in factors]
            u = mpmath.fsum(a * float(x[j]) for a, x in zip(f, point, strict=True))
            du = mpmath.fsum(a * float(v[j]) for a, v in zip(f, d, strict=True))
            total += float(w[j]) * slope(u) * du
        return total

    return Trap(maybe_opaque(rng, function), point, d, [w], exactly(truth))


def odometer(rng: Rng) -> Trap:
    """A slow rate beside a large position, as counters and integrators have them."""
    big = 10.0 ** rng.uniform(2, 10)
    pos, rate = big * rng.uniform(0.5, 2, 2), rng.standard_normal(2) / big
    gain = big * big
    d = [rng.standard_normal(2), rng.standard_normal(2)]
    if rng.random() < 0.3:
        d[int(rng.integers(2))] *= 0
    w = [rng.standard_normal(2) * (rng.random() < 0.7) for _ in range(3)]

    def function(leaves: Leaves) -> Leaves:
        pos, rate = leaves
        new = pos + gain * rate
        return [new, 0.5 * rate, np.tanh(new / big)]

    def truth() -> Any:
        total = mpmath.mpf(0)
        for j in range(2):
            d_new = mpmath.mpf(float(d[0][j])) + mpmath.mpf(gain) * float(d[1][j])
            new = mpmath.mpf(float(pos[j])) + mpmath.mpf(gain) * float(rate[j])
            total += float(w[0][j]) * d_new + 0.5 * mpmath.mpf(float(w[1][j])) * float(d[1][j])
            total += float(w[2][j]) * mpmath.sech(new / big) ** 2 * d_new / big
        return total

    return Trap(maybe_opaque(rng, function), [pos, rate], d, w, exactly(truth))


def vanishing(rng: Rng) -> Trap:
    """A recurrent network with tiny weights and a loss of the final state alone."""
    T, H, gain = int(rng.integers(2, 13)), 2, 10.0 ** rng.uniform(-4, 0)
    W, b, h0 = gain * rng.standard_normal((H, H)), rng.standard_normal(H), rng.standard_normal(H)
    b *= gain * rng.integers(0, 2)
    d, w = (
        [rng.standard_normal((H, H)), np.zeros(H), rng.standard_normal(H)],
        rng.standard_normal(H),
    )
    if rng.random() < 0.6:
        d[0] *= 0

    def function(leaves: Leaves) -> Leaves:
        W, b, h = leaves
        for _ in range(T):
            h = np.tanh(h @ W + b)
        return [h]

    def truth() -> Any:
        h, dh = mp(h0), mp(d[2])
        for _ in range(T):
            z, dz = [], []
            for j in range(H):
                z.append(dot(W[:, j], h) + float(b[j]))
                dz.append(dot(W[:, j], dh) + dot(d[0][:, j], h))
            h = [mpmath.tanh(v) for v in z]
            dh = [v * mpmath.sech(u) ** 2 for u, v in zip(z, dz, strict=True)]
        return dot(w, dh)

    return Trap(maybe_opaque(rng, function), [W, b, h0], d, [w], exactly(truth))


def _cross_entropy(leaves: Leaves) -> Leaves:
    e = np.exp(leaves[0])
    return [-np.log(e[:1] / e.sum())]


def plateaus(rng: Rng) -> Trap:
    """Saturated or absorbed: the rounding of a number near one hides what moves."""
    kind = int(rng.integers(4))
    size = 10.0 ** rng.uniform(-1, 1.6)
    x, d, w = size * rng.standard_normal(3), rng.standard_normal(3), np.ones(1)
    small = 10.0 ** rng.uniform(-22, -2)
    if kind == 0:  # a softmax loss of a class that is nearly certain, or nearly impossible
        function = _cross_entropy

        def truth() -> Any:
            e = [mpmath.exp(v) for v in mp(x)]
            return dot(d, [v / mpmath.fsum(e) - (j == 0) for j, v in enumerate(e)])
    elif kind == 1:  # one minus a saturated function
        w = rng.standard_normal(3)

        def function(leaves: Leaves) -> Leaves:
            return [1 - np.tanh(leaves[0])]

        def truth() -> Any:
            return -dot(w * d, [mpmath.sech(v) ** 2 for v in mp(x)])
    elif kind == 2:  # one plus a tiny number, minus one
        w = rng.standard_normal(3)

        def function(leaves: Leaves) -> Leaves:
            return [(1 + small * np.sin(leaves[0])) - 1]

        def truth() -> Any:
            return small * dot(w * d, [mpmath.cos(v) for v in mp(x)])
    else:  # the logarithm of one plus a tiny number
        w = rng.standard_normal(3)

        def function(leaves: Leaves) -> Leaves:
            return [np.log(1 + small * np.exp(np.sin(leaves[0])))]

        def truth() -> Any:
            es = [mpmath.exp(mpmath.sin(v)) * small for v in mp(x)]
            return dot(w * d, [e * mpmath.cos(v) / (1 + e) for e, v in zip(es, mp(x), strict=True)])

    return Trap(maybe_opaque(rng, function), [x], [d], [w], exactly(truth))


def unused(rng: Rng) -> Trap:
    """A leaf that nothing depends on, beside outputs of any size."""
    y = 10.0 ** rng.uniform(-20, 20) * rng.standard_normal(3)
    x, d, w = rng.standard_normal(3), rng.standard_normal(3), rng.standard_normal(3)

    def function(leaves: Leaves) -> Leaves:
        return [np.tanh(leaves[1]) * y]

    point = [x, rng.standard_normal(3)]
    return Trap(maybe_opaque(rng, function), point, [d, 0 * d], [w], (0.0, 0.0))


def kinks(rng: Rng) -> Trap:
    """Opaque code on a kink, exactly or nearly; other entries are smooth there."""
    n = int(rng.integers(1, 4))
    z, d, w = rng.standard_normal(4), rng.standard_normal(4), rng.standard_normal(4)
    at = rng.choice(4, n, replace=False)
    z[at] = rng.choice((0.0, 0.0, 1.0, -1.0), n) * 10.0 ** rng.uniform(-9, -1, n)
    slope_below = rng.choice((0.0, 0.1, -1.0))  # ReLU, leaky ReLU, absolute value
    bent = rng.random() < 0.5

    def function(leaves: Leaves) -> Leaves:
        z = leaves[0]
        y = np.where(z > 0, z, slope_below * z)
        return [np.sin(y) + np.exp(0.3 * z) if bent else y]

    low = high = mpmath.mpf(0)
    for v, along, weight in zip(z, d, w, strict=True):
        sides = [1.0] if v > 0 else [slope_below] if v < 0 else [1.0, slope_below]
        y = v if v > 0 else slope_below * v
        slopes = [s * np.cos(y) + 0.3 * np.exp(0.3 * v) if bent else s for s in sides]
        terms = [float(weight * along * s) for s in slopes]
        low, high = low + min(terms), high + max(terms)
    # Float64 is enough here: no terms cancel.
    slack = 1e-14 * float(np.abs(w * d).sum())
    return Trap(opaque(function), [z], [d], [w], (float(low) - slack, float(high) + slack))


def _narrow(kind: int) -> Callable[[np.ndarray], np.ndarray]:
    if kind == 0:
        return lambda a: a.astype(ml_dtypes.bfloat16).astype(a.dtype)
    if kind == 1:
        return lambda a: a.astype(np.float16).astype(a.dtype)

    def cut(a: np.ndarray) -> np.ndarray:
        """The 13 lowest bits of a float32 cut off, as tensor cores do."""
        bits = np.array(a, np.float32).view(np.uint32) + np.uint32(0x1000)
        return (bits & np.uint32(0xFFFFE000)).view(np.float32).astype(a.dtype)

    return cut


def stairs(rng: Rng) -> Trap:
    """Products in a shorter format inside: the truth is the slope of the smooth function."""
    kind = int(rng.integers(3))
    cut, unit = _narrow(kind), 2.0**-9 if kind == 0 else 2.0**-11
    n, H, T = int(rng.integers(1, 5)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    U, x = rng.standard_normal((n, H)), rng.standard_normal((T, n))
    W, h0 = rng.standard_normal((H, H)), rng.standard_normal(H)
    point, w = [U, x, W, h0], rng.standard_normal((T, H))
    moved = rng.random(4) < 0.5
    moved[int(rng.integers(4))] = True
    d = [rng.standard_normal(leaf.shape) * m for leaf, m in zip(point, moved, strict=True)]

    def rnn(leaves: Leaves, cut: Any) -> Leaves:
        U, xs, W, h = leaves
        ys = []
        for x in xs:
            h = np.tanh(cut(x) @ cut(U) + cut(h) @ cut(W))
            ys.append(h)
        return [np.stack(ys)]

    # The derivative of the smooth function where the code evaluates it: its own rounded inputs.
    def truth(at: Leaves) -> float:
        h, dh, total = at[3], d[3], 0.0
        for t in range(T):
            z = at[1][t] @ at[0] + h @ at[2]
            dz = d[1][t] @ at[0] + at[1][t] @ d[0] + dh @ at[2] + h @ d[2]
            h = np.tanh(z)
            dh = dz * (1 - h * h)
            total += float((w[t] * dh).sum())
        return total

    ends = sorted((truth(point), truth([cut(leaf) for leaf in point])))
    function = maybe_opaque(rng, lambda leaves: rnn(leaves, cut))
    # What the rounding inside does to a right derivative: its own unit, of every term.
    slack = unit * sum(float(np.abs(v).sum()) for v in d) * float(np.abs(w).sum())
    return Trap(function, point, d, [w], (ends[0] - slack, ends[1] + slack))


def jitter(rng: Rng) -> Trap:
    """Sums that change their order: a few units in the last place, others at every call."""
    size = 10.0 ** rng.uniform(-16, -7)
    source = np.random.default_rng(int(rng.integers(2**31)))
    x, d, w = rng.standard_normal(4), rng.standard_normal(4), rng.standard_normal(4)
    share = rng.choice((1.0, 1.0, 0.3))

    def function(leaves: Leaves) -> Leaves:
        noise = size * source.standard_normal(4) * (source.random() < share)
        return [np.tanh(leaves[0]) * (1 + noise)]

    truth = exactly(lambda: dot(w * d, [mpmath.sech(v) ** 2 for v in mp(x)]))
    return Trap(maybe_opaque(rng, function), [x], [d], [w], truth)


def extremes(rng: Rng) -> Trap:
    """Gradients and cotangents near both ends of the format."""
    y = 10.0 ** rng.uniform(-315, 250)
    c = 10.0 ** rng.uniform(-300, 300)
    if not 1e-320 < y * c < 1e300:
        c = 10.0 ** rng.uniform(-20, 20)
    x, d, w = rng.standard_normal(3), rng.standard_normal(3), c * rng.standard_normal(3)
    s = 10.0 ** rng.uniform(-30, 30)

    def function(leaves: Leaves) -> Leaves:
        return [np.tanh(leaves[0] / s) * y]

    point = [x * s]

    def exact() -> Any:
        return mpmath.fsum(
            mpmath.sech(v / s) ** 2 * y * weight * along / s
            for v, weight, along in zip(mp(point[0]), mp(w), mp(d), strict=True)
        )

    truth = exactly(exact)
    return Trap(maybe_opaque(rng, function), point, [d], [w], truth)


def single(rng: Rng) -> Trap:
    """Code that takes float32 only."""
    x = rng.standard_normal(3).astype(np.float32)
    d, w = rng.standard_normal(3), rng.standard_normal(3)
    small = 10.0 ** rng.uniform(-38, 4)

    def function(leaves: Leaves) -> Leaves:
        if leaves[0].dtype != np.float32:
            raise TypeError("only float32 is supported")
        return [np.tanh(leaves[0]) * np.float32(small)]

    scale = float(np.float32(small))
    truth = exactly(lambda: scale * dot(w * d, [mpmath.sech(v) ** 2 for v in mp(x)]))
    return Trap(maybe_opaque(rng, function), [x], [d], [w], truth)


FAMILIES: dict[str, Callable[[Rng], Trap]] = {
    made.__name__: made
    for made in (
        scales, odometer, vanishing, plateaus, unused, kinks, stairs, jitter, extremes, single,
    )
}  # fmt: skip
