"""Directional derivatives by the complex step, where every operation is complex-analytic.

For an analytic ``L`` and real ``point`` and ``direction``::

    L(point + i h direction) = L(point) + i h dL/ds + O(h²)

so ``dL/ds = Im L / h`` with no difference of nearby numbers, and ``h`` so small that ``h²`` is lost
in the rounding. What remains is the rounding of the forward derivative, operation by operation.

The bar. A first-order error analysis of the forward derivative gives ``Σ_ops (∂ dL/ds / ∂ r)·δ_r``
over all intermediate results ``r``, each off by ``δ_r <= eps·|r|``. It is sampled, not bounded: the
derivative is computed again from a point, a direction and intermediate results (real and imaginary
parts apart) each disturbed by up to one ``eps``, and the bar is the root mean square of the
changes. Cancellation inside a sum shows through its disturbed terms. Results are also disturbed by
what underflow may have swallowed, and the repetitions use other steps ``h``. The bar is at least
the rounding of the last sum, ``eps·sqrt(Σ_k (w_k Im o_k / h)²)``, and its underflow.

Source: Squire and Trapp (1998), SIAM Review 40(1), 110-112; the sampling is Monte Carlo arithmetic,
Parker (1997), UCLA CSD-970002.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.errors import Declined
from bpttcheck.oracles._analytic import EXACT, Analytic, Jitter, unwrap
from bpttcheck.oracles.branches.recording import Function, plain
from bpttcheck.oracles.branches.user_line import Line, is_the_user
from bpttcheck.oracles.differences.weighted import flat, norm, require_like, rescale, scaled, total
from bpttcheck.oracles.estimate import Estimate

Array = NDArray[Any]
Vector = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
# Powers of two, so that scaling by a step is exact. Short enough that its square is nothing beside
# any rounding, long enough that small tangents are far from underflow.
_STEP = 2.0**-200
_OTHER_STEPS = (2.0**-100, 2.0**-332, 2.0**-500)
# Relative to the largest output: beyond it the complex run computes something else.
_SAME = 1e-6


def complex_step(
    function: Function,
    point: Sequence[Array],
    direction: Sequence[Array],
    weights: Sequence[Array],
    h: float = _STEP,
) -> Estimate:
    """The derivative of the weighted outputs along ``direction``, by the complex step.

    Args:
        function: takes the leaves, returns a list of arrays; plain NumPy inside. Leaves whose
            direction is zero arrive as plain arrays.
        point: floating leaves of any shape; evaluated in float64.
        direction: the shapes of ``point``.
        weights: the shapes of the outputs.
        h: the step.

    Returns:
        A scalar estimate. It abstains, with a note, where the outputs or their derivatives are not
        finite.

    Raises:
        Declined: if a value that depends on the perturbed leaves meets an operation that is not on
            the whitelist of analytic ones; it names the user's line.
        ContractError: if the shapes of ``direction`` or ``weights`` do not fit.
    """
    require_like("direction", direction, "the point", point)
    leaves = [np.asarray(leaf, np.float64) for leaf in point]
    native = plain(function, leaves)
    require_like("weights", weights, "the outputs", native)
    unit, weight = scaled(direction), scaled(weights)
    w = flat(weight.arrays)
    if unit.is_zero or weight.is_zero:
        return Estimate(np.asarray(0.0), np.asarray(0.0), 1)
    if not np.isfinite(flat(native)).all():
        return _abstain("the outputs at the point are not finite", 1)
    terms = w * _slopes(function, leaves, unit.arrays, h, EXACT, flat(native))
    value = total(terms)
    changes = [
        total(w * _slopes(function, leaves, unit.arrays, step, _noise(seed), None)) - value
        for seed, step in enumerate(_OTHER_STEPS)
    ]
    bar = _bar(changes, terms, math.ulp(0.0) / h * norm(w))
    evaluations = 2 + len(changes)
    if not np.isfinite(value) or not np.isfinite(bar):
        return _abstain("the derivatives of the outputs are not finite", evaluations)
    exponent = unit.exponent + weight.exponent
    # The spacing of the smallest numbers: nothing below it can be told from zero.
    error = rescale(bar, exponent) + math.ulp(0.0)
    return Estimate(np.asarray(rescale(value, exponent)), np.asarray(error), evaluations)


def _bar(changes: list[float], terms: Vector, underflow: float) -> float:
    """The root mean square of ``changes``, or the rounding and underflow of the last sum."""
    spread = math.hypot(*changes) / math.sqrt(len(changes))
    return max(spread, _EPS * norm(terms), underflow)


def _abstain(note: str, evaluations: int) -> Estimate:
    return Estimate(np.asarray(0.0), np.asarray(np.inf), evaluations, note)


def _noise(seed: int) -> Jitter:
    return Jitter(np.random.default_rng(seed), _EPS)


def _slopes(
    function: Function,
    point: Sequence[Array],
    direction: Sequence[Array],
    h: float,
    jitter: Jitter,
    native: Vector | None,
) -> Vector:
    """The derivative of every output entry along ``direction``; compares real parts on request."""
    leaves: list[Any] = []
    for leaf, d in zip(point, direction, strict=True):
        z = jitter(np.asarray(leaf + 1j * h * d, np.complex128))
        if d.any():
            leaves.append(Analytic(z, jitter))
        else:
            # Whole numbers are masks and counts: exact, and compared with.
            leaves.append(np.where(leaf == np.rint(leaf), leaf, z.real))
    values = np.concatenate([np.zeros(0), *(np.ravel(output) for output in _run(function, leaves))])
    if native is not None:
        gap = np.abs(values.real - native)
        # Where the native value is zero, what the step leaves is of its own size.
        largest = np.max(np.abs(native), initial=0.0)
        if gap.shape != native.shape or not np.all(gap <= _SAME * largest + h):
            raise Declined("the code computes other values on complex-step numbers")
    return values.imag / h


def _run(function: Function, leaves: list[Any]) -> list[Array]:
    try:
        with np.errstate(all="ignore"):
            outputs = function(leaves)
    except Exception as error:
        refusal = _refusal_behind(error)
        if refusal is not None:
            raise refusal from None
        lines = traceback.extract_tb(error.__traceback__)
        user = [frame for frame in lines if is_the_user(frame.filename)]
        raise Declined(
            f"the code does not run on complex-step numbers: {type(error).__name__}: {error}",
            where=str(Line(user[-1].filename, user[-1].lineno or 0)) if user else "",
        ) from error
    arrays = [unwrap(output) for output in outputs]
    for given, array in zip(outputs, arrays, strict=True):
        if not isinstance(given, Analytic) and np.asarray(array).dtype.kind == "c":
            raise Declined("an output is a complex array of the code's own")
    return arrays


def _refusal_behind(error: BaseException | None) -> Declined | None:
    """NumPy hides what a conversion raised behind an error of its own."""
    while error is not None and not isinstance(error, Declined):
        error = error.__cause__ or error.__context__
    return error
