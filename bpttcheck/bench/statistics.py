"""Ratios of paired rounds with bootstrap intervals, their geometric mean, and powers of T."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bpttcheck.bench.report.records import Interval
from bpttcheck.contract import Array

RESAMPLES = 2000
_ENDS = (2.5, 97.5)


def median(samples: Sequence[float]) -> float:
    """The median."""
    return float(np.median(samples))


def ratio(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Interval:
    """The median over the rounds of ``above / below``, with a 95 % interval.

    Rounds are drawn again with replacement, pairs kept together: what slowed a whole round down
    cancels in its ratio.

    Args:
        above: seconds in each round.
        below: seconds in each round. Where one has more rounds than the other, the first rounds
            count, which both took part in.
        seed: of the bootstrap.
    """
    values = _medians(above, below, seed)
    return _interval(_paired_median(above, below), values)


def geometric_mean(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Interval:
    """The geometric mean over points of their ratios; rounds are resampled within each point.

    Args:
        pairs: for each point the ``(above, below)`` of :func:`ratio`.
    """
    logs = [np.log(_medians(above, below, seed)) for seed, (above, below) in enumerate(pairs)]
    values = np.exp(np.mean(logs, axis=0))
    value = math.exp(float(np.mean([math.log(_paired_median(*pair)) for pair in pairs])))
    return _interval(value, values)


def power_of(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """``(power, factor)`` of the line ``seconds = factor * size ** power`` in the logarithms.

    Least squares. At least two sizes differ.
    """
    slope, offset = np.polyfit(np.log(sizes), np.log(seconds), 1)
    return float(slope), float(math.exp(offset))


def pays_off_after(first_call: float, seconds: float, other: float) -> int | None:
    """The number of calls after which ``first_call`` and the rest at ``seconds`` cost less.

    Args:
        first_call: seconds of the first call.
        seconds: of each later call.
        other: seconds of each call of what needs no such first call.

    Returns:
        The number; None if there is none.
    """
    if seconds >= other:
        return None
    return max(1, math.ceil((first_call - seconds) / (other - seconds)))


def _paired_median(above: Sequence[float], below: Sequence[float]) -> float:
    return median([a / b for a, b in zip(above, below, strict=False)])


def _medians(above: Sequence[float], below: Sequence[float], seed: int) -> Array:
    """Bootstrapped medians ``(RESAMPLES,)``."""
    ratios = np.array([a / b for a, b in zip(above, below, strict=False)])
    drawn = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    return np.median(ratios[drawn], axis=1)


def _interval(value: float, values: Array) -> Interval:
    low, high = np.percentile(values, _ENDS)
    return Interval(value, float(low), float(high))
