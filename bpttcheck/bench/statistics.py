"""Ratios of paired rounds with bootstrap intervals, powers of T, and their summary of a subject.

Over all points a subject has one ratio for each hand-written form, one sentence, and exponents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bpttcheck.bench.forms import NUMPY
from bpttcheck.bench.report.records import HAND, Exponent, Interval, MeasuredPoint, Size, Summary
from bpttcheck.contract import Array

RESAMPLES = 2000
_ENDS = (2.5, 97.5)


def median(samples: Sequence[float]) -> float:
    """The median."""
    return float(np.median(samples))


def ratio(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Interval:
    """The median over the rounds of ``above / below``, with a 95 % interval.

    Rounds are resampled with replacement, pairs kept together: a disturbance of a whole round
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
        other: seconds of each call of an implementation without such a first call.

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


# Two forms are called equally fast where the interval holds 1 and reaches no further than this.
_EQUAL = 0.1


def summaries(points: Sequence[MeasuredPoint]) -> list[Summary]:
    """Each hand-written form over all points that have a baseline, for each dtype."""
    dtypes = dict.fromkeys(point.dtype for point in points)
    found = [_summary(form, dtype, points) for dtype in dtypes for form in HAND]
    return [one for one in found if one is not None]


def _summary(form: str, dtype: str, points: Sequence[MeasuredPoint]) -> Summary | None:
    pairs: list[tuple[list[float], list[float]]] = []
    ratios: list[float] = []
    errors: list[float] = []
    for point in points:
        timing, base = point.timing(form), point.timing(point.baseline)
        if point.dtype != dtype or timing is None or base is None or timing.ratio is None:
            continue
        pairs.append((timing.samples, base.samples))
        ratios.append(timing.ratio.value)
        errors.append(timing.error)
    if not pairs:
        return None
    mean = geometric_mean(pairs)
    return Summary(form, dtype, mean, min(ratios), max(ratios), len(pairs), max(errors))


def same_over(points: Sequence[MeasuredPoint]) -> Interval | None:
    """The ratio of a form to itself over all points; None without a point that has its samples."""
    found = [(point.again, own.samples) for point in points
             if point.again and (own := point.timing("numpy"))]  # fmt: skip
    return geometric_mean(found) if found else None


# A noise floor above this is said beside the result.
LOUD = 0.05
_WORDS = {"numpy": " (as it is)", "deferred": " (deferred)", "fused": " (fused)"}


def headline(
    name: str,
    dtype: str,
    found: Sequence[Summary],
    points: Sequence[MeasuredPoint],
    busy: str = "",
) -> str:
    """The result in one sentence, with what makes it doubtful at its end.

    Args:
        name: of the subject.
        dtype: the dtype.
        found: its forms over all points.
        points: the points.
        busy: that the machine was busy, or empty.
    """
    mine = {one.form: one for one in found if one.dtype == dtype}
    in_numpy = [mine[form] for form in NUMPY if form in mine]
    own = [point for point in points if point.dtype == dtype]
    if not in_numpy:
        why = next((p.absent["jax"] for p in own if "jax" in p.absent), "no JAX form was measured")
        return f"{name}: not compared with JAX autodiff: {why}"
    best = min(in_numpy, key=lambda one: one.ratio.value)
    which = _WORDS[best.form] if best.form != "numpy" or len(in_numpy) > 1 else ""
    text = f"{name}: hand-written NumPy{which} is {compared(best.ratio)} JAX autodiff"
    text += f" {_ends(best.ratio)}"
    if "on_jax" in mine:
        ratio = mine["on_jax"].ratio
        text += f", on JAX {_alone(ratio)}"
    error = max(one.error for one in mine.values())
    sizes = "1 size" if best.points == 1 else f"geometric mean of {best.points} sizes"
    text += f"; gradients agree to {error:.0e} ({sizes}, {dtype})"
    floor = max((point.same.reach for point in own), default=0.0)
    doubts = [f"noise floor {floor:.0%}"] if floor > LOUD else []
    doubts += [busy] if busy else []
    return f"{text} [doubtful: {'; '.join(doubts)}]" if doubts else text


def compared(ratio: Interval) -> str:
    """``1.2x slower than``, ``1.4x faster than``, or ``as fast as`` where the interval holds 1.

    A wide interval around 1 decides nothing: ``not told apart from``.
    """
    if 1.0 in ratio:
        return "as fast as" if _is_narrow(ratio) else "not told apart from"
    if ratio.value > 1:
        return f"{_times(ratio.value)} slower than"
    return f"{_times(1 / ratio.value)} faster than"


def _is_narrow(ratio: Interval) -> bool:
    return ratio.low >= 1 / (1 + _EQUAL) and ratio.high <= 1 + _EQUAL


def _alone(ratio: Interval) -> str:
    """The comparison without what it is compared with."""
    if 1.0 in ratio and not _is_narrow(ratio):
        return f"not told apart {_ends(ratio)}"
    return compared(ratio).removesuffix(" as").removesuffix(" than")


def _ends(ratio: Interval) -> str:
    """The interval in the direction of the sentence."""
    if 1.0 in ratio and not _is_narrow(ratio):
        return f"({_times(ratio.low)} to {_times(ratio.high)} of its time)"
    low, high = ratio.low, ratio.high
    if ratio.value < 1 and 1.0 not in ratio:
        low, high = 1 / high, 1 / low
    return f"({_number(low)} to {_number(high)})"


def _times(value: float) -> str:
    return f"{_number(value)}x"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 1.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def exponents(points: Sequence[MeasuredPoint]) -> list[Exponent]:
    """The growth with T of every form measured at three lengths or more of one width and batch."""
    groups: dict[tuple[str, str, int, int, int], list[tuple[Size, float]]] = {}
    for point in points:
        for timing in point.timings:
            size = point.size
            key = (timing.form, point.dtype, size.B, size.n_in, size.n_hidden)
            groups.setdefault(key, []).append((size, timing.seconds))
    found: list[Exponent] = []
    for (form, dtype, *_), measured in groups.items():
        if len({size.T for size, _ in measured}) < 3:
            continue
        lengths = [float(size.T) for size, _ in measured]
        power, factor = power_of(lengths, [seconds for _, seconds in measured])
        largest = max((size for size, _ in measured), key=lambda size: size.T)
        found.append(Exponent(form, largest, dtype, power, factor))
    return found
