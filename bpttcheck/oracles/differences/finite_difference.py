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
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.branches.recording import Function
from bpttcheck.oracles.differences.line import Line, leaf_scale
from bpttcheck.oracles.differences.program import NativeProgram
from bpttcheck.oracles.differences.search import Search
from bpttcheck.oracles.differences.weighted import Scaled, flat, norm, require_like, rescale, scaled
from bpttcheck.oracles.estimate import Estimate

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
