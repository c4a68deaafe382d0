"""Problems: which sizes, lengths, masks, dtypes and regimes, and the numbers that fill them.

A problem is a *structure* and a seed for its values. There is one definition of the space and two
ways to draw from it: case ``i`` of a run is a function of ``(seed, i)`` alone, and
:mod:`bpttcheck.strategies` draws the same structures for Hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bpttcheck import trees
from bpttcheck.contract import is_float
from bpttcheck.verify.guard import call
from bpttcheck.verify.results import Case
from bpttcheck.verify.subject import Subject

Array = NDArray[Any]

REGIMES = {
    "ordinary": "parameters, inputs, states and cotangents of natural size",
    "saturated": "parameters times 30: most units sit where their derivative is nearly zero",
    "near_kinks": "values a few rounding errors away from a coarse grid",
    "at_kinks": "values on a coarse grid: many pre-activations lie exactly on 0, 1 or 3",
    "vanishing": "parameters times 1e-3: gradients shrink at every step",
    "exploding": "parameters times 3: gradients may grow at every step",
    "long": "35, 70 or 300 steps: beyond any plausible truncation",
    "large_cotangents": "cotangents of 1e2 to 1e6: beyond any clip that was left on",
    "tiny_gradients": "cotangents of 1e-6 to 1e-25",
    "own_initial_state": "the initial state is exactly the cell's own",
    "zeros": "zero initial state, zero first input, zero biases, one cotangent at the last step",
}

# One round of the schedule: every regime within 20 cases, the ordinary one most often.
_SCHEDULE = (
    "ordinary", "saturated", "ordinary", "at_kinks", "large_cotangents", "ordinary", "long",
    "own_initial_state", "ordinary", "tiny_gradients", "vanishing", "ordinary", "near_kinks",
    "exploding", "ordinary", "long", "zeros", "ordinary", "large_cotangents", "own_initial_state",
)  # fmt: skip

ROUND = len(_SCHEDULE)
LENGTHS_BEYOND_TRUNCATION = (35, 70, 300)
MASKS = ("none", "lengths", "holes", "empty_rows")
# So coarse that sums of products often meet a kink exactly.
_GRID = np.array([-1.0, 0.0, 1.0])


class Source(Protocol):
    """Where the choices of a structure come from."""

    def integer(self, low: int, high: int) -> int:
        """An integer in ``[low, high]``; the simplest is ``low``."""
        ...

    def choice(self, options: Sequence[Any]) -> Any:
        """One of ``options``; the simplest is the first."""
        ...


@dataclass(frozen=True)
class Seeded:
    """Choices drawn from a NumPy generator."""

    rng: np.random.Generator

    def integer(self, low: int, high: int) -> int:
        """An integer in ``[low, high]``."""
        return int(self.rng.integers(low, high + 1))

    def choice(self, options: Sequence[Any]) -> Any:
        """One of ``options``."""
        return options[int(self.rng.integers(len(options)))]


@dataclass(frozen=True)
class Template:
    """One compiled shape: exact widths, and room for T and B."""

    n_in: int
    n_hidden: int
    T: int
    B: int
    exact: bool = False


@dataclass(frozen=True)
class Problem:
    """One sequence with its cotangents, ready to be run.

    Arrays are time-major; ``mask`` is None if every step is real. ``original`` is True as long as
    the numbers are a function of ``case`` alone: :func:`build` sets it, and a copy lacks it.
    """

    case: Case
    params: Any
    xs: Array
    state0: Any
    mask: Array | None
    d_ys: Array
    d_state: Any
    original: bool = field(default=False, init=False, compare=False)

    @property
    def dtype(self) -> Any:
        """The checked dtype."""
        return np.dtype(self.case.dtype)

    @property
    def real(self) -> Array:
        """The mask, all true if there is none."""
        shape = self.xs.shape[:2]
        return np.ones(shape, bool) if self.mask is None else self.mask


def generator(seed: int, index: int, stream: int) -> np.random.Generator:
    """The generator of case ``index``; different streams are independent."""
    return np.random.default_rng([seed, index, stream])


def scheduled_regime(index: int) -> str:
    """The regime of case ``index``."""
    return _SCHEDULE[index % len(_SCHEDULE)]


def scheduled_dtype(index: int, dtypes: Sequence[str]) -> str:
    """The dtype of case ``index``: every regime meets every dtype."""
    return dtypes[(index + index // len(_SCHEDULE)) % len(dtypes)]


def draw_case(
    source: Source,
    *,
    regime: str,
    dtype: str,
    sizes: Sequence[tuple[int, int]] | None = None,
    template: Template | None = None,
    masks: bool = True,
    seed: int = 0,
    index: int = 0,
) -> Case:
    """Draw a structure.

    Args:
        source: where the choices come from.
        regime: one of :data:`REGIMES`.
        dtype: ``"float64"`` or ``"float32"``.
        sizes: allowed ``(n_in, n_hidden)``; None: 1 to 5 and 1 to 6.
        template: a compiled shape that the structure must fit; None: any size.
        masks: False if the subject has no masks.
        seed: seed of the values.
        index: number of the case.
    """
    if template is not None:
        n_in, n_hidden, T_max, B_max = template.n_in, template.n_hidden, template.T, template.B
    else:
        n_in, n_hidden = (
            source.choice(sizes) if sizes else (source.integer(1, 5), source.integer(1, 6))
        )
        T_max, B_max = (max(LENGTHS_BEYOND_TRUNCATION), 3) if regime == "long" else (12, 4)
    if template is not None and template.exact:
        T, B = T_max, B_max
    else:
        fitting = [T for T in LENGTHS_BEYOND_TRUNCATION if T <= T_max]
        long = regime == "long" and bool(fitting)
        T = source.choice(fitting) if long else source.integer(1, T_max)
        B = source.integer(1, B_max)
    mask = source.choice(("none", "none", *MASKS)) if masks and T * B > 1 else "none"
    return Case(seed, index, T, B, n_in, n_hidden, dtype, mask, regime)


def build(subject: Subject, case: Case, stream: int = 0) -> Problem:
    """Fill a structure with numbers: a function of the case alone.

    Raises:
        ContractError: if the subject's own code fails on the way.
    """
    rng = generator(case.seed, max(case.index, 0) + (case.index < 0) * 10**6, stream)
    dtype, layer = np.dtype(case.dtype), subject.layer
    natural = call("init", layer.init, rng, case.n_in, case.n_hidden)
    params = {key: _regime_values(case, _spread_out(rng, np.asarray(value)), rng, dtype, 1.0)
              for key, value in natural.items()}  # fmt: skip
    xs = _regime_values(case, rng.standard_normal((case.T, case.B, case.n_in)), rng, dtype, 0.0)
    own = call("initial_state", layer.initial_state, params, case.B)
    # Where every new shape is dear, the warm-up has the case's own.
    steps = case.T if subject.fixed_sizes else 2
    warm = rng.standard_normal((steps, case.B, case.n_in)).astype(dtype)
    ys, reached, _ = call("forward", layer.forward, params, warm, own)
    n_out = int(np.shape(ys)[-1])
    state0 = _initial(case, own, reached, rng, dtype)
    d_ys = rng.standard_normal((case.T, case.B, n_out))
    d_state = trees.map_leaves(lambda leaf: _cotangent(leaf, rng), state0)
    problem = Problem(case, params, xs, state0, draw_mask(case, rng), d_ys.astype(dtype), d_state)
    problem = _scaled(problem, rng, dtype)
    object.__setattr__(problem, "original", stream == 0)
    return problem


def draw_mask(case: Case, rng: np.random.Generator) -> Array | None:
    """A mask ``(T, B)`` of the case's kind; None if every step is real."""
    if case.mask == "none":
        return None
    shape = (case.T, case.B)
    if case.mask == "lengths":
        return np.arange(case.T)[:, None] < rng.integers(1, case.T + 1, case.B)
    mask = rng.random(shape) < 0.7
    if case.mask == "empty_rows":
        mask[:, rng.integers(case.B)] = False
    return mask


def templates(seed: int, sizes: Sequence[tuple[int, int]] | None) -> tuple[Template, ...]:
    """The compiled shapes of a run, the long one last.

    Sizes that differ pairwise and sizes that coincide, one of each as small as can be, and one
    without padding, so that the mask cannot hide a bug.
    """
    rng = np.random.default_rng([seed, 0x7E])
    if sizes:
        # What is found is explained on the third and fourth, where no size should be special.
        rich = sorted(sizes, key=lambda s: (min(s) > 1, s[0] != s[1], sum(s)), reverse=True)
        square = next((s for s in rich if s[0] == s[1] > 1), rich[-1])
        pairs = [sizes[0], square, *(rich[i % len(rich)] for i in range(3))]
    else:
        same = int(rng.integers(3, 5))
        wide, narrow = int(rng.integers(4, 6)), int(rng.integers(2, 4))
        pairs = [(1, 1), (same, same), (narrow, wide), (wide, narrow), (2, 3)]
    made = [
        Template(*pairs[0], T=4, B=2),
        Template(*pairs[1], T=8, B=pairs[1][1] if pairs[1][1] <= 4 else 3),
        Template(*pairs[2], T=10, B=3),
        Template(*pairs[3], T=5, B=4, exact=True),
        Template(*pairs[4], T=max(LENGTHS_BEYOND_TRUNCATION), B=2),
    ]
    return tuple(made)


def in_float64(problem: Problem) -> Problem:
    """The same problem, its float32 values as float64."""
    return each_leaf(problem, lambda leaf: np.asarray(leaf, np.float64) if is_float(leaf) else leaf)


def simplified(problem: Problem, decimals: int) -> Problem:
    """The same problem with its values rounded, for reading."""

    def short(leaf: Any) -> Any:
        return np.round(leaf, decimals) if is_float(leaf) else leaf

    return each_leaf(problem, short)


def each_leaf(problem: Problem, change: Callable[[Any], Any]) -> Problem:
    """The problem with every array but the mask changed."""
    return replace(
        problem,
        params=trees.map_leaves(change, problem.params),
        xs=change(problem.xs),
        state0=trees.map_leaves(change, problem.state0),
        d_ys=change(problem.d_ys),
        d_state=trees.map_leaves(change, problem.d_state),
    )


def _spread_out(rng: np.random.Generator, natural: Array) -> Array:
    """The cell's own initial values, moved so that none is special (a zero bias hides bugs)."""
    rms = float(np.sqrt(np.mean(natural.astype(np.float64) ** 2))) if natural.size else 0.0
    width = rms or 1 / np.sqrt(natural.shape[-1] if natural.ndim else 1)
    return natural + 0.3 * width * rng.standard_normal(natural.shape)


def _regime_values(
    case: Case, values: Array, rng: np.random.Generator, dtype: Any, is_parameter: float
) -> Array:
    if case.regime in ("at_kinks", "near_kinks"):
        values = rng.choice(_GRID, values.shape)
        if case.regime == "near_kinks":
            values = values * (1 + np.finfo(dtype).eps * rng.integers(-4, 5, values.shape))
    if is_parameter:
        scale = {"saturated": 30.0, "vanishing": 1e-3, "exploding": 3.0}.get(case.regime, 1.0)
        values = values * scale
        if case.regime == "zeros" and values.ndim == 1:
            values = np.zeros_like(values)
    elif case.regime == "zeros" and len(values):
        values = np.concatenate([np.zeros_like(values[:1]), values[1:]])
    return values.astype(dtype)


def _initial(case: Case, own: Any, reached: Any, rng: np.random.Generator, dtype: Any) -> Any:
    """A state that the network can really reach: a normaliser, say, stays positive."""

    def one(first: Any, later: Any) -> Any:
        first = np.asarray(first)
        if not is_float(first) and case.index % 2:
            return np.array(later)  # a counter that has counted
        if not is_float(first) or case.regime == "own_initial_state":
            return np.array(first)
        if case.regime == "zeros":
            return np.zeros(first.shape, dtype)
        if case.regime in ("at_kinks", "near_kinks"):
            return rng.choice(_GRID, first.shape).astype(dtype)
        later = np.nan_to_num(np.asarray(later, np.float64), posinf=1.0, neginf=-1.0)
        return (np.clip(later, -1e3, 1e3) + 0.5 * rng.standard_normal(first.shape)).astype(dtype)

    return trees.map_leaves(one, own, reached)


def _cotangent(leaf: Any, rng: np.random.Generator) -> Array:
    if not is_float(leaf):
        return np.zeros(np.shape(leaf))
    return rng.standard_normal(np.shape(leaf)).astype(np.asarray(leaf).dtype)


def _scaled(problem: Problem, rng: np.random.Generator, dtype: Any) -> Problem:
    case = problem.case
    d_ys, d_state = problem.d_ys, problem.d_state
    scale: Callable[[Any], Any] = lambda leaf: leaf  # noqa: E731
    if case.regime == "large_cotangents":
        factor = 10 ** rng.uniform(2, 6)
        scale = lambda leaf: (leaf * factor).astype(leaf.dtype)  # noqa: E731
    elif case.regime == "tiny_gradients":
        factor = 10 ** rng.uniform(-25, -6)
        scale = lambda leaf: (leaf * factor).astype(leaf.dtype)  # noqa: E731
    elif case.regime == "zeros":
        d_ys = d_ys * (np.arange(case.T) == case.T - 1)[:, None, None].astype(dtype)
        scale = np.zeros_like
    elif case.regime == "long" and case.index % 2 == 0:
        # Only early outputs matter: nothing of the gradient is left for a truncated pass. The other
        # half of these cases shows a carry that is cut at intervals.
        d_ys = d_ys * (np.arange(case.T) < 5)[:, None, None].astype(dtype)
        scale = np.zeros_like
    keep = case.regime in ("zeros", "long")
    return replace(
        problem,
        d_ys=d_ys if keep else scale(d_ys),
        d_state=trees.map_leaves(scale, d_state),
    )
