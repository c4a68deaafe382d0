"""The sequence of cases of one subject and one seed, and their values.

Case ``i`` is a function of the seed and of ``i``: its sizes, its regime and its numbers. Only where
the subject rejects values are they drawn again, closer to those that it initialises itself.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import is_float
from bpttcheck.errors import ContractError, OutsideDomain
from bpttcheck.problems import large
from bpttcheck.problems.problem import (
    FEW,
    Problem,
    Seeded,
    Template,
    build,
    draw_case,
    generator,
    scheduled_dtype,
    scheduled_regime,
    templates,
)
from bpttcheck.problems.values import FREEDOMS, NATURAL, SCALED_PARAMETERS
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.user_code import call

# Declared widths that are compiled; the others are judged without a program.
_COMPILED_SIZES = 8
# Rejected cases of one regime after which its values stay closer to the subject's own.
_LESSONS = 2
# One sequence case in this many is drawn at any size and judged by differences alone.
FREE = 10


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
        self.sizes = declared and declared[:_COMPILED_SIZES]
        self.templates = templates(seed, self.sizes, subject.lengths, subject.batches)
        self._tamed: Counter[tuple[str, str]] = Counter()
        self._forward = _forward(subject)

    def of(self, subject: Subject) -> Cases:
        """The same cases for another subject, which may accept other values."""
        other = copy.copy(self)
        other.subject, other._tamed, other._forward = subject, Counter(), _forward(subject)
        return other

    def scheduled(self, index: int, one_step: bool) -> Scheduled:
        """Case ``index`` of a check of single steps or of whole sequences."""
        fixed = self.subject.traits.fixed_sizes
        free = not one_step and index % FREE == FREE - 1 and not fixed
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
        exact = self.subject.traits.fixed_sizes or self.subject.traits.exact_length
        return replace(template, exact=True) if exact else template

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

    def _lives(self, case: Case, stream: int, freedom: str) -> tuple[Problem | ContractError, bool]:
        """The problem, or the error of its forward pass, and whether its outputs are finite."""
        try:
            problem = build(self.subject, case, stream, freedom)
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
