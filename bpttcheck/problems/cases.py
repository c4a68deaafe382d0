"""The sequence of cases of one subject and one seed, and their values.

There is one definition of the structures and two ways to draw from it: here from a seed, and in
:mod:`bpttcheck.strategies` for Hypothesis.

Case ``i`` is a function of the seed and of ``i``: its sizes, its regime and its numbers. Only where
the subject rejects values are they drawn again, closer to those that it initialises itself.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import is_float
from bpttcheck.errors import ContractError, OutsideDomain
from bpttcheck.problems import large
from bpttcheck.problems.problem import FEW, MASKS, Problem, Template, nearest
from bpttcheck.problems.values import FREE, FREEDOMS, NATURAL, SCALED_PARAMETERS, Values, fill
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.user_code import call

# Declared widths that are compiled; the others are judged without a program.
_COMPILED_SIZES = 8
# Rejected cases of one regime after which its values stay closer to the subject's own.
_LESSONS = 2
# Every so many cases of a sequence one is drawn at any size and judged by differences alone.
FREE_CASES = 10
# Steps of what JAX traces whole, its loop over time unrolled: compiling takes as long as they are.
MOST_UNROLLED = 6


# One round of the schedule: the ordinary regime most often, and the eleven that show most bugs of
# real code within the first 20 cases.
_SCHEDULE = (
    "ordinary", "saturated", "ordinary", "at_kinks", "large_cotangents", "silent_outputs", "long",
    "own_initial_state", "ordinary", "tiny_gradients", "vanishing", "one_sign", "near_kinks",
    "exploding", "ordinary", "long", "zeros", "sparse_inputs", "large_cotangents",
    "own_initial_state", "large_inputs", "biased_gates", "ordinary", "tokens", "small_inputs",
    "overflowing", "biased_gates", "silent_outputs", "one_sign", "sparse_inputs",
)  # fmt: skip

ROUND = len(_SCHEDULE)
LENGTHS_BEYOND_TRUNCATION = (35, 70, 300)


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


class Scheduled(NamedTuple):
    """One case of a gradient check.

    Args:
        case: its structure.
        template: the compiled shape that it fits; None: its own, or none.
        free: whether it is judged without a program, at any size.
    """

    case: Case
    template: Template | None
    free: bool


class Cases:
    """The cases of one subject.

    Args:
        subject: what is under test.
        seed: seed of the sequence.
        dtypes: the dtypes checked.
        declared: the sizes that the subject declares; None: any.
    """

    def __init__(
        self,
        subject: Subject,
        seed: int,
        dtypes: Sequence[str],
        declared: tuple[tuple[int, int], ...] | None,
    ) -> None:
        self.subject, self.seed, self.dtypes = subject, seed, tuple(dtypes)
        self._declared = declared
        self.compile_for(declared and declared[:_COMPILED_SIZES])
        self._tamed: Counter[tuple[str, str]] = Counter()
        self._forward = _forward(subject)

    def compile_for(self, sizes: tuple[tuple[int, int], ...] | None) -> None:
        """Use these widths, and the compiled shapes that follow from them.

        Args:
            sizes: the widths; None: any.
        """
        subject, self.sizes = self.subject, sizes
        made = templates(self.seed, sizes, subject.lengths, subject.batches)
        if subject.traced_whole:  # its loop is unrolled
            least = min(subject.lengths or (1,))
            made = tuple(replace(t, T=max(min(t.T, MOST_UNROLLED), least)) for t in made)
        self.templates = made

    def of(self, subject: Subject) -> Cases:
        """The same cases for another subject, which may accept other values."""
        other = copy.copy(self)
        other.subject, other._tamed, other._forward = subject, Counter(), _forward(subject)
        return other

    def scheduled(self, index: int, one_step: bool) -> Scheduled:
        """Case ``index`` of a check of single steps or of whole sequences."""
        fixed = self.subject.traits.fixed_sizes
        long = self.subject.traced_whole and scheduled_regime(index) == "long"
        free = not one_step and (index % FREE_CASES == FREE_CASES - 1 or long) and not fixed
        case = self.case(index, free=free, steps=1 if one_step else None)
        return Scheduled(case, None if free or fixed else self.template(index), free)

    def template(self, index: int) -> Template:
        """The template of case ``index``: the long one for long cases, else one of the others.

        The first round of cases shares two, of sizes that differ pairwise, one of them unpadded: a
        short run then compiles three programs rather than five.
        """
        if scheduled_regime(index) == "long":
            return self._exact(self.templates[-1])
        few = index < FEW or self.subject.traits.fixed_sizes
        short = self.templates[2:-1] if few else self.templates[:-1]
        return self._exact(short[int(generator(self.seed, index, 1).integers(len(short)))])

    def _exact(self, template: Template) -> Template:
        """Where every new shape is expensive, or T matters, T and B are the template's own."""
        return replace(template, exact=True) if self.subject.exact_length else template

    def case(self, index: int, *, free: bool = False, steps: int | None = None) -> Case:
        """The structure of case ``index``.

        Args:
            index: its number.
            free: draw any size, not only one that fits a template.
            steps: exact T, or None.
        """
        regime, dtype = scheduled_regime(index), scheduled_dtype(index, self.dtypes)
        fixed = free and not self.subject.traits.fixed_sizes
        case = draw_case(
            Seeded(generator(self.seed, index, 2)),
            regime=regime,
            dtype=dtype,
            sizes=self.sizes,
            template=None if fixed else self.template(index),
            masks=self.subject.masks if self.subject.supports_mask else False,
            lengths=self.subject.lengths,
            batches=self.subject.batches,
            seed=self.seed,
            index=index,
        )
        if steps is None:
            return case
        return Case(
            self.seed, index, steps, case.B, case.n_in, case.n_hidden, dtype, "none", regime
        )

    @cached_property
    def plan(self) -> large.LargerSizes:
        """Sizes beyond those of the schedule, judged without a program."""
        return large.plan(self.subject, self.seed, self.dtypes, self._declared,
                          self.sizes or ())  # fmt: skip

    def problem(self, case: Case, stream: int = 0) -> Problem:
        """The case with values that the subject accepts.

        Values are drawn freely. If the forward pass then raises or is not finite, the state becomes
        one that a sequence reaches; if that fails too, the parameters become the subject's own.

        Raises:
            OutsideDomain: its forward pass raises there, but not for ordinary values.
            ContractError: it raises for ordinary values, too.
        """
        first: Problem | ContractError | None = None
        least = next((f for f in FREEDOMS if self._tamed[case.regime, f] < _LESSONS), FREEDOMS[-1])
        for freedom in FREEDOMS[FREEDOMS.index(least) :]:
            if freedom == NATURAL and case.regime in SCALED_PARAMETERS:
                break
            found, is_finite = self._lives(case, stream, freedom)
            if isinstance(found, Problem) and is_finite:
                for tighter in FREEDOMS[: FREEDOMS.index(freedom)]:
                    self._tamed[case.regime, tighter] += 1
                return found
            first = found if first is None else first
        if isinstance(first, Problem):
            return first
        assert first is not None
        ordinary = replace(case, regime="ordinary", mask="none")
        if isinstance(self._lives(ordinary, stream, NATURAL)[0], Problem):
            raise OutsideDomain(str(first), method=first.method, item=first.item) from first
        raise first

    def build(self, case: Case, stream: int, freedom: str) -> Problem:
        """The case with values of a given freedom: see :func:`.problem.build`."""
        return build(self.subject, case, stream, freedom)

    def _lives(self, case: Case, stream: int, freedom: str) -> tuple[Problem | ContractError, bool]:
        """The problem, or the error of its forward pass, and whether its outputs are finite."""
        try:
            problem = self.build(case, stream, freedom)
            mask = () if problem.mask is None else (problem.mask,)
            args: Any = (problem.params, problem.xs, problem.state0, *mask)
            ys, state, _ = call(*self._forward, *args)
        except ContractError as error:
            return error, False
        leaves = (ys, *(leaf for leaf in trees.leaves(state) if is_float(leaf)))
        return problem, all(bool(np.isfinite(leaf).all()) for leaf in leaves)


def _forward(subject: Subject) -> tuple[str, Any]:
    """The name of the user's forward method, and its run over a sequence."""
    return "step" if subject.kind == "cell" else "forward", subject.layer.forward


def generator(seed: int, index: int, stream: int) -> np.random.Generator:
    """The generator of case ``index``; different streams are independent."""
    return np.random.default_rng([seed, index, stream])


def scheduled_regime(index: int) -> str:
    """The regime of case ``index``."""
    return _SCHEDULE[index % len(_SCHEDULE)]


def turn_of(case: Case) -> int:
    """How many cases of the same regime the schedule has before this one."""
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
    values = Values(
        case,
        rng,
        subject.traits.domain,
        subject.thresholds,
        freedom,
        turn_of(case),
        subject.traits.final_state_gradient,
    )
    problem = fill(subject, values)
    object.__setattr__(problem, "original", stream == 0 and freedom == FREE)
    return problem


def templates(
    seed: int,
    sizes: Sequence[tuple[int, int]] | None,
    lengths: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
) -> tuple[Template, ...]:
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
    return tuple(replace(one, T=nearest(one.T, lengths), B=nearest(one.B, batches)) for one in made)
