"""Hypothesis strategies over the problems that the checks run, for use in your own ``@given``.

    from hypothesis import given
    from bpttcheck import strategies as bst

    @given(problem=bst.problems(MyCell()))
    def test_my_own_law(problem):
        ys, state, tape = bpttcheck.unroll(MyCell(), problem.params, problem.xs, problem.state0)
        ...

They draw from the same space as :func:`bpttcheck.check`; everything shrinks towards one step, one
row, one unit, the ordinary regime and no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from bpttcheck.errors import ContractError
from bpttcheck.problems.cases import build, draw_case
from bpttcheck.problems.problem import MASKS, REGIMES, Problem
from bpttcheck.problems.values import draw_mask
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject

__all__ = [
    "Case",
    "Problem",
    "activations",
    "cases",
    "dtypes",
    "lengths",
    "masks",
    "problems",
    "regimes",
    "sizes",
]


@dataclass(frozen=True)
class _Drawn:
    """The choices of a structure, made by Hypothesis."""

    draw: Callable[[SearchStrategy[Any]], Any]

    def integer(self, low: int, high: int) -> int:
        """An integer in ``[low, high]``, shrinking to ``low``."""
        return self.draw(st.integers(low, high))

    def choice(self, options: Sequence[Any]) -> Any:
        """One of ``options``, shrinking to the first."""
        return self.draw(st.sampled_from(list(options)))


def sizes(most_in: int = 5, most_hidden: int = 6) -> SearchStrategy[tuple[int, int]]:
    """Pairs ``(n_in, n_hidden)``, from ``(1, 1)`` up."""
    return st.tuples(st.integers(1, most_in), st.integers(1, most_hidden))


def lengths(most: int = 12) -> SearchStrategy[int]:
    """Numbers of time steps T, from 1 to ``most``."""
    return st.integers(1, most)


def activations() -> SearchStrategy[str]:
    """Names of the activations in :mod:`bpttcheck.activations`."""
    from bpttcheck.activations import ACTIVATIONS

    return st.sampled_from(list(ACTIVATIONS))


def dtypes() -> SearchStrategy[str]:
    """``"float64"`` or ``"float32"``."""
    return st.sampled_from(["float64", "float32"])


def regimes() -> SearchStrategy[str]:
    """Names of the regimes, the ordinary one first."""
    return st.sampled_from(list(REGIMES))


@st.composite
def masks(draw: Any, T: int, B: int) -> Any:
    """Masks ``(T, B)`` of every kind, or None.

    Args:
        draw: supplied by Hypothesis.
        T: time steps.
        B: batch rows.
    """
    kind = draw(st.sampled_from(MASKS))
    seed = draw(st.integers(0, 2**31))
    case = Case(seed, 0, T, B, 1, 1, "float64", kind, "ordinary")
    return draw_mask(case, np.random.default_rng(seed))


@st.composite
def cases(
    draw: Any,
    regime: str | None = None,
    dtype: str | None = None,
    sizes: SearchStrategy[tuple[int, int]] | None = None,
    masks: bool = True,
) -> Case:
    """Structures of problems, without their values.

    Args:
        draw: supplied by Hypothesis.
        regime: one of :data:`bpttcheck.problems.problem.REGIMES`; None: any.
        dtype: ``"float64"`` or ``"float32"``; None: either.
        sizes: a strategy of ``(n_in, n_hidden)``; None: :func:`sizes`.
        masks: False leaves masks out.

    Raises:
        ContractError: for an unknown regime or dtype.
    """
    _known("regime", regime, list(REGIMES))
    _known("dtype", dtype, ["float64", "float32"])
    return draw_case(
        _Drawn(draw),
        regime=draw(regimes()) if regime is None else regime,
        dtype=draw(dtypes()) if dtype is None else dtype,
        sizes=None if sizes is None else [draw(sizes)],
        masks=masks,
        seed=draw(st.integers(0, 2**31)),
    )


@st.composite
def problems(
    draw: Any, subject: Any, regime: str | None = None, dtype: str | None = None
) -> Problem:
    """Whole problems for a cell or layer: parameters, inputs, states, masks and cotangents.

    Args:
        draw: supplied by Hypothesis.
        subject: a cell, a layer or a :class:`bpttcheck.Subject`.
        regime: one regime; None: any.
        dtype: one dtype; None: either.

    Raises:
        ContractError: if the subject is none, or its own code fails.
    """
    known = Subject.of(subject)
    case = draw(cases(regime, dtype, known.sizes, known.supports_mask))
    return build(known, case)


def _known(name: str, value: str | None, allowed: list[str]) -> None:
    if value is not None and value not in allowed:
        raise ContractError(
            f"{name}={value!r}, but should be one of {', '.join(allowed)}", item=name
        )
