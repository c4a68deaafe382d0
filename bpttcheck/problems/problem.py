"""Problems: their sizes, lengths, masks, dtypes and regimes, and their values.

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
from bpttcheck.problems.values import FREE, Values
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.user_code import call

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
    "sparse_inputs": "exact zeros among the inputs (entries, rows, half a sequence), equal rows",
    "tokens": "one-hot inputs, or integers up to 50",
    "large_inputs": "inputs up to some 30, beyond the thresholds in the code's own source",
    "small_inputs": "inputs of 1e-4 to 3e-2",
    "one_sign": "cotangents all negative, or all positive",
    "silent_outputs": "outputs, steps or whole rows that take no part in the loss",
    "biased_gates": "entries of 7 to 10 among the biases: some gates of a unit saturated together",
    "overflowing": "parameters times 1000: exponentials overflow",
}

# One round of the schedule: the ordinary regime most often, and the eleven that reveal most bugs of
# real code within the first 20 cases.
_SCHEDULE = (
    "ordinary", "saturated", "ordinary", "at_kinks", "large_cotangents", "silent_outputs", "long",
    "own_initial_state", "ordinary", "tiny_gradients", "vanishing", "one_sign", "near_kinks",
    "exploding", "ordinary", "long", "zeros", "sparse_inputs", "large_cotangents",
    "own_initial_state", "large_inputs", "biased_gates", "ordinary", "tokens", "small_inputs",
    "overflowing", "biased_gates", "silent_outputs", "one_sign", "sparse_inputs",
)  # fmt: skip

ROUND = len(_SCHEDULE)
# Cases that share two compiled shapes: a short run then compiles three programs and not five.
FEW = 20
LENGTHS_BEYOND_TRUNCATION = (35, 70, 300)
MASKS = ("none", "lengths", "holes", "empty_rows")


class Source(Protocol):
    """The source of the choices that make a structure."""

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


def _turn(case: Case) -> int:
    """The number of earlier cases of the same regime in the schedule."""
    rounds, place = divmod(max(case.index, 0), len(_SCHEDULE))
    return rounds * _SCHEDULE.count(case.regime) + _SCHEDULE[:place].count(case.regime)


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
    masks: bool | Sequence[str] = True,
    lengths: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
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
        masks: False if the subject has no masks; the kinds that it takes if not all.
        lengths: the only T allowed; None: any.
        batches: the only B allowed; None: any.
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
        long = regime == "long"
        fitting = [T for T in lengths or LENGTHS_BEYOND_TRUNCATION if T <= T_max]
        if lengths is not None:
            fitting = (fitting[-3:] if long else fitting[:4]) or [min(lengths)]
            T = source.choice(fitting)
        else:
            T = source.choice(fitting) if long and fitting else source.integer(1, T_max)
        allowed = [B for B in batches or () if B <= B_max]
        B = source.choice(allowed or [min(batches)]) if batches else source.integer(1, B_max)
    kinds = MASKS if masks is True else tuple(masks or ())
    mask = source.choice(("none", "none", *kinds)) if kinds and T * B > 1 else "none"
    return Case(seed, index, T, B, n_in, n_hidden, dtype, mask, regime)


def build(subject: Subject, case: Case, stream: int = 0, freedom: str = FREE) -> Problem:
    """Fill a structure with numbers: a function of the case alone.

    Args:
        subject: what is under test.
        case: the structure.
        stream: other values for the same structure.
        freedom: how far values may be from those that the subject makes for itself; one of
            :data:`bpttcheck.problems.values.FREEDOMS`.

    Raises:
        ContractError: if the subject's own code fails on the way.
    """
    rng = generator(case.seed, max(case.index, 0) + (case.index < 0) * 10**6, stream)
    dtype, layer = np.dtype(case.dtype), subject.layer
    values = Values(
        case,
        rng,
        subject.traits.domain,
        subject.thresholds,
        freedom,
        _turn(case),
        subject.traits.final_state_gradient,
    )
    natural = call("init", layer.init, rng, case.n_in, case.n_hidden)
    params = {key: values.parameter(key, np.asarray(value)) for key, value in natural.items()}
    xs = values.inputs()
    own = call("initial_state", layer.initial_state, params, case.B)
    # The warm-up has the case's own shape where new shapes are expensive or T is restricted.
    steps = case.T if subject.traits.fixed_sizes or subject.lengths is not None else 2
    warm = values.warm_up(steps)
    ys, reached, _ = call("forward", layer.forward, params, warm, own)
    n_out = int(np.shape(ys)[-1])
    state0 = values.state(own, reached)
    d_ys = rng.standard_normal((case.T, case.B, n_out)).astype(dtype)
    d_state = values.state_cotangent(state0)
    d_ys, d_state = values.scaled(d_ys, d_state)
    problem = Problem(case, params, xs, state0, draw_mask(case, rng, subject.masks), d_ys, d_state)
    object.__setattr__(problem, "original", stream == 0 and freedom == FREE)
    return problem


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


def templates(
    seed: int,
    sizes: Sequence[tuple[int, int]] | None,
    lengths: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
) -> tuple[Template, ...]:
    """The compiled shapes of a run, the long one last.

    Sizes that differ pairwise and sizes that coincide, one of each as small as possible, and one
    without padding, so that the mask cannot hide a bug.
    """
    rng = np.random.default_rng([seed, 0x7E])
    if sizes:
        # Findings are explained on the third and fourth, where no size should be special.
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
    return tuple(replace(one, T=nearest(one.T, lengths), B=nearest(one.B, batches)) for one in made)


def nearest(size: int, allowed: Sequence[int] | None) -> int:
    """``size``, or the smallest allowed one above it, or the largest of all."""
    if allowed is None or size in allowed:
        return size
    above = [one for one in allowed if one > size]
    return min(above) if above else max(allowed)


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
