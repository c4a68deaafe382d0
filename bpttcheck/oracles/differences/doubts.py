"""Reasons to doubt what central differences agree on.

Rows of differences can agree with each other and all be wrong: on one tread of a staircase, on both
sides of a kink, or where one output has another scale than the sum that hides it. What gives them
away stands in the rows: how each output's differences change from step to step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.differences.line import Line, Row
from bpttcheck.oracles.differences.weighted import norm

Vector = NDArray[np.float64]
Flags = NDArray[np.bool_]

_WIDTHS = 8.0  # of rounding that a change must exceed to mean anything
_OWN_WIDTHS = 32.0  # of a noise that was measured on few samples
_SPAN = 16.0  # between the steps that tell curvature from a jump of the slope
_STEEP = 0.1  # of the curvature: a slope that is not a stationary point's
_NEXT = 1.3  # between two steps that show how a one-sided slope changes
_SLACK = 1.1  # over the change of curvature from one step to the next
_FALL = 10.0  # beyond that of a smooth function, from one row to the next
_HALVINGS = 14
_LAST = 6  # of them, in which a jump keeps
_LEFT = 1 / 4  # of its height
_EMERGED = 1e-3  # of the change: where it begins
_EIGHTH = 0.125  # of its size by which a leaf moves, to leave a plateau
_ONE = 1.0  # what compiled code is taken to have added, when it does not show its numbers


def unsettled(rows: Sequence[Row]) -> Flags:
    """The outputs whose differences still grow as the step shrinks.

    Differences of a smooth function tend to a limit, those of one that changes on a far shorter
    scale grow like ``1/h``; beside larger outputs nobody sees it in the sum.

    Args:
        rows: those of the extrapolation, the longest first.
    """
    longer, shorter = rows[-2:]
    growth = math.sqrt(longer.step / shorter.step)
    # Each output's own noise: beside a large output that of the sum would hide the small one.
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


def jump_at_point(line: Line, rows: Sequence[Row]) -> tuple[float, float] | None:
    """The interval between the one-sided slopes if they differ, or None.

    Their difference tends to zero with the step on a smooth line; the shortest step shows what is
    left of it, steps at least 16 times longer how much of that is curvature.
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
    """The norm of the jumps that outputs take between the steps of ``rows`` and longer ones.

    A program that rounds inside is constant on every tread: differences on one tread agree
    perfectly. Longer steps were rejected, or not tried. Zero if what separates the rows is smooth.
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
    """What a plateau can hide: a rounding error of every constant output over the longest step."""
    flat = _flat(line, rows)
    if not flat.any():
        return 0.0
    size = np.maximum(np.abs(line.program.outputs[flat]), _ONE)
    # Beyond its own size a leaf may have left the place where the derivative is wanted.
    longest = min([max(row.step for row in rows), *line.scales()])
    return line.program.eps * norm(line.weights[flat] * size) / longest


def unresolved_bar(line: Line, rows: Sequence[Row]) -> float:
    """What rounding hides on the scale of the smallest leaf where it drowns the slope.

    A slope that is lost in rounding says nothing of the scale on which the outputs change: it may
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
    """The norm of the change that remains however short the interval in which it happens."""
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
    # A slope that sets in on the interval halves with it once it is found.
    return heights[-1] if heights[-1] > _LEFT * heights[-1 - _LAST] else 0.0


def _hull(near: Row, far: Row) -> tuple[float, float]:
    """Between the slopes on either side, output by output, each extrapolated to the point."""
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
