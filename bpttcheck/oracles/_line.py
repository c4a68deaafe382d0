"""A program seen along one line through a point: central differences, and how noisy they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles._program import Program
from bpttcheck.oracles._weighted import norm, total

Array = NDArray[Any]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """A central difference of the weighted outputs at one step.

    Args:
        step: the step as realised.
        slopes: ``w·(o(+h) - o(-h)) / 2h``, one for each output entry.
        bends: ``w·(o(+h) - 2·o(0) + o(-h)) / h``: vanishes with ``h`` unless the slope jumps.
        blur: the standard width of the rounding in ``slope``.
    """

    step: float
    slopes: Vector
    bends: Vector
    blur: float

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
    """``L(s) = Σ w·outputs(point + s·direction)`` near ``s = 0``."""

    def __init__(self, program: Program, direction: Sequence[Array], weights: Vector) -> None:
        self.program = program
        self._direction = direction
        self._weights = weights
        self._noise = 0.0
        self._single = sum(int(np.count_nonzero(leaf)) for leaf in direction) == 1

    def row(self, step: float) -> Row | None:
        """The central difference at ``step``, or ``None`` if ``program`` is in trouble there."""
        above, below = self._shifted(step), self._shifted(-step)
        up = self.program.run(above)
        down = None if up is None else self.program.run(below)
        if up is None or down is None:
            return None
        step = self._realised(above, below, step)
        if step == 0:
            self.program.trouble = "the step vanishes in the rounding of the point"
            return None
        w, o = self._weights, self.program.outputs
        slopes, bends = w * (up - down) / (2 * step), w * ((up - o) + (down - o)) / step
        noise = max(self._noise, self._assumed(np.maximum(np.abs(up), np.abs(down))))
        # Two values, each this noisy, over twice the step.
        row = Row(step, slopes, bends, math.sqrt(0.5) * noise / step)
        if not np.isfinite([row.size, row.bend, row.blur]).all():
            self.program.trouble = "the differences overflow"
            return None
        return row

    def measure_noise(self, probes: int = 2) -> None:
        """Find how far rounding moves ``L``, one standard width: assumed at least, and measured.

        Assumed is one ``eps`` of every term, ``eps·sqrt(Σ (w·o)²)``. Measured is the change of
        ``L`` when every entry that the line moves is itself moved by about one rounding error. That
        also shows how much the inside of the program amplifies rounding: with large weights it is
        far more than the outputs tell.
        """
        changes = [self._assumed(self.program.outputs)]
        for seed in range(probes):
            values = self.program.run(self._jittered(seed))
            if values is not None:
                change = self._weights * (values - self.program.outputs)
                changes += [abs(total(change)), norm(change)]
        self._noise = max(changes)

    def reaches(self) -> tuple[float, float]:
        """The steps at which the first and the last entry have moved by their own size."""
        pairs = zip(self.program.point, self._direction, strict=True)
        ratios = np.concatenate([np.abs(leaf[d != 0] / d[d != 0]) for leaf, d in pairs])
        return float(np.min(ratios)), float(np.max(ratios))

    def _assumed(self, outputs: Vector) -> float:
        return self.program.eps * norm(self._weights * outputs)

    def _shifted(self, step: float) -> list[Array]:
        pairs = zip(self.program.point, self._direction, strict=True)
        return self.program.rounded([leaf + step * d for leaf, d in pairs])

    def _jittered(self, seed: int) -> list[Array]:
        rng = np.random.default_rng(seed)
        pairs = zip(self.program.point, self._direction, strict=True)
        eps = self.program.eps
        return self.program.rounded(
            [leaf * (1 + eps * rng.choice((-1, 1), leaf.shape) * (d != 0)) for leaf, d in pairs]
        )

    def _realised(self, above: list[Array], below: list[Array], step: float) -> float:
        """The step after rounding; for one entry only, as many entries have no common step."""
        if not self._single:
            return step
        for up, down, d in zip(above, below, self._direction, strict=True):
            if d.any():
                return float(((up - down)[d != 0] / (2 * d[d != 0]))[0])
        return step
