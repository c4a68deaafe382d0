"""Directional derivatives by extrapolated central differences, each with an error bar.

``L(s) = Σ_k <weights_k, outputs_k(point + s·direction)>``, wanted is ``dL/ds`` at ``s = 0``.

1. The branches taken at the point are recorded; only points on the same branches are used.
2. The noise of ``L`` is measured, not only assumed.
3. A probe with a short step gives rough slopes; its curvature tells how far the first row may go.
   A first row that contradicts the probe is too far out, whatever its neighbours say.
4. Ridders' extrapolation, until rounding is all that is left.
5. What the extrapolation found must agree with the probe, and the one-sided slopes with each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles._line import Line
from bpttcheck.oracles._program import Program
from bpttcheck.oracles._search import Search
from bpttcheck.oracles._weighted import Scaled, flat, require_like, rescale, scaled
from bpttcheck.oracles.estimate import Estimate
from bpttcheck.oracles.recording import Function

Array = NDArray[Any]

_MAX_EVALUATIONS = 48


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
        point: floating leaves of any shape; evaluated in float64 where the code lets them be.
        direction: the shapes of ``point``; zero where a leaf is not perturbed.
        weights: the shapes of the outputs.
        max_evaluations: forward evaluations at most; 14 to 20 are usual.
        enough: a bar, relative to the rough slope, at which to stop; 0: as narrow as it gets.

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
    return _derivative(program, direction, scaled(weights), max_evaluations, enough)


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
    program: Program, direction: Sequence[Array], weights: Scaled, limit: int, enough: float = 0.0
) -> Estimate:
    unit = scaled(direction)
    if unit.is_zero or weights.is_zero:
        return Estimate(np.asarray(0.0), np.asarray(0.0), program.evaluations)
    if not np.isfinite(program.outputs).all():
        return _abstain("the outputs at the point are not finite", program)
    line = Line(program, unit.arrays, flat(weights.arrays))
    with np.errstate(all="ignore"):
        line.measure_noise()
        search = Search(line, limit, enough)
        found = search.estimate()
        if found is None:
            return _abstain(search.trouble, program)
    exponent = weights.exponent + unit.exponent
    # The spacing of the smallest numbers: nothing below it can be told from zero.
    error = rescale(found.bar, exponent) + math.ulp(0.0)
    value = np.asarray(rescale(found.value, exponent))
    return Estimate(value, np.asarray(error), program.evaluations, program.note)


def _abstain(why: str, program: Program) -> Estimate:
    note = "; ".join(filter(None, (why, program.note)))
    return Estimate(np.asarray(0.0), np.asarray(np.inf), program.evaluations, note)
