"""Directional derivatives by extrapolated central differences, each with an error bar.

``L(s) = Σ_k <weights_k, outputs_k(point + s·direction)>``, wanted is ``dL/ds`` at ``s = 0``.

1. The branches taken at the point are recorded; only points on the same branches are used.
2. The noise of ``L`` is measured, not only assumed (:meth:`Line.noise`).
3. A probe with a short step gives rough slopes; its curvature tells how far the first row may go.
   A first row that contradicts the probe is too far out, whatever its neighbours say.
4. Ridders' extrapolation, until rounding is all that is left (:func:`extrapolate`).
5. What the extrapolation found must agree with the probe, and the one-sided slopes with each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles._extrapolation import Extrapolated, extrapolate
from bpttcheck.oracles._line import Line, Row
from bpttcheck.oracles._program import Program
from bpttcheck.oracles._weighted import Scaled, flat, norm, require_like, rescale, scaled
from bpttcheck.oracles.estimate import Estimate
from bpttcheck.oracles.recording import Function

Array = NDArray[Any]

# All steps are in units of the direction's largest entry.
_FIRST_STEP = 0.5  # of the extrapolation, unless the program's curvature or noise say otherwise
_RATIO = 1.7  # from row to row: near 1 the noise grows, far above the rows run into it
_SHRINK = 16.0  # after a probe that failed
_ENOUGH = 100.0  # relative rounding, in units of eps, at which longer steps bring little more
_PATIENCE = 2  # rows without progress
_MAX_EVALUATIONS = 48


def finite_difference(
    function: Function,
    point: Sequence[Array],
    direction: Sequence[Array],
    weights: Sequence[Array],
    *,
    max_evaluations: int = _MAX_EVALUATIONS,
) -> Estimate:
    """The derivative of the weighted outputs along ``direction``, by differences.

    Args:
        function: takes the leaves, returns a list of arrays; plain NumPy inside.
        point: floating leaves of any shape; evaluated in float64 where the code lets them be.
        direction: the shapes of ``point``; zero where a leaf is not perturbed.
        weights: the shapes of the outputs.
        max_evaluations: forward evaluations at most; 14 to 20 are usual.

    Returns:
        A scalar estimate. It abstains, with a note, at a kink, behind values that are not finite,
        and where no step is both large enough for the precision and small enough for the branches.

    Raises:
        ContractError: if the shapes of ``direction`` or ``weights`` do not fit.

    Source: Ridders (1982), Advances in Engineering Software 4(2), 75-76.
    """
    require_like("direction", direction, "the point", point)
    program = Program(function, point)
    program.require_weights(weights)
    return _derivative(program, direction, scaled(weights), max_evaluations)


def entrywise(
    function: Function,
    point: Sequence[Array],
    leaf_index: int,
    weights: Sequence[Array],
    entries: Iterable[tuple[int, ...]] | None = None,
) -> Estimate:
    """The gradient of the weighted outputs in one leaf, entry by entry.

    It costs some 16 evaluations an entry: meant to explain a failure, not to look for one.

    Args:
        function: as for :func:`finite_difference`.
        point: as for :func:`finite_difference`.
        leaf_index: which leaf of ``point``.
        weights: the shapes of the outputs.
        entries: indices into the leaf; ``None`` for all of them.

    Returns:
        An estimate of the leaf's shape; entries not asked for are zero with an infinite bar.
    """
    program = Program(function, point)
    program.require_weights(weights)
    shape = np.shape(point[leaf_index])
    value, error, notes = np.zeros(shape), np.full(shape, np.inf), dict[str, None]()
    for entry in np.ndindex(shape) if entries is None else entries:
        direction = [np.zeros(np.shape(leaf)) for leaf in point]
        direction[leaf_index][entry] = 1.0
        limit = program.evaluations + _MAX_EVALUATIONS
        found = _derivative(program, direction, scaled(weights), limit)
        value[entry], error[entry] = found.value, found.error
        notes.setdefault(found.note)
    return Estimate(value, error, program.evaluations, "; ".join(filter(None, notes)))


def _derivative(
    program: Program, direction: Sequence[Array], weights: Scaled, limit: int
) -> Estimate:
    unit = scaled(direction)
    if unit.is_zero or weights.is_zero:
        return Estimate(np.asarray(0.0), np.asarray(0.0), program.evaluations)
    if not np.isfinite(program.outputs).all():
        return _abstain("the outputs at the point are not finite", program)
    line = Line(program, unit.arrays, flat(weights.arrays))
    with np.errstate(all="ignore"):
        line.measure_noise()
        search = _Search(line, limit)
        footing = search.footing()
        found = None if footing is None else search.refine(footing)
        if footing is None or found is None:
            return _abstain(search.trouble, program)
        if search.slope_jumps():
            return _abstain("the slope jumps at the point, on an unrecorded branch", program)
        bar = max(found.bar, search.contradiction(found, footing.probe))
    exponent = weights.exponent + unit.exponent
    # The spacing of the smallest numbers: nothing below it can be told from zero.
    error = rescale(bar, exponent) + math.ulp(0.0)
    value = np.asarray(rescale(found.value, exponent))
    return Estimate(value, np.asarray(error), program.evaluations, program.note)


def _abstain(why: str, program: Program) -> Estimate:
    note = "; ".join(filter(None, (why, program.note)))
    return Estimate(np.asarray(0.0), np.asarray(np.inf), program.evaluations, note)


@dataclass(frozen=True)
class _Footing:
    """Rough slopes known from ``probe``, and the step to start the extrapolation from."""

    probe: Row
    step: float


class _Search:
    """Rows along one line: where they may start, and what they extrapolate to."""

    def __init__(self, line: Line, limit: int) -> None:
        self._line = line
        self._limit = limit
        self._eps = line.program.eps
        self._accepted: list[Row] = []
        self.trouble = "no step is both large enough and small enough"

    def footing(self) -> _Footing | None:
        """Probe with short steps, then longer ones where rounding asks for it."""
        first, last = self._line.reaches()
        # Beyond the rounding of every entry at the start; it need not be so of all in the end.
        step, ceiling = max(self._eps**0.25, self._eps**0.5 * first), math.inf
        smallest = 1e3 * self._eps * (min(1.0, last) or 1.0)
        probe: Row | None = None
        bent: Row | None = None
        while self._affordable() and step >= smallest:
            row = self._row(step)
            if row is None and self._at_kink():
                return None
            if row is None or self._is_too_far(row, probe):
                ceiling = step
                if probe is not None:
                    return _Footing(probe, max(math.sqrt(step * probe.step), probe.step))
                if row is not None and bent is not None and _is_parabola(bent, row):
                    return _Footing(bent, max(bent.step, min(_FIRST_STEP, _reach(bent, row))))
                bent, step = row, step / _SHRINK
                continue
            probe = row
            goal, is_certain = self._goal(row)
            goal = min(goal, ceiling / 2)
            if is_certain or goal <= 4 * row.step:
                return _Footing(probe, max(goal, row.step))
            step = goal
        return None if probe is None else _Footing(probe, probe.step)

    def refine(self, footing: _Footing) -> Extrapolated | None:
        """Extrapolate from ``footing`` until rounding dominates or nothing improves any more."""
        best: Extrapolated | None = None
        step, rows, idle = footing.step, list[Row](), 0
        smallest = footing.probe.step / _SHRINK**2
        while self._affordable() and step >= smallest:
            row = self._row(step)
            if row is None or _contradicts(row, footing.probe):
                best, rows, step = None, [], step / 2.5
                continue
            rows.append(row)
            self._accepted = [footing.probe, *rows]
            step = row.step / _RATIO
            if len(rows) < 2:
                continue
            found = extrapolate(
                [r.step for r in rows], [r.slope for r in rows], [r.blur for r in rows]
            )
            idle = 0 if best is None or found.bar < best.bar else idle + 1
            best = found if best is None or found.bar < best.bar else best
            if best.disagreement <= best.rounding or idle >= _PATIENCE:
                break
        return best

    def contradiction(self, found: Extrapolated, probe: Row) -> float:
        """How far ``found`` is from ``probe``, if that is more than the probe's own error."""
        farthest = max(self._accepted, key=lambda row: row.step)
        curved = abs(farthest.slope - found.value) * (probe.step / farthest.step) ** 2
        gap = abs(found.value - probe.slope)
        return gap if gap > 4 * (probe.blur + curved) else 0.0

    def slope_jumps(self) -> bool:
        """True if the two one-sided slopes at the point differ.

        Their difference tends to zero with the step on a smooth line; the shortest step shows what
        is left of it, the longest how much of that is curvature.
        """
        near = min(self._accepted, key=lambda row: row.step)
        far = max(self._accepted, key=lambda row: row.step)
        ratio = near.step / far.step
        jump = norm(near.bends - ratio * far.bends)
        return jump > 8 * (ratio * far.bend + near.blur)

    def _row(self, step: float) -> Row | None:
        row = self._line.row(step)
        if row is None and self._line.program.trouble:
            self.trouble = f"no step is small enough: {self._line.program.trouble}"
        return row

    def _affordable(self) -> bool:
        return self._line.program.evaluations + 2 <= self._limit

    def _at_kink(self) -> bool:
        departure = self._line.program.departure
        if departure is None or not departure.from_tie:
            return False
        self.trouble = f"the point lies exactly on a kink: {departure.event}"
        return True

    def _is_too_far(self, row: Row, probe: Row | None) -> bool:
        """True if curvature dominates ``row``, or if it contradicts ``probe``."""
        if probe is not None and _contradicts(row, probe):
            return True
        return _is_bent(row) and row.bend > 4 * row.blur

    def _goal(self, row: Row) -> tuple[float, bool]:
        """The step that rounding asks for and curvature allows; false if ``row`` cannot tell."""
        if row.size <= 4 * row.blur:
            return _FIRST_STEP, row.size == 0
        needed = max(_FIRST_STEP, row.step * row.blur / row.size / (_ENOUGH * self._eps))
        bend = max(row.bend, row.blur)
        allowed = 0.5 * row.step * row.size / bend if bend > 0 else math.inf
        return min(needed, allowed), needed <= _FIRST_STEP or row.bend > 4 * row.blur


def _is_bent(row: Row) -> bool:
    return row.bend > 0.5 * row.size


def _is_parabola(longer: Row, shorter: Row) -> bool:
    """True at a stationary point: both rows see curvature only, and the same one.

    Central differences are blind to it, so the longer row is not too far out at all.
    """
    expected = longer.bends * (shorter.step / longer.step)
    same = norm(shorter.bends - expected) <= 0.3 * shorter.bend + 4 * shorter.blur
    return same and norm(longer.slopes - shorter.slopes) <= 0.1 * longer.bend


def _reach(longer: Row, shorter: Row) -> float:
    """The step at which what a central difference does see grows to half the curvature."""
    cubic = norm(longer.slopes - shorter.slopes) + shorter.blur
    return 0.5 * longer.step * longer.bend / cubic if cubic > 0 else math.inf


def _contradicts(row: Row, probe: Row) -> bool:
    """True if the slopes of a longer ``row`` are not those of ``probe``, roughly."""
    size = probe.size
    if _is_bent(probe):
        size = max(size, 0.25 * probe.bend * row.step / probe.step)
    return norm(row.slopes - probe.slopes) > 0.4 * size + 4 * probe.blur
