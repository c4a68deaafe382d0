"""The values of a case: parameters, inputs, states and cotangents in each regime.

A subject may not accept every value (a covariance must stay positive, a rate lies between 0 and 1).
Either its ``domain`` declares this or it is detected; values then stay closer to those that the
subject initialises itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck import trees
from bpttcheck.contract import is_float
from bpttcheck.problems.problem import MASKS, Problem
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.user_code import call

Array = NDArray[Any]

FREE, REACHED, NATURAL = "free", "reached", "natural"
FREEDOMS = (FREE, REACHED, NATURAL)
"""``free``: states and parameters are moved away from the subject's own. ``reached``: states are
those of a short run from the initial state. ``natural``: so are the parameters its own."""

SCALED_PARAMETERS = {"saturated": 30.0, "vanishing": 1e-3, "exploding": 3.0, "overflowing": 1e3}
"""Regimes that multiply every parameter: a subject with a domain may not accept them."""

# So coarse that sums of products often lie exactly on a kink.
_GRID = np.array([-1.0, 0.0, 1.0])
# States of a size within these are moved by an absolute amount, others in proportion.
_ORDINARY_SIZES = (0.02, 50.0)
# Values of a counter after many steps.
_FAR = 1000


@dataclass(frozen=True)
class Values:
    """Draws the numbers of one case.

    Args:
        case: the structure.
        rng: the case's generator.
        domain: the declared domain of its values: parameter's name, ``"x"`` or ``"state"`` to an
            interval ``(low, high)``, a function ``(rng, array) -> array``, or ``"reached"``.
        thresholds: constants of the subject's own source, as values to go beyond.
        freedom: one of :data:`FREEDOMS`.
        final_state: False where the final state has no gradient.
        turn: the number of earlier cases of the same regime: its kinds alternate.
    """

    case: Case
    rng: np.random.Generator
    domain: Mapping[str, Any]
    thresholds: Sequence[float]
    freedom: str
    turn: int
    final_state: bool = True

    @property
    def _dtype(self) -> Any:
        return np.dtype(self.case.dtype)

    def parameter(self, key: str, natural: Array) -> Array:
        """One parameter, from the subject's own initial value."""
        case, rng = self.case, self.rng
        if not is_float(natural) or self.freedom == NATURAL:
            return natural.astype(self._dtype) if is_float(natural) else natural
        values = _moved(rng, natural)
        if case.regime in ("at_kinks", "near_kinks"):
            values = self._on_grid(values.shape)
        factor = SCALED_PARAMETERS.get(case.regime, 1.0)
        if case.regime == "overflowing" and case.dtype == "float32":
            factor = SCALED_PARAMETERS["saturated"]  # there exponentials overflow beyond 88
        if case.regime == "vanishing":
            factor = self._vanishing(values, factor)
        values = values * factor
        if case.regime == "zeros":
            values = self._with_zeros(values)
        if case.regime == "biased_gates" and values.ndim == 1:
            values = self._biased(values)
        if case.regime == "large_inputs" and self.turn % 2:
            values = values * 0.05  # so that large inputs do not saturate every unit
        if case.regime == "tokens" and self.turn % 3 == 2:
            values = values * 0.01
        return self.within(key, values).astype(self._dtype)

    def _vanishing(self, values: Array, usual: float) -> float:
        """The usual factor, or the one that takes every entry below a threshold of the source."""
        known = [c for c in self.thresholds if 1e-12 <= c <= 1e-2]
        largest = float(np.abs(values).max(initial=0.0))
        if not known or not largest or self.turn % 2 == 0:
            return usual
        return 0.3 * known[self.turn // 2 % len(known)] / largest

    def _with_zeros(self, values: Array) -> Array:
        """Biases of zero; every other time matrices with nothing off their diagonals, too.

        Some networks start from identity matrices; of stacked gates every block is one.
        """
        if values.ndim == 1:
            return np.zeros_like(values)
        if values.ndim != 2 or self.turn % 3 == 0 or 0 in values.shape:
            return values
        rows, columns = values.shape
        side = min(rows, columns)
        diagonal = np.arange(rows)[:, None] % side == np.arange(columns) % side
        return np.where(diagonal, 1.0 if self.turn % 3 == 2 else values, 0.0)

    def _biased(self, values: Array) -> Array:
        """Some gates of every unit saturated, all to the same side; the others as they were."""
        rng, units = self.rng, max(self.case.n_hidden, 1)
        gates, left = divmod(values.size, units)
        shape = (gates, units) if gates and not left else (1, values.size)
        sign = 1.0 if self.turn % 2 else rng.choice([-1.0, 1.0], (1, shape[1]))
        large = sign * rng.uniform(7, 10, shape)
        return np.where(rng.random(shape) < 2 / 3, large, values.reshape(shape)).reshape(-1)

    def inputs(self) -> Array:
        """``xs (T, B, n_in)``."""
        case, rng = self.case, self.rng
        values = rng.standard_normal((case.T, case.B, case.n_in))
        if case.regime in ("at_kinks", "near_kinks"):
            values = self._on_grid(values.shape)
        elif case.regime == "zeros" and len(values):
            values[0] = 0.0
        elif case.regime == "sparse_inputs":
            values = self._sparse(values)
        elif case.regime == "tokens":
            values = self._tokens(values.shape)
        elif case.regime == "large_inputs":
            values = values * self._scale(0.5, 1.5, lambda c: c > 1.0)
        elif case.regime == "small_inputs":
            values = values * self._scale(-4.0, -1.5, lambda c: 1e-6 < c < 1.0)
        return self.within("x", values).astype(self._dtype)

    def warm_up(self, steps: int) -> Array:
        """Inputs of the steps that lead from the initial state to one that is reached."""
        shape = (steps, self.case.B, self.case.n_in)
        return self.within("x", self.rng.standard_normal(shape)).astype(self._dtype)

    def state(self, own: Any, reached: Any) -> Any:
        """A state that the subject accepts: a normaliser, say, stays positive."""
        declared = self.domain.get("state")
        stay = self.freedom != FREE or declared == "reached"

        def one(first: Any, later: Any) -> Any:
            first = np.asarray(first)
            if not is_float(first):
                return self._carried(first, np.asarray(later))
            if self.case.regime == "own_initial_state" or not np.isfinite(later).all():
                return np.array(first)
            if stay:
                return np.array(later)
            return self.within("state", self._float_state(first, later)).astype(self._dtype)

        return trees.map_leaves(one, own, reached)

    def state_cotangent(self, state: Any) -> Any:
        """A cotangent of every float leaf of a state; zeros for leaves that are only carried.

        Zeros, too, where the code declares that its final state has no gradient.
        """

        def one(leaf: Any) -> Array:
            if not is_float(leaf) or not self.final_state:
                return np.zeros(np.shape(leaf))
            return self.rng.standard_normal(np.shape(leaf)).astype(np.asarray(leaf).dtype)

        return trees.map_leaves(one, state)

    def scaled(self, d_ys: Array, d_state: Any) -> tuple[Array, Any]:
        """The cotangents as the regime requires them."""
        case, regime = self.case, self.case.regime
        steps = np.arange(case.T)
        zero: Callable[[Any], Any] = np.zeros_like
        if regime == "zeros":
            return _times(d_ys, (steps == case.T - 1)[:, None, None]), trees.map_leaves(
                zero, d_state
            )
        if regime == "long" and case.index % 2 == 0:
            # Only early outputs matter: a truncated pass has no gradient left. The
            # other half of these cases shows a carry that is cut at intervals.
            return _times(d_ys, (steps < 5)[:, None, None]), trees.map_leaves(zero, d_state)
        if regime == "silent_outputs":
            return self._silent(d_ys, d_state)
        factor: Any = None
        if regime == "large_cotangents":
            factor = self._cotangent_scale(2, 6, 14 if case.dtype == "float64" else 10)
        elif regime == "tiny_gradients":
            factor = self._cotangent_scale(-25, -6, -60 if case.dtype == "float64" else -30)
        if factor is not None:
            return _times(d_ys, factor), trees.map_leaves(
                lambda leaf: _times(leaf, factor), d_state
            )
        if regime == "one_sign":
            sign = -1.0 if self.turn % 2 else 1.0
            return sign * np.abs(d_ys), trees.map_leaves(lambda leaf: sign * np.abs(leaf), d_state)
        return d_ys, d_state

    def _on_grid(self, shape: tuple[int, ...]) -> Array:
        values = self.rng.choice(_GRID, shape)
        if self.case.regime == "near_kinks":
            ulps = self.rng.integers(-4, 5, shape)
            values = values * (1 + np.finfo(self._dtype).eps * ulps)
        return values

    def _sparse(self, values: Array) -> Array:
        T, B, _ = values.shape
        variant = self.turn % 3
        if variant == 0:
            values = values * (self.rng.random(values.shape) < 0.6)
            if B > 1:  # and a whole row of every step
                values[np.arange(T), self.rng.integers(B, size=T)] = 0.0
            return values
        if variant == 1:
            values[T // 2 :] = 0.0
            return values
        values[:] = values[:, :1]  # every row of the batch is the same
        return values

    def _tokens(self, shape: tuple[int, ...]) -> Array:
        if self.turn % 3:
            most = 50 if self.turn % 3 == 1 else 300  # beyond what eight bits hold
            return self.rng.integers(0, most + 1, shape).astype(float)
        return np.eye(shape[2])[self.rng.integers(0, shape[2], shape[:2])]

    def _scale(self, low: float, high: float, fits: Callable[[float], bool]) -> float:
        """A power of ten between two exponents, or beyond a threshold of the source."""
        known = [c for c in self.thresholds if fits(c) and c < 1e4]
        if known and self.turn % 3 != 1:
            threshold = known[self.turn % len(known)]
            return threshold * (1.5 if low > 0 else 0.3)
        return float(10 ** self.rng.uniform(low, high))

    def _cotangent_scale(self, low: float, high: float, far: float) -> float:
        if self.turn % 2:
            low, high = (high, far) if far > high else (far, low)
        return float(10 ** self.rng.uniform(low, high))

    def _silent(self, d_ys: Array, d_state: Any) -> tuple[Array, Any]:
        variant = self.turn % 4
        if variant == 0:  # whole rows of the batch
            silent = np.arange(self.case.B) == self.rng.integers(max(self.case.B, 1))
            return _rows(d_ys, silent, axis=1), trees.map_leaves(
                lambda leaf: _rows(leaf, silent), d_state
            )
        if variant == 1:  # only the final state matters, or one leaf of it
            return np.zeros_like(d_ys), self._one_leaf(d_state)
        if variant == 3:  # one output alone
            only = np.arange(d_ys.shape[2]) == self.rng.integers(d_ys.shape[2])
            return _times(d_ys, only), trees.map_leaves(np.zeros_like, d_state)
        d_ys = d_ys * (self.rng.random(len(d_ys)) < 0.5)[:, None, None].astype(d_ys.dtype)
        if d_ys.shape[2] > 1:
            d_ys[..., self.rng.integers(d_ys.shape[2])] = 0.0
        return d_ys, trees.map_leaves(np.zeros_like, d_state)

    def _one_leaf(self, d_state: Any) -> Any:
        """One leaf after another alone, and then all."""
        leaves, shape = trees.flatten(d_state)
        if len(leaves) < 2:
            return d_state
        only = self.turn // 4 % (len(leaves) + 1)
        return shape.unflatten([
            leaf if only in (i, len(leaves)) else np.zeros_like(leaf)
            for i, leaf in enumerate(leaves)
        ])  # fmt: skip

    def _carried(self, first: Array, later: Array) -> Array:
        """An integer leaf: as it was, counted up, or counted up far."""
        if self.case.index % 2 == 0:
            return first.copy()
        if self.case.index % 4 == 3 and first.dtype.kind in "iu":
            return later + _FAR * (later - first)
        return later.copy()

    def _float_state(self, first: Array, later: Any) -> Array:
        if self.case.regime == "zeros":
            return np.zeros(first.shape)
        if self.case.regime in ("at_kinks", "near_kinks"):
            return self._on_grid(first.shape) if _is_ordinary(later) else np.array(later)
        later = np.asarray(later, np.float64)
        size = float(np.sqrt(np.mean(later**2))) if later.size else 0.0
        width = 0.5 if size == 0 or _is_ordinary(later) else 0.5 * size
        return later + width * self.rng.standard_normal(first.shape)

    def within(self, name: str, values: Array) -> Array:
        """``values`` moved into the declared domain of ``name``."""
        allowed = self.domain.get(name)
        if allowed is None or isinstance(allowed, str):
            return values
        if callable(allowed):
            return np.asarray(allowed(self.rng, values)).astype(values.dtype)
        low, high = (float(end) for end in allowed)
        outside = (values <= low) | (values >= high)
        low, high = max(low, -1e3), min(high, 1e3)
        if not is_float(values):
            least, above = int(np.floor(low)) + 1, int(np.ceil(high))
            return np.where(outside, self.rng.integers(least, above, values.shape), values)
        return np.where(outside, self.rng.uniform(low, high, values.shape), values)


def fill(subject: Subject, values: Values) -> Problem:
    """The structure of ``values`` filled with them.

    Raises:
        ContractError: if the subject's own code fails on the way.
    """
    case, rng, layer = values.case, values.rng, subject.layer
    dtype = np.dtype(case.dtype)
    natural = call("init", layer.init, rng, case.n_in, case.n_hidden)
    params = {key: values.parameter(key, np.asarray(value)) for key, value in natural.items()}
    xs = values.inputs()
    own = call("initial_state", layer.initial_state, params, case.B)
    # Where every new shape is expensive, the warm-up has the case's own; as where T is restricted.
    steps = case.T if subject.traits.fixed_sizes or subject.lengths is not None else 2
    warm = values.warm_up(steps)
    ys, reached, _ = call("forward", layer.forward, params, warm, own)
    n_out = int(np.shape(ys)[-1])
    state0 = values.state(own, reached)
    d_ys = rng.standard_normal((case.T, case.B, n_out)).astype(dtype)
    d_state = values.state_cotangent(state0)
    d_ys, d_state = values.scaled(d_ys, d_state)
    return Problem(case, params, xs, state0, draw_mask(case, rng, subject.masks), d_ys, d_state)


def draw_mask(case: Case, rng: np.random.Generator, kinds: Sequence[str] = MASKS) -> Array | None:
    """A mask ``(T, B)`` of the case's kind, one of ``kinds``; None if every step is real."""
    if case.mask == "none" or case.mask not in kinds:
        return None
    shape = (case.T, case.B)
    if case.mask == "lengths":
        return np.arange(case.T)[:, None] < rng.integers(1, case.T + 1, case.B)
    mask = rng.random(shape) < 0.7
    if case.mask == "empty_rows":
        mask[:, rng.integers(case.B)] = False
    return mask


def _moved(rng: np.random.Generator, natural: Array) -> Array:
    """The cell's own initial values, moved so that none is special (a zero bias hides bugs)."""
    rms = float(np.sqrt(np.mean(natural.astype(np.float64) ** 2))) if natural.size else 0.0
    width = rms or 1 / np.sqrt(natural.shape[-1] if natural.ndim else 1)
    return natural + 0.3 * width * rng.standard_normal(natural.shape)


def _is_ordinary(leaf: Any) -> bool:
    size = float(np.sqrt(np.mean(np.asarray(leaf, np.float64) ** 2))) if np.size(leaf) else 0.0
    return size == 0 or _ORDINARY_SIZES[0] <= size <= _ORDINARY_SIZES[1]


def _times(leaf: Any, factor: Any) -> Any:
    return (leaf * factor).astype(leaf.dtype)


def _rows(leaf: Array, silent: Array, axis: int = 0) -> Array:
    """``leaf`` with zeros in the rows without a loss, where it has such an axis."""
    if leaf.ndim <= axis or leaf.shape[axis] != len(silent):
        return leaf
    shape = [1] * leaf.ndim
    shape[axis] = len(silent)
    return np.where(silent.reshape(shape), np.zeros_like(leaf), leaf)
