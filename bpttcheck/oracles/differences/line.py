"""A program along one line through a point: central differences, their noise, their limit.

Ridders' extrapolation goes to step zero, with a bar. A central difference is ``D(h) = L' + a₂h² +
a₄h⁴ + ...``. The last ``j + 1`` rows determine a polynomial in ``h²``, whose value at zero is ``T_j
= Σ c_k D(h_k)``. The bar of ``T_j`` is the larger of its disagreement with the two estimates of one
order less and the rounding that reaches it, ``sqrt(Σ (c_k·blur_k)²)``. Without this floor the
smallest disagreement among many noisy numbers would pass for accuracy. The next order exposes two
orders that agree by chance.

Source: Ridders, C. J. F. (1982), Advances in Engineering Software 4(2), 75-76.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.differences.program import NativeProgram
from bpttcheck.oracles.differences.weighted import norm, total

Array = NDArray[Any]
Vector = NDArray[np.float64]

# Repeated runs of a program that may be irreproducible, and of one that is.
_PROBES = 2  # runs with rounding errors added: one alone can be too small by chance
_REPEATS, _MANY = 7, 32
_HIDDEN = 1.0  # terms that a program is assumed to have added where it does not show them
_POINTS = 7  # points of a short interval on which rounding is measured
_SHARE = 0.1  # share of the total noise that each output may have: few samples underestimate it
_MARGIN = 4.0  # factor on a measurement that rests on few samples


@dataclass(frozen=True)
class Row:
    """A central difference of the weighted outputs at one step.

    Args:
        step: the step as realised.
        slopes: ``w·(o(+h) - o(-h)) / 2h``, one for each output entry.
        bends: ``w·(o(+h) - 2·o(0) + o(-h)) / h``: vanishes with ``h`` unless the slope jumps.
        blur: the standard width of the rounding in ``slope``.
        blurs: the same for each of ``slopes``, with a share of the whole.
        own: the same for each alone, but at least that of terms near one inside the program.
    """

    step: float
    slopes: Vector
    bends: Vector
    blur: float
    blurs: Vector
    own: Vector

    @property
    def slope(self) -> float:
        """The central difference of the weighted sum."""
        return total(self.slopes)

    @property
    def size(self) -> float:
        """The norm of ``slopes``."""
        return norm(self.slopes)

    @property
    def bend(self) -> float:
        """The norm of ``bends``."""
        return norm(self.bends)


class Line:
    """``L(s) = Σ w·outputs(point + s·direction)`` near ``s = 0``.

    Attributes:
        rows: every row measured so far.
        noise: how far rounding moves ``L``, one standard width.
        traced: the outputs whose internal rounding was measured, not only assumed.
        floor: the internal rounding assumed for each of the others: terms near one that absorb it.
    """

    def __init__(self, program: NativeProgram, direction: Sequence[Array], weights: Vector) -> None:
        self.program = program
        self.direction = direction
        self.weights = weights
        self.rows: list[Row] = []
        self.noise = 0.0
        self.noises = np.zeros(weights.shape)
        self.traced = np.ones(weights.shape, bool)
        self.floor = np.zeros(weights.shape)
        self._seen = np.zeros(weights.shape)
        self._expected = 0.0
        self._changes: dict[float, Vector] = {}
        self._values: dict[float, tuple[Vector, Vector, float]] = {}
        self._single = sum(int(np.count_nonzero(leaf)) for leaf in direction) == 1
        self._at_point = np.where(weights != 0, program.outputs, 0.0)

    def restricted(self, to: NDArray[np.bool_]) -> Line:
        """The same line for some of the outputs, with the noise known so far."""
        line = Line(self.program, self.direction, np.where(to, self.weights, 0.0))
        line.noises, line.traced = np.where(to, self.noises, 0.0), self.traced
        line.noise = norm(line.noises)
        line._values = self._values
        return line

    def row(self, step: float) -> Row | None:
        """The central difference at ``step``, or ``None`` if ``program`` fails there."""
        if step not in self._values:
            above, below = self._shifted(step), self._shifted(-step)
            up = self.program.run(above)
            down = None if up is None else self.program.run(below)
            if up is None or down is None:
                return None
            self._values[step] = up, down, self._realised(above, below, step)
        up, down, step = self._values[step]
        if step == 0:
            self.program.trouble = "the step vanishes in the rounding of the point"
            return None
        w, o = self.weights, self._at_point
        slopes, bends = w * (up - down) / (2 * step), w * ((up - o) + (down - o)) / step
        assumed = self._assumed(np.maximum(np.abs(up), np.abs(down)))
        # Two values with this noise each, over twice the step.
        share = math.sqrt(0.5) / step
        blur = max(self.noise, norm(assumed))
        measured = np.maximum(self.noises, assumed)
        blurs = np.maximum(measured, _SHARE * norm(self.noises))
        # An output that is zero because large numbers cancel need not show how large they are.
        own = np.maximum(measured, _HIDDEN * self.program.eps * np.abs(w))
        row = Row(step, slopes, bends, share * blur, share * blurs, share * own)
        if not np.isfinite([row.size, row.bend, row.blur]).all():
            self.program.trouble = "the differences overflow"
            return None
        self.rows.append(row)
        return row

    def change(self, step: float) -> Vector | None:
        """``w·(o(step) - o(0))``, one for each output entry."""
        if step not in self._changes:
            values = self.program.run(self._shifted(step))
            if values is None:
                return None
            self._changes[step] = self.weights * (values - self._at_point)
        return self._changes[step]

    def measure_noise(self, probes: int = _PROBES) -> None:
        """Find how far rounding moves ``L``: a lower bound and a measurement.

        The lower bound is one ``eps`` of every term, ``eps·sqrt(Σ (w·o)²)``. The measurement is the
        change of ``L`` when every argument and every operation is off by about one rounding error.
        It includes how much the program amplifies rounding internally: with large weights, or where
        large numbers cancel, this is far more than the outputs suggest.

        Args:
            probes: runs with rounding errors; one alone can be too small by chance.
        """
        self._take(self._assumed(self._at_point))
        self.traced = np.zeros(self.weights.shape, bool)
        self.measure_rounding(range(probes))
        hidden = np.where(self.traced, 0.0, _HIDDEN * np.abs(self.weights))
        self.floor = self.program.eps * hidden
        self._take(self.floor)

    @property
    def never_moved(self) -> bool:
        """True if the outputs changed in no row."""
        return bool(self.rows) and all(row.size == 0 and row.bend == 0 for row in self.rows)

    def measure_rounding(self, seeds: Iterable[int]) -> bool:
        """Run with rounding errors added, once per seed; true if the noise grew."""
        before, moving = self.noise, [d != 0 for d in self.direction]
        for seed in seeds:
            found = self.program.run_shaken(seed, moving)
            if found is not None:
                self._take(self.weights * (found[0] - self._at_point))
                self.traced |= found[1]
        return self.noise > before

    def measure_floor(self, step: float) -> bool:
        """Measure what ``floor`` assumes, by third differences within a short ``step``.

        Those of a smooth function are far below its rounding there; where nothing changes at all,
        the assumption stays. False if there is nothing to measure.

        Source: Moré and Wild (2011), SIAM Journal on Scientific Computing 33(3), 1292-1314.
        """
        unknown = self.floor > 0
        step *= min(1.0, *self.scales(), 1.0)
        if not unknown.any():
            return False
        changes = [self.change(k * step / _POINTS) for k in range(1, _POINTS)]
        if any(change is None for change in changes):
            return False
        values = np.stack([np.zeros(self.weights.shape), *(c for c in changes if c is not None)])
        thirds = np.diff(values, 3, axis=0)
        # A third difference of independent errors has 1 + 9 + 9 + 1 times their variance.
        measured = np.sqrt(np.mean(thirds**2, axis=0) / 20)
        moves = unknown & (np.ptp(values, axis=0) > 0)
        if not moves.any():
            return False
        self.floor = np.where(moves, 0.0, self.floor)
        # A kink or a fast change on the interval looks like noise: the assumption bounds it.
        known = np.minimum(_MARGIN * measured, self.program.eps * _HIDDEN * np.abs(self.weights))
        self.noises = np.max([self._assumed(self._at_point), self._seen, self.floor, known], axis=0)
        self.noise = max(norm(self.noises), abs(total(self._seen)), self._expected)
        return True

    def measure_spread(self, *, often: bool) -> bool:
        """Run again at the point, more often if the results differ; true if the noise grew.

        Args:
            often: run often at once, which finds a spread that occurs in some runs only.
        """
        known = self.program.spread
        runs = _REPEATS if often else 1
        done = 0
        while done < runs:
            if not self.program.repeat():
                return False
            done += 1
            # Few runs underestimate a spread that occurs in some runs only.
            runs = _MANY if self.program.spread.any() else runs
        if not (self.weights * (self.program.spread - known)).any():
            return False
        self._take(2 * self.weights * self.program.spread)
        return True

    def expect(self, noise: float) -> None:
        """Raise the noise of ``L`` to at least ``noise``."""
        self._expected = max(self._expected, noise)
        self.noise = max(self.noise, noise)

    def reaches(self) -> tuple[float, float]:
        """The shortest and the longest step at which an entry has moved by its own size."""
        pairs = zip(self.program.point, self.direction, strict=True)
        ratios = np.concatenate([np.abs(leaf[d != 0] / d[d != 0]) for leaf, d in pairs])
        return float(np.min(ratios)), float(np.max(ratios))

    def scales(self) -> list[float]:
        """The steps at which the leaves that move have moved by their own size, the largest first.

        A leaf of zeros has no scale.
        """
        pairs = zip(self.program.point, self.direction, strict=True)
        found = [leaf_scale(leaf, d) for leaf, d in pairs if d.any()]
        return sorted((scale for scale in found if scale), reverse=True)

    def _take(self, changes: Vector) -> None:
        if np.isfinite(changes).all():
            self.noise = max(self.noise, abs(total(changes)), norm(changes))
            self.noises = np.maximum(self.noises, np.abs(changes))
            if changes is not self.floor:
                self._seen = np.maximum(self._seen, np.abs(changes))

    def _assumed(self, outputs: Vector) -> Vector:
        eps, smallest = self.program.eps, self.program.smallest
        return np.abs(self.weights) * (eps * np.abs(outputs) + smallest)

    def _shifted(self, step: float) -> list[Array]:
        pairs = zip(self.program.point, self.direction, strict=True)
        # Not a sum with zero where nothing moves: infinity times zero is NaN.
        return self.program.rounded(
            [np.where(d != 0, leaf + step * d, leaf) for leaf, d in pairs],
        )

    def _realised(self, above: list[Array], below: list[Array], step: float) -> float:
        """The step as realised after rounding, if one entry moves; several have no common one."""
        if not self._single:
            return step
        for up, down, d in zip(above, below, self.direction, strict=True):
            if d.any():
                return float(((up - down)[d != 0] / (2 * d[d != 0]))[0])
        return step


def leaf_scale(leaf: Array, direction: Array) -> float:
    """The step along ``direction`` at which the largest entry of ``leaf`` that moves doubles."""
    moved = direction != 0
    largest = float(np.max(np.abs(leaf), initial=0.0, where=moved))
    return largest / float(np.max(np.abs(direction)))


_WIDTHS = 4.0  # multiple of rounding that a difference of two estimates may be


@dataclass(frozen=True)
class Extrapolated:
    """An estimate and the two parts of its bar."""

    value: float
    disagreement: float
    rounding: float

    @property
    def bar(self) -> float:
        """The larger part."""
        return max(self.disagreement, self.rounding)


class Tableau:
    """Central differences row by row, each extrapolated with all before it.

    ``T[i, j] = T[i, j-1] + (T[i, j-1] - T[i-1, j-1]) / ((h[i-j] / h[i])² - 1)``, and the same for
    the coefficients ``c`` of the rows in it.
    """

    def __init__(self) -> None:
        self._steps: list[float] = []
        self._blurs: list[float] = []
        self._values: list[float] = []
        self._coefficients: list[Vector] = []

    def add(self, step: float, value: float, blur: float) -> Extrapolated:
        """The best estimate at step zero among those that use the new row.

        Args:
            step: shorter than all before it.
            value: the central difference at ``step``.
            blur: the standard width of the rounding in ``value``.
        """
        self._steps.append(step)
        self._blurs.append(blur)
        rows = len(self._steps)
        values, coefficients = [value], [np.eye(1, rows, rows - 1)[0]]
        best, orders = Extrapolated(value, math.inf, math.inf), list[Extrapolated]()
        for order in range(1, rows):
            share = 1 / ((self._steps[-1 - order] / step) ** 2 - 1)
            lower, older = values[-1], self._values[order - 1]
            c, c_older = coefficients[-1], self._coefficients[order - 1]
            values.append(lower + share * (lower - older))
            coefficients.append(c + share * (c - np.append(c_older, 0.0)))
            found = Extrapolated(
                values[-1],
                max(abs(values[-1] - lower), abs(values[-1] - older)),
                math.hypot(*(coefficients[-1] * self._blurs)),
            )
            orders.append(found)
            if found.bar <= best.bar:
                best = found
        self._values, self._coefficients = values, coefficients
        return _not_lucky(best, orders)


def _not_lucky(best: Extrapolated, orders: list[Extrapolated]) -> Extrapolated:
    """``best`` with a bar that reaches the estimate of the next order, less its rounding.

    The next order exposes two wrong estimates that happen to agree.
    """
    following = next((f for b, f in pairwise(orders) if b is best), None)
    if following is None:
        return best
    gap = abs(following.value - best.value)
    if gap <= _WIDTHS * following.rounding:
        return best
    return replace(best, disagreement=max(best.disagreement, gap))
