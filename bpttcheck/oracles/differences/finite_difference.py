"""Directional derivatives by extrapolated central differences, each with an error bar.

The derivative ``dL/ds`` at ``s = 0`` of ``L(s) = Σ_k <weights_k, outputs_k(point + s·direction)>``:

1. The branches taken at the point are recorded; only points on the same branches are used.
2. The rounding noise of ``L`` is measured, not only assumed.
3. A probe with a short step gives rough slopes; its curvature bounds the step of the first row.
   A first row that contradicts the probe has too long a step, even if the next rows agree with it.
4. Ridders' extrapolation, until only rounding is left.
5. The result must agree with the probe, and the one-sided slopes with each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.branches.recording import Function
from bpttcheck.oracles.differences.line import Extrapolated, Line, Row, Tableau, leaf_scale
from bpttcheck.oracles.differences.program import NativeProgram
from bpttcheck.oracles.differences.weighted import Scaled, flat, norm, require_like, rescale, scaled
from bpttcheck.oracles.estimate import Estimate

# All steps are in units of the direction's largest entry.
_FIRST_STEP = 0.5  # first step of the extrapolation, unless curvature or noise require another
_RATIO = 1.7  # ratio of successive steps: near 1 it amplifies noise, far above it reaches noise
_SHRINK = 16.0  # after a probe that failed
_PART = 0.5  # of its own size by which a leaf may move, after a probe that failed
_BACK = 2.5  # after a row that is too far out
_FAR_BACK = 6.0  # after a probe that was
_ENOUGH = 100.0  # relative rounding, in units of eps, at which longer steps bring little more
_PATIENCE = 2  # rows without progress
_ERRATIC = 30.0  # times the rounding: a larger disagreement has another cause
_COARSE = 1e-3  # relative bar that is not good enough to stop at


@dataclass(frozen=True)
class _Footing:
    """Rough slopes known from ``probe``, and the step to start the extrapolation from."""

    probe: Row
    step: float


class Search:
    """Rows along one line: the step to start from, and the limit of their extrapolation.

    Attributes:
        trouble: why there is no estimate.
        hull: the one-sided slopes, if a jump of the slope at the point is why.
        stair: the height of a jump in the outputs that the rows reached; 0 without one.
        hidden: the slope that constant or noisy outputs may hide; a part of the bar.
        longest: longer steps cross a kink; the search must start below.
        erratic: true if the rows disagree far more than rounding explains.
        unsettled: the outputs, if any, that the rows do not resolve although their sum is.
    """

    def __init__(
        self, line: Line, limit: float, enough: float = 0.0, longest: float = math.inf
    ) -> None:
        self._line = line
        self._limit = limit
        self._enough = enough
        self._eps = line.program.eps
        # The rows that the answer rests on; initialised before there is an answer.
        self._probe: Row
        self._rows: list[Row]
        self.trouble = "no step is both large enough and small enough"
        self.hull: tuple[float, float] | None = None
        self.stair = 0.0
        self.hidden = 0.0
        self.erratic = False
        self.unsettled: Flags | None = None
        self.longest = longest

    def estimate(self) -> Extrapolated | None:
        """The derivative at the point, or ``None`` with ``trouble`` set."""
        footing = self._footing()
        found = None if footing is None else self._refined(footing)
        if found is None:
            self._look_for_jump()
            return None
        self.stair = stair_height(self._line, self._rows)
        if self.stair > self._line.noise:
            return None
        loose = unsettled(self._rows)
        if loose.any():
            self.unsettled = loose
            return None
        if self._slope_jumps() or self._crosses_kink():
            return None
        self.hidden = max(
            plateau_bar(self._line, self._rows), unresolved_bar(self._line, self._rows)
        )
        self.erratic = found.disagreement > _ERRATIC * max(
            found.rounding, self._enough * self._probe.size
        )
        return replace(found, disagreement=max(found.disagreement, self._contradiction(found)))

    def _footing(self) -> _Footing | None:
        """Probe with short steps, then with longer ones where rounding requires it."""
        first, last = self._line.reaches()
        # At first beyond the rounding of every entry; later rows need not be.
        step = min(self.longest, max(self._eps**0.25, self._eps**0.5 * first))
        ceiling = 2 * self.longest
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
                    return _Footing(probe, _between(probe, row, step))
                if row is not None and bent is not None and _is_parabola(bent, row):
                    goal = min(_FIRST_STEP, self.longest, _reach(bent, row))
                    return _Footing(bent, max(bent.step, goal))
                bent, step = row, self._shorter(step)
                continue
            probe = row
            goal, is_certain = self._goal(row)
            goal = min(goal, ceiling / 2)
            if is_certain or goal <= 4 * row.step:
                return _Footing(probe, max(goal, row.step))
            step = goal
        return None if probe is None else _Footing(probe, probe.step)

    def _refined(self, footing: _Footing) -> Extrapolated | None:
        """Extrapolate from ``footing`` until rounding dominates or nothing improves."""
        best: Extrapolated | None = None
        probe, step, rows, idle = footing.probe, footing.step, list[Row](), 0
        tableau = Tableau()
        while self._affordable() and step >= probe.step / _SHRINK**2:
            row = probe if step == probe.step and not rows else self._row(step)
            if row is None or _contradicts(row, probe):
                # Of two contradictory rows the one with the longer step is wrong.
                misled = row is not None and row.step < probe.step
                probe = row if row is not None and misled else probe
                best, rows, tableau = None, [], Tableau()
                step /= _FAR_BACK if misled else _BACK
                continue
            if rows and row.step >= rows[-1].step:
                break  # the steps are as short as the spacing of the point
            rows.append(row)
            step = row.step / _RATIO
            found = tableau.add(row.step, row.slope, row.blur)
            if len(rows) < 2:
                continue
            improved = best is None or found.bar < best.bar
            if best is None or improved:
                best, self._probe, self._rows = found, probe, rows.copy()
            # Rows whose steps are all too long do not improve either: that is no reason to stop.
            idle = 0 if improved or best.bar > _COARSE * probe.size else idle + 1
            done = best.disagreement <= best.rounding or best.bar <= self._enough * probe.size
            if done or idle >= _PATIENCE:
                break
        return best

    def _contradiction(self, found: Extrapolated) -> float:
        """How far ``found`` is from the probe, if that is more than the probe's own error."""
        probe, far = self._probe, self._rows[0]
        curved = abs(far.slope - found.value) * (probe.step / far.step) ** 2
        gap = abs(found.value - probe.slope)
        return gap if gap > 4 * (probe.blur + curved) else 0.0

    def _slope_jumps(self) -> bool:
        """True if the two one-sided slopes at the point differ."""
        known = [self._probe, *(row for row in self._rows if row is not self._probe)]
        self.hull = jump_at_point(known)
        if self.hull is None:
            return False
        self.trouble = "the slope jumps at the point, on a branch that was not recorded"
        return True

    def _look_for_jump(self) -> None:
        """Record the one-sided slopes if their difference is why no step works."""
        known = sorted(self._line.rows, key=lambda row: row.step)
        departure = self._line.program.departure
        if len(known) > 1 and departure is None:
            self._probe, self._rows = known[0], known[1:]
            self._slope_jumps()

    def _crosses_kink(self) -> bool:
        """True if the rows show a jump, and rows of shorter steps show none or a smaller one."""
        if not crosses_kink(self._rows):
            return False
        shortest = min(self._probe.step, self._rows[-1].step)
        row = self._row(shortest / _SHRINK)
        if row is None or row.step > shortest / 2:
            return False
        self._probe = row
        if not self._slope_jumps():
            self.longest = row.step
            self.trouble = "the slope jumps near the point, on a branch that was not recorded"
        return True

    def _row(self, step: float) -> Row | None:
        row = self._line.row(step)
        if row is None and self._line.program.trouble:
            self.trouble = f"no step is small enough: {self._line.program.trouble}"
        return row

    def _shorter(self, step: float) -> float:
        """After a probe that is too long: down to the scale of the next leaf."""
        scales = (_PART * scale for scale in self._line.scales())
        return min(step / _SHRINK, next((scale for scale in scales if scale < step), step))

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
        """The step that rounding requires and curvature allows; false if ``row`` cannot tell."""
        if row.size <= 4 * row.blur:
            return _FIRST_STEP, row.size == 0
        needed = max(_FIRST_STEP, row.step * row.blur / row.size / (_ENOUGH * self._eps))
        bend = max(row.bend, row.blur)
        allowed = 0.5 * row.step * row.size / bend if bend > 0 else math.inf
        return min(needed, allowed), needed <= _FIRST_STEP or row.bend > 4 * row.blur


def _between(probe: Row, row: Row | None, step: float) -> float:
    """A step between ``probe`` and one too long: by the curvature seen there, if any."""
    if row is None or row.bend == 0:
        return math.sqrt(probe.step * step)
    return max(probe.step, min(0.5 * step * probe.size / row.bend, 0.5 * step))


def _is_bent(row: Row) -> bool:
    return row.bend > 0.5 * row.size


def _is_parabola(longer: Row, shorter: Row) -> bool:
    """True at a stationary point: both rows show curvature only, and the same curvature.

    Central differences cancel it, so the longer step is not too long.
    """
    expected = longer.bends * (shorter.step / longer.step)
    same = norm(shorter.bends - expected) <= 0.3 * shorter.bend + 4 * shorter.blur
    return same and norm(longer.slopes - shorter.slopes) <= 0.1 * longer.bend


def _reach(longer: Row, shorter: Row) -> float:
    """The step at which the odd terms of a central difference reach half the curvature."""
    cubic = norm(longer.slopes - shorter.slopes) + shorter.blur
    return 0.5 * longer.step * longer.bend / cubic if cubic > 0 else math.inf


def _contradicts(row: Row, probe: Row) -> bool:
    """True if the slopes of a longer ``row`` differ clearly from those of ``probe``."""
    size = probe.size
    if _is_bent(probe):
        size = max(size, 0.25 * probe.bend * row.step / probe.step)
    return norm(row.slopes - probe.slopes) > 0.4 * size + 4 * probe.blur


Flags = NDArray[np.bool_]

_WIDTHS = 8.0  # of rounding that a change must exceed to mean anything
_OWN_WIDTHS = 32.0  # factor on a noise that was measured on few samples
_SPAN = 16.0  # between the steps that tell curvature from a jump of the slope
_STEEP = 0.1  # share of the curvature: a larger slope is not that of a stationary point
_NEXT = 1.3  # between two steps that show how a one-sided slope changes
_SLACK = 1.1  # over the change of curvature from one step to the next
_FALL = 10.0  # beyond that of a smooth function, from one row to the next
_HALVINGS = 14
_LAST = 6  # of them, in which a jump keeps
_LEFT = 1 / 4  # of its height
_EMERGED = 1e-3  # of the change: where it begins
_EIGHTH = 0.125  # share of its size by which a leaf moves to leave a plateau
_ONE = 1.0  # terms that compiled code is assumed to have added


def unsettled(rows: Sequence[Row]) -> Flags:
    """The outputs whose differences still grow as the step shrinks.

    Differences of a smooth function tend to a limit; those of a function that varies on a far
    shorter scale grow like ``1/h``, which larger outputs hide in the sum.

    Args:
        rows: those of the extrapolation, the longest first.
    """
    longer, shorter = rows[-2:]
    growth = math.sqrt(longer.step / shorter.step)
    # Each output's own noise: that of the sum would hide a small output beside a large one.
    noise = _OWN_WIDTHS * (shorter.own + longer.own)
    slopes = np.abs(shorter.slopes) > growth * np.abs(longer.slopes) + noise
    bends = np.abs(shorter.bends) > growth * np.abs(longer.bends) + noise
    moving = np.abs(shorter.slopes - longer.slopes) > noise
    # At a stationary point a small slope may change its sign from row to row.
    steep = np.abs(shorter.slopes) > _STEEP * np.abs(shorter.bends)
    return (slopes & moving & steep) | bends


def crosses_kink(rows: Sequence[Row]) -> bool:
    """True if the one-sided slopes differ by more than curvature, at the steps of ``rows``.

    Args:
        rows: those of the extrapolation, the longest first.
    """
    longer, shorter = rows[-2:]
    expected = _SLACK * np.abs(longer.bends) * (shorter.step / longer.step)
    noise = _WIDTHS * (shorter.blurs + longer.blurs)
    return bool((np.abs(shorter.bends) > expected + noise).any())


def jump_at_point(rows: Sequence[Row]) -> tuple[float, float] | None:
    """The interval between the one-sided slopes if they differ, or None.

    On a smooth line their difference tends to zero with the step. The shortest step shows what is
    left of it; steps at least 16 times longer show how much of that is curvature.
    """
    near, *others = sorted(rows, key=lambda row: row.step)
    far = [row for row in others if row.step >= _SPAN * near.step]
    if not far:
        return None
    curvature = np.max([np.abs(row.bends) / row.step for row in far], axis=0)
    jumps = np.abs(near.bends) > _WIDTHS * (0.5 * curvature * near.step + near.blurs)
    if not jumps.any() and near.bend <= _WIDTHS * (norm(curvature) * near.step + near.blur):
        return None
    return _hull(near, next(row for row in others if row.step >= _NEXT * near.step))


def stair_height(line: Line, rows: Sequence[Row]) -> float:
    """The norm of the jumps of the outputs between the steps of ``rows`` and longer ones.

    A program that rounds internally is constant on every tread, so differences on one tread agree
    perfectly. Longer steps were rejected or not tried. Zero if the rows differ smoothly.
    """
    known = sorted(line.rows, key=lambda row: row.step)
    last = rows[-1]
    for shorter, longer in pairwise(known):
        if shorter.step <= last.step:
            continue
        fall = _FALL * (longer.step / shorter.step) ** 2
        left = np.maximum(np.abs(shorter.slopes - last.slopes), shorter.blurs + last.blurs)
        gone = np.abs(longer.slopes - last.slopes)
        mask = (gone > fall * left) & (gone > _WIDTHS * longer.blurs)
        if mask.any():
            height = _jump(line, mask, last, shorter.step, longer)
            if height > line.noise:
                return height
    return _plateau(line, known)


def plateau_bar(line: Line, rows: Sequence[Row]) -> float:
    """The slope a plateau can hide: a rounding error per constant output over the longest step."""
    flat = _flat(line, rows)
    if not flat.any():
        return 0.0
    size = np.maximum(np.abs(line.program.outputs[flat]), _ONE)
    # A leaf that moves by more than its own size may be far from the point.
    longest = min([max(row.step for row in rows), *line.scales()])
    return line.program.eps * norm(line.weights[flat] * size) / longest


def unresolved_bar(line: Line, rows: Sequence[Row]) -> float:
    """The slope that rounding can hide on the scale of the smallest leaf.

    A slope that is lost in rounding does not reveal the scale on which the outputs vary: this may
    be that of the smallest leaf, however long the steps were.
    """
    last = rows[-1]
    shortest = min([last.step, *line.scales()])
    if last.size > _WIDTHS * last.blur or (line.traced.all() and not line.noise):
        return 0.0
    return last.blur * last.step / shortest


def _plateau(line: Line, known: Sequence[Row]) -> float:
    """The height of the step at the end of a plateau, if that is more than rounding."""
    flat = _flat(line, known)
    if not flat.any():
        return 0.0
    # A format rounds in proportion: a change of an eighth shows in any.
    last, enough = known[-1], _EIGHTH * max(line.scales(), default=0.0)
    longer = line.row(enough) if last.step < enough / 2 else None
    if longer is None:
        return 0.0
    line.rows.remove(longer)
    mask = flat & ((longer.slopes != 0) | (longer.bends != 0))
    if not mask.any():
        return 0.0
    height = _jump(line, mask, known[0], last.step, longer)
    size = np.maximum(np.abs(line.program.outputs[mask]), _ONE)
    floor = line.program.eps * norm(line.weights[mask] * size)
    return height if height > _WIDTHS * floor else 0.0


def _flat(line: Line, rows: Sequence[Row]) -> Flags:
    flat = (line.weights != 0) & ~line.traced
    for row in rows:
        flat &= (row.slopes == 0) & (row.bends == 0)
    return flat


def _jump(line: Line, mask: Flags, near: Row, start: float, far: Row) -> float:
    """The norm of the change that remains as its interval is halved again and again."""
    sides = [far.slopes + side * far.bends / 2 for side in (1, -1)]
    side = 1 if norm((sides[0] - near.slopes)[mask]) >= norm((sides[1] - near.slopes)[mask]) else -1

    def departure(step: float) -> Vector | None:
        change = line.change(side * step)
        return None if change is None else (change - side * step * near.slopes)[mask]

    low, high = start, far.step
    before, after = departure(low), departure(high)
    if before is None or after is None:
        return 0.0
    whole = norm(after - before)
    threshold = max(_EMERGED * whole, 4 * line.noise)
    while high > 2 * low:
        middle = math.sqrt(low * high)
        found = departure(middle)
        if found is None:
            return 0.0
        if norm(found) > threshold:
            high, after = middle, found
        else:
            low, before = middle, found
    heights = [norm(after - before)]
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        found = departure(middle)
        if found is None:
            return 0.0
        if norm(after - found) >= norm(found - before):
            low, before = middle, found
        else:
            high, after = middle, found
        heights.append(norm(after - before))
    # A change of slope within the interval halves with it, once located.
    return heights[-1] if heights[-1] > _LEFT * heights[-1 - _LAST] else 0.0


def _hull(near: Row, far: Row) -> tuple[float, float]:
    """The interval between the slopes on either side, per output, extrapolated to the point."""
    share = near.step / (far.step - near.step)
    sides = [near.slopes + sign * near.bends / 2 for sign in (1, -1)]
    steps = [
        share * (side - (far.slopes + sign * far.bends / 2))
        for side, sign in zip(sides, (1, -1), strict=True)
    ]
    ends = [side + step for side, step in zip(sides, steps, strict=True)]
    slack = sum(float(np.abs(step).sum()) for step in steps) + _WIDTHS * near.blur
    low, high = np.minimum(*ends).sum(), np.maximum(*ends).sum()
    return float(low - slack), float(high + slack)


Array = NDArray[Any]

Vector = NDArray[np.float64]

_MAX_EVALUATIONS = 160
_A_SEARCH = 48  # of them, at most
_AGAIN = 3  # searches, each with the noise found by the one before
_PRECISE = 1e-6  # relative bar at which a common step is good enough for all leaves
_APART = 1e4  # between the scales of leaves that get steps of their own
_CAREFULLY = range(2, 7)  # further runs with rounding errors, of what seems to be constant
_SHORT = 1e-5  # the interval on which the rounding of compiled code is measured
_LIFT = 1000  # the largest power of two that weights are multiplied by
_JITTER = 1e-4  # of the outputs: a larger difference between runs is not rounding


def finite_difference(
    function: Function,
    point: Sequence[Array],
    direction: Sequence[Array],
    weights: Sequence[Array],
    *,
    max_evaluations: int = _MAX_EVALUATIONS,
    enough: float = 0.0,
) -> Estimate:
    """The derivative of the weighted outputs along ``direction``, by differences.

    Args:
        function: takes the leaves, returns a list of arrays; plain NumPy inside.
        point: floating leaves of any shape; evaluated in float64 where the code accepts it.
        direction: the shapes of ``point``; zero where a leaf is not perturbed.
        weights: the shapes of the outputs.
        max_evaluations: forward evaluations at most; 14 to 20 are usual.
        enough: a bar, relative to the rough slope, at which to stop; 0: as narrow as possible.

    Returns:
        A scalar estimate. It abstains, with a note, at a kink, where values are not finite, and
        where no step is both large enough for the precision and small enough for the branches.

    Raises:
        ContractError: if the shapes of ``direction`` or ``weights`` do not fit.

    Source: Ridders (1982), Advances in Engineering Software 4(2), 75-76.
    """
    require_like("direction", direction, "the point", point)
    program = NativeProgram(function, point)
    program.require_weights(weights)
    program.limit = max_evaluations
    return _derivative(program, direction, scaled(weights), enough)


def _derivative(
    program: NativeProgram, direction: Sequence[Array], weights: Scaled, enough: float = 0.0
) -> Estimate:
    pairs = zip(direction, program.point, strict=True)
    unit = scaled([np.where(np.isfinite(at), d, 0.0) for d, at in pairs])
    if weights.is_zero or not any(np.any(d) for d in direction):
        return Estimate(np.asarray(0.0), np.asarray(0.0), program.evaluations)
    if unit.is_zero:
        return _abstain("the point is not finite where it would be moved", program)
    w, lift = _near_one(flat(weights.arrays), program.outputs)
    program.matters = w != 0
    if not np.isfinite(program.outputs[program.matters]).all():
        return _abstain("the outputs at the point are not finite", program)
    with np.errstate(all="ignore"):
        answer = _along(program, unit.arrays, w, enough)
    exponent = weights.exponent + unit.exponent - lift
    if not np.isfinite(answer.bar):
        return _abstain(answer.trouble or "no two steps agree", program, answer.hull, exponent)
    # The spacing of the smallest numbers: anything below it is indistinguishable from zero.
    error = rescale(answer.bar, exponent) + math.ulp(0.0)
    value = np.asarray(rescale(answer.value, exponent))
    if not np.isfinite(value):
        return _abstain("the derivative overflows", program)
    return Estimate(value, np.asarray(error), program.evaluations, program.note)


def _near_one(weights: Vector, outputs: Vector) -> tuple[Vector, int]:
    """Weights times the power of two that brings the weighted outputs near one."""
    with np.errstate(all="ignore"):
        largest = float(np.max(np.abs(weights * outputs), initial=0.0, where=weights != 0))
    if not 0 < largest < math.inf:
        return weights, 0
    lift = min(-math.frexp(largest)[1], _LIFT)
    return np.ldexp(weights, lift), lift


@dataclass(frozen=True)
class _Answer:
    """A slope and its bar, or an infinite bar and the reason."""

    value: float
    bar: float
    trouble: str = ""
    is_erratic: bool = False
    hull: tuple[float, float] | None = None


def _along(
    program: NativeProgram, direction: Sequence[Array], weights: Vector, enough: float
) -> _Answer:
    """The slope along one direction, split by leaves where these have no common step."""
    whole = _on_line(program, direction, weights, enough)
    parts = _groups(program.point, direction)
    precise = whole.bar <= _PRECISE * abs(whole.value)
    if precise or _is_at_tie(program) or len(parts) < 2:
        return whole
    found = [_on_line(program, part, weights, enough) for part in parts]
    bar = math.fsum(answer.bar for answer in found)
    if not bar < whole.bar:
        return whole
    return _Answer(math.fsum(answer.value for answer in found), bar)


def _on_line(
    program: NativeProgram, direction: Sequence[Array], weights: Vector, enough: float
) -> _Answer:
    line = Line(program, direction, weights)
    # Where the bar need not be narrow, one run with rounding errors is enough: a contradiction is
    # examined again with the full number.
    line.measure_noise(*((1,) if enough else ()))
    answer = _searched(line, enough)
    if _is_at_tie(program):
        return answer
    if line.never_moved and line.measure_rounding(_CAREFULLY):
        answer = _searched(line, enough)
    is_wide = np.isfinite(answer.bar) and answer.bar > _PRECISE * abs(answer.value)
    if is_wide and line.measure_floor(_SHORT):
        answer = _searched(line, enough)
    if line.measure_spread(often=answer.is_erratic):
        if line.noise > _JITTER * norm(weights * program.outputs):
            return _Answer(0.0, math.inf, "the code gives other outputs when it is run again")
        answer = _searched(line, enough)
    elif program.trouble and program.evaluations < program.limit:
        return _Answer(0.0, math.inf, f"a second run at the point differs: {program.trouble}")
    return answer


def _searched(line: Line, enough: float, depth: int = 0, longest: float = math.inf) -> _Answer:
    """The slope of a line: repeated with the measured noise, and in parts if necessary."""
    program = line.program
    search = Search(line, min(program.evaluations + _A_SEARCH, program.limit), enough, longest)
    found = search.estimate()
    if search.stair > line.noise:
        if depth >= _AGAIN:
            return _Answer(0.0, math.inf, "the outputs change in jumps")
        # Each of the two values that make a difference is off by up to a step of the staircase.
        line.expect(2 * search.stair)
        return _searched(line, enough, depth + 1)
    if search.longest < longest and depth < _AGAIN:
        return _searched(line, enough, depth + 1, search.longest)
    if search.unsettled is not None:
        masks = (search.unsettled, ~search.unsettled & (line.weights != 0))
        if depth >= _AGAIN or (not all(mask.any() for mask in masks) and depth):
            return _Answer(0.0, math.inf, "the outputs change on scales too far apart")
        parts = [
            _searched(line.restricted(to=mask), enough, _AGAIN) for mask in masks if mask.any()
        ]
        trouble = next((part.trouble for part in parts if part.trouble), "")
        return _Answer(
            math.fsum(part.value for part in parts), math.fsum(part.bar for part in parts), trouble
        )
    if found is None:
        return _Answer(0.0, math.inf, search.trouble, hull=search.hull)
    bar = math.hypot(found.bar, search.hidden)
    return _Answer(found.value, bar, is_erratic=search.erratic)


def _is_at_tie(program: NativeProgram) -> bool:
    """True if the last run departed at a branch on whose threshold the point lies."""
    return program.departure is not None and program.departure.from_tie


def _groups(point: Sequence[Array], direction: Sequence[Array]) -> list[list[Array]]:
    """The direction in parts that move leaves of similar scale; leaves of zeros join any."""
    scales = [leaf_scale(x, d) if d.any() else 0.0 for x, d in zip(point, direction, strict=True)]
    order = sorted((k for k, scale in enumerate(scales) if scale), key=lambda k: scales[k])
    groups: list[list[int]] = []
    for k in order:
        if groups and scales[k] <= _APART * scales[groups[-1][0]]:
            groups[-1].append(k)
        else:
            groups.append([k])
    rest = [k for k, d in enumerate(direction) if d.any() and not scales[k]]
    if groups:
        groups[-1] += rest
    return [
        [d if k in group else np.zeros_like(d) for k, d in enumerate(direction)] for group in groups
    ]


def _abstain(
    why: str, program: NativeProgram, hull: tuple[float, float] | None = None, exponent: int = 0
) -> Estimate:
    note = "; ".join(filter(None, (why, program.note)))
    ends = None if hull is None else (rescale(hull[0], exponent), rescale(hull[1], exponent))
    return Estimate(np.asarray(0.0), np.asarray(np.inf), program.evaluations, note, ends)
