"""How far a gradient flows back: norms of the products of Jacobians, and their bounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bpttcheck import activations
from bpttcheck.bptt.jacobian import derivatives, layout_of
from bpttcheck.bptt.unroll import CellTape, unroll
from bpttcheck.cells import Elman
from bpttcheck.contract import Array, Cell, Params, State

SATURATED = 1e-2
"""A unit that a change of size 1 moves by less than this is saturated."""

CHANGED = 10.0
"""By what factor the norm must change over the sequence to be called vanishing or exploding."""

ELMAN_BOUND = "(||W|| max|f'|)^d"
STEPS_BOUND = "product of the one-step norms"


@dataclass(frozen=True, eq=False)
class Flow:
    """The products of Jacobians from the last state back, by the distance ``d = 0 .. T`` in steps.

    Norms are spectral norms, the largest singular values. They are kept as binary logarithms too,
    which stay finite where the number itself is 0 or inf. A product that meets an infinite or NaN
    Jacobian has the norm NaN.

    Args:
        log2_norms: ``(T+1, B)``, of ``||dstate[T] / dstate[T-d]||``; minus infinity for 0.
        log2_bounds: ``(T+1, B)``, of its bound.
        bound_name: what the bound is, as a formula in ``d`` or in words.
        singular_values: ``(T+1, B, S)`` of ``dstate[T] / dstate[T-d]``, largest first.
        log2_gradients: ``(T+1, B)``, of ``||dL/dstate[T-d]||`` for ``dL/dstate[T]`` with all
            entries ``1/sqrt(S)``.
        saturated: ``(T, B)``, the share of saturated units in each step, in order of time: those
            with ``||dstate'_i / d(state, x)|| < SATURATED``. NaN where the step is masked.
    """

    log2_norms: Array
    log2_bounds: Array
    bound_name: str
    singular_values: Array
    log2_gradients: Array
    saturated: Array

    @property
    def norms(self) -> Array:
        """``(T+1, B)``: ``||dstate[T] / dstate[T-d]||``."""
        return self.singular_values[:, :, 0]

    @property
    def bounds(self) -> Array:
        """``(T+1, B)``: at least the norm, up to rounding."""
        return _exp2(self.log2_bounds)

    @property
    def gradients(self) -> Array:
        """``(T+1, B)``: ``||dL/dstate[T-d]||``."""
        return _exp2(self.log2_gradients)

    @property
    def verdict(self) -> str:
        """``"vanishes"``, ``"explodes"`` or ``"neither"``, or ``"no answer"`` without finite norms.

        The largest norm of the batch decides: by whether it ends below ``1/CHANGED`` or above
        ``CHANGED``.
        """
        last = self.log2_norms[-1].max(initial=-np.inf)
        if np.isnan(last):
            return "no answer"
        if abs(last) < np.log2(CHANGED):
            return "neither"
        return "explodes" if last > 0 else "vanishes"

    @property
    def conclusion(self) -> str:
        """One sentence: the verdict and how fast."""
        T, largest = len(self.log2_norms) - 1, self.log2_norms.max(axis=1, initial=-np.inf)
        verdict, last = self.verdict, float(largest[-1])
        if verdict == "no answer":
            d = int(np.argmax(np.isnan(largest)))
            return f"no answer: the Jacobian of the step {d} back is not finite"
        after = f"the norm after {T} steps is {power(last)}"
        if verdict == "neither":
            return f"neither vanishes nor explodes: {after}"
        if np.isneginf(last):
            d = int(np.argmax(np.isneginf(largest)))
            return f"vanishes: the norm is 0 from {d} step{'s' * (d > 1)} back on"
        if abs(last) < T:
            how = f"{'doubles' if last > 0 else 'halves'} every {T / abs(last):.3g} steps"
        else:
            how = f"{'grows' if last > 0 else 'falls'} {power(abs(last) / T)}-fold in each step"
        return f"{verdict}: the norm {how} on average; {after}"


def flow(
    cell: Cell,
    params: Params,
    xs: Array,
    state0: State | None = None,
    mask: Array | None = None,
) -> Flow:
    """Multiply the Jacobians of a sequence from the last state back, and compare with their bound.

    With ``J_i = dstate_i/dstate_{i-1}`` and ``k = T - d``::

        dstate_T/dstate_k = J_T J_{T-1} .. J_{k+1}                                  (1)
        ||dstate_T/dstate_k|| <= prod of ||J_i|| over i = k+1 .. T                  (2)
        J_i = diag(f'(z_i)) W,  so  ||J_i|| <= beta_f beta_W        Elman           (3)
        ||dstate_T/dstate_k|| <= (beta_f beta_W)^d                  Elman           (4)

    with ``beta_f`` the largest slope of the activation and ``beta_W = ||W||``. For
    :class:`bpttcheck.cells.Elman` itself the bound is (4), for every other cell (2). With
    ``beta_f beta_W < 1`` gradients vanish at least that fast; above 1 they may explode, and
    nothing more is said. A masked step has the Jacobian 1, which counts as no step in the bound.

    >>> import numpy as np
    >>> from bpttcheck.cells import Elman
    >>> params = Elman("sigmoid").init(np.random.default_rng(0), n_in=2, n_hidden=8)
    >>> found = flow(Elman("sigmoid"), params, np.ones((12, 1, 2)))
    >>> found.verdict, bool((found.norms <= found.bounds * (1 + 1e-12)).all())
    ('vanishes', True)

    Args:
        cell: any object with the methods of :class:`bpttcheck.Cell`.
        params: its parameters.
        xs: the inputs ``(T, B, n_in)``.
        state0: the state before the first step; None: the cell's own.
        mask: ``(T, B)`` bool, true where the step is real; None: every step is.

    Returns:
        The :class:`Flow`.

    Raises:
        ContractError: as :func:`bpttcheck.unroll`, or the state has no floating entry.

    Source:
        Pascanu, Mikolov and Bengio (2013), "On the difficulty of training recurrent neural
        networks", equations (5) to (7).
    """
    with np.errstate(all="ignore"):  # an overflow is an answer here: the gradient explodes
        _, _, tape = unroll(cell, params, xs, state0, mask)
        S = layout_of(tape).S
        steps = list(derivatives(cell, params, tape, with_params=False))
        J = np.zeros((len(steps), xs.shape[1], S, S))
        saturated = np.zeros(J.shape[:2])
        for t, step in enumerate(steps):
            J[t] = step.state[:, :S]
            reach = np.concatenate([step.state[:, :S], step.x[:, :S]], axis=2)
            saturated[t] = (np.linalg.norm(reach, axis=2) < SATURATED).mean(axis=1)
        _mark_masked(saturated, tape)
        name, log2_bounds = _bound(cell, params, J, tape)
        values, exponents, log2_gradients = _products(J)
        return Flow(
            log2_norms=np.log2(values[:, :, 0]) + exponents,
            log2_bounds=log2_bounds,
            bound_name=name,
            singular_values=np.ldexp(values, exponents[:, :, None]),
            log2_gradients=log2_gradients,
            saturated=saturated,
        )


def power(log2: float) -> str:
    """``2**log2`` in three digits, also where it is not representable."""
    if not np.isfinite(log2) or abs(log2) < 1000:
        return f"{float(_exp2(np.asarray(log2))):.3g}"
    log10 = log2 * np.log10(2.0)
    whole = int(np.floor(log10))
    return f"{10 ** (log10 - whole):.2f}e{whole:+d}"


def _products(J: Array) -> tuple[Array, Array, Array]:
    """Equation (1) for every ``d``: singular values, with a power of two apart, and gradients."""
    T, B, S, _ = J.shape
    product = np.broadcast_to(np.eye(S), (B, S, S))
    exponent = np.zeros(B, int)
    values, exponents = np.zeros((T + 1, B, S)), np.zeros((T + 1, B), int)
    log2_gradients = np.zeros((T + 1, B))
    for d in range(T + 1):
        values[d], exponents[d] = _singular_values(product), exponent
        gradient = np.linalg.norm(product.sum(axis=1) / np.sqrt(S), axis=1)
        log2_gradients[d] = np.log2(gradient) + exponent
        if d < T:
            product = product @ J[T - 1 - d]
            # An exact power of two keeps a long product in range.
            largest = np.abs(product).max(axis=(1, 2), initial=0.0)
            shift = np.frexp(largest)[1]
            product = np.ldexp(product, -shift[:, None, None])
            exponent = exponent + shift
    return values, exponents, log2_gradients


def _singular_values(matrices: Array) -> Array:
    finite = np.asarray(np.isfinite(matrices).all(axis=(1, 2)))
    values = np.linalg.svd(np.where(finite[:, None, None], matrices, 0.0), compute_uv=False)
    return np.where(finite[:, None], values, np.nan)


def _bound(cell: Cell, params: Params, J: Array, tape: CellTape) -> tuple[str, Array]:
    """The name of the bound and its logarithms ``(T+1, B)``."""
    T, B = J.shape[:2]
    # A class derived from Elman may have another step.
    if type(cell) is Elman:
        name, slope = ELMAN_BOUND, activations.get(cell.activation).lipschitz
        norms = np.full((T, B), _singular_values(params["W"][None])[0, 0] * slope)
        _mark_masked(norms, tape, 1.0)
    else:
        name, norms = STEPS_BOUND, np.zeros((T, B))
        for t in range(T):
            norms[t] = _singular_values(J[t])[:, 0]
    return name, np.concatenate([np.zeros((1, B)), np.cumsum(np.log2(norms[::-1]), axis=0)])


def _mark_masked(steps: Array, tape: CellTape, value: float = np.nan) -> None:
    for t, rows in enumerate(tape.real_rows):
        if rows is not None:
            steps[t, np.setdiff1d(np.arange(steps.shape[1]), rows)] = value


def _exp2(values: Array) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        return np.exp2(values)
