"""Sizes drawn from a user's Hypothesis strategy, reproducibly."""

from __future__ import annotations

from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase

from bpttcheck.errors import ContractError

_DRAWS = 30
_KEPT = 8
_UNHURRIED: Any = list(HealthCheck)


def collect(strategy: Any, seed: int) -> tuple[tuple[int, int], ...]:
    """Distinct ``(n_in, n_hidden)`` from ``strategy``, small ones first, a function of ``seed``.

    Raises:
        ContractError: if the strategy yields anything but pairs of positive integers.
    """
    found: set[Any] = set()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=_DRAWS,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=_UNHURRIED,
    )
    @hypothesis.given(strategy)
    def draw(pair: Any) -> None:
        found.add(_checked(pair))

    draw()
    return tuple(sorted(found, key=lambda pair: (pair[0] + pair[1], pair))[:_KEPT])


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
