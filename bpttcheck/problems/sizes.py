"""Sizes drawn from a user's Hypothesis strategy, reproducibly."""

from __future__ import annotations

from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase

from bpttcheck.errors import ContractError

_DRAWS = 60
_UNHURRIED: Any = list(HealthCheck)


def collect(given: Any, seed: int) -> tuple[tuple[int, int], ...]:
    """Distinct ``(n_in, n_hidden)``, small ones first, a function of ``seed``.

    Args:
        given: a strategy of pairs, or the pairs themselves.
        seed: the run's seed.

    Raises:
        ContractError: if the strategy yields anything but pairs of positive integers.
    """
    found: set[Any] = set()
    if not hasattr(given, "example"):
        return _ordered({_checked(tuple(pair)) for pair in given})

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=_DRAWS,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=_UNHURRIED,
    )
    @hypothesis.given(given)
    def draw(pair: Any) -> None:
        found.add(_checked(pair))

    draw()
    return _ordered(found)


def _ordered(found: set[Any]) -> tuple[tuple[int, int], ...]:
    """Small ones first, so that those are compiled; the others are judged without a program."""
    return tuple(sorted(found, key=lambda pair: (pair[0] + pair[1], pair)))


def _checked(pair: Any) -> tuple[int, int]:
    fine = (
        isinstance(pair, tuple)
        and len(pair) == 2
        and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in pair)
    )
    if not fine:
        raise ContractError(
            f"the strategy `sizes` drew {pair!r}, but should draw pairs (n_in, n_hidden) of "
            "positive integers",
            item="sizes",
        )
    return pair[0], pair[1]
