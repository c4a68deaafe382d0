"""Does a subject give the same results every time, and if not, by how much do they vary?

A race that corrupts one call in forty is found by :data:`CALLS` calls with a probability above
99.9 %. Sums whose order changes from call to call vary by rounding alone: this is measured,
reported, and included in the bars of everything that is compared with such gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.errors import ContractError
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.probe import Impurity
from bpttcheck.subject.values import Bits, bits, same
from bpttcheck.verify.conduct.passes import Arguments, Passes, RepeatBudget, Rounding, flat

CALLS = 300
"""Repetitions: an event in one call of forty is missed with probability (39/40)^300 = 5e-4."""

SECONDS = 0.5
"""A slow subject is repeated no longer than this; the number of repetitions is reported."""

ENOUGH = 118
"""With fewer repetitions, an event in one call of forty is missed in at least 5 % of all runs."""

SPREAD_CALLS = 16
"""Repetitions of one problem that measure how its gradients vary."""

_ALIKE = 4


@dataclass
class Repeats:
    """The results of repetitions at one point.

    Args:
        calls: how often forward and backward ran.
        ulps: by item, the largest difference, in units of the last place of the item's largest
            entry, of those that rounding explains.
        garbage: by item, how many calls differed by more than rounding, and the largest difference.
        error: how a repetition failed where the first had not, or None.
    """

    calls: int = 0
    ulps: dict[str, float] = field(default_factory=dict)
    garbage: dict[str, tuple[int, float]] = field(default_factory=dict)
    error: ContractError | None = None


def repeated(
    passes: Passes, given: Arguments, calls: int = CALLS, seconds: float = SECONDS
) -> Repeats:
    """Run forward and backward at one point again and again.

    Args:
        passes: the subject.
        given: the point.
        calls: how often, unless it takes longer than ``seconds``.
        seconds: work after which no further call is begun.

    Returns:
        The observations, with the number of calls made.

    Raises:
        ContractError: the first call failed.
    """
    budget = RepeatBudget(seconds)
    first = bits(passes.both(given.copy()))
    seen, bar = Repeats(calls=1), Rounding(passes, given, first)
    lent = given.copy()
    while seen.calls < calls and budget.left:
        seen.calls += 1
        try:
            cache, outputs = passes.forward(lent)
            _compare(seen, bar, first, flat(outputs))
            _compare(seen, bar, first, flat(passes.backward(lent, cache)))
        except ContractError as error:
            seen.error = error
            break
    return seen


def _compare(seen: Repeats, bar: Rounding, first: Bits, again: Bits) -> None:
    for item, now in again.items():
        if item not in first or same(first[item], now):
            continue
        gap = _gap(first[item], now)
        if bar.explains(item, first[item], now):
            unit = float(np.spacing(np.abs(first[item]).max(initial=0.0)))
            seen.ulps[item] = max(seen.ulps.get(item, 0.0), gap / unit)
        else:
            count, largest = seen.garbage.get(item, (0, 0.0))
            seen.garbage[item] = (count + 1, max(largest, gap))


def _gap(value: Array, other: Array) -> float:
    if value.shape != other.shape or value.dtype.kind not in "fiub":
        return float("nan")
    with np.errstate(all="ignore"):
        return float(np.max(np.abs(other.astype(float) - value.astype(float)), initial=0.0))


def unrepeatable(passes: Passes, seen: Repeats, deterministic: bool = False) -> list[Impurity]:
    """The differences between many runs at one point.

    Args:
        passes: the subject.
        seen: the result of :func:`repeated`.
        deterministic: the subject promises equal bits: no difference is left to rounding.

    Returns:
        For each item that varied by more than rounding, one impurity; for all that vary by rounding
        alone together, one of conduct.
    """
    found: list[Impurity] = []
    for item, (count, largest) in seen.garbage.items():
        method = passes.method_of(item)
        found.append(Impurity(method, item, (
            f"{method}: {item} differs in {count} of {seen.calls} calls with the same arguments, "
            f"by {largest:.2g} at most: it is random, or threads race for the same memory"
        )))  # fmt: skip
    if seen.error is not None:
        e = seen.error
        found.append(Impurity(e.method, e.item, (
            f"{e.method}: fails in call {seen.calls} with the same arguments, where the first call "
            f"did not: {e}"
        )))  # fmt: skip
    if seen.ulps and not found:
        item = max(seen.ulps, key=lambda name: seen.ulps[name])
        method = passes.method_of(item)
        text = (
            f"{method}: not bitwise reproducible: up to {max(1, round(seen.ulps[item]))} ulp of "
            f"its largest entry in {item} in {seen.calls} calls, as of sums whose order changes"
        )
        if deterministic:
            text += "; it declares `deterministic = True`, so equal bits are expected"
        found.append(Impurity(method, item, text, "" if deterministic else "rounding"))
    return found


def spread(run: Run, problem: Problem, calls: int = SPREAD_CALLS) -> dict[str, Array]:
    """How the gradients of a problem vary from call to call, for the bars.

    Args:
        run: the subject.
        problem: the point.
        calls: repetitions; if the first few are equal bit by bit there are no more.

    Returns:
        By block, the largest difference from the first call of every entry; empty if all are equal
        bit by bit.

    Raises:
        ContractError: the subject's code failed.
    """
    first = {b: np.array(a) for b, a in run.code.run(SEQUENCE, problem).gradients.items()}
    most = {block: np.zeros(np.shape(a)) for block, a in first.items()}
    for done in range(1, calls):
        for block, now in run.code.run(SEQUENCE, problem).gradients.items():
            with np.errstate(all="ignore"):
                gap = np.abs(np.asarray(now, np.float64) - np.asarray(first[block], np.float64))
            most[block] = np.fmax(most[block], gap)
        if done == _ALIKE and not any(gap.any() for gap in most.values()):
            return {}
    return most if any(gap.any() for gap in most.values()) else {}
