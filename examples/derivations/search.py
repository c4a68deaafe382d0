"""The search for conditions: under which of them is a formula always right?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LONGEST = 4
"""Most conditions in one conjunction."""


@dataclass(frozen=True)
class Condition:
    """A condition on a kind of problem, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Found:
    """What the search found.

    Args:
        clauses: conjunctions of conditions, the formula being right under each of them.
        exact: the clauses cover every kind on which the formula was always right.
    """

    clauses: tuple[tuple[str, ...], ...]
    exact: bool

    def __str__(self) -> str:
        """The clauses as one sentence."""
        text = "; or ".join(" and ".join(clause) for clause in self.clauses)
        return text if self.exact else f"{text}; or in single kinds that no few conditions describe"


def conditions(kinds: Sequence[Any]) -> list[Condition]:
    """The conditions that tell the given kinds of a recurrent network apart."""
    lengths = sorted({kind.T for kind in kinds})
    names = {"identity": "f is the identity", "relu": "f is ReLU"}
    found = [
        Condition(f"T = {T}" if T == lengths[0] else f"T <= {T}", lambda kind, T=T: kind.T <= T)
        for T in lengths[:-1]
    ]
    found += [
        Condition(names.get(f, f"f is {f}"), lambda kind, f=f: kind.activation == f)
        for f in dict.fromkeys(kind.activation for kind in kinds)
    ]
    found += [
        Condition("H = 1", lambda kind: kind.H == 1),
        Condition("n = 1", lambda kind: kind.n == 1),
        Condition("n = H", lambda kind: kind.n == kind.H),
        Condition("W is diagonal", lambda kind: kind.H == 1 or kind.W == "diagonal"),
        Condition("W is symmetric", lambda kind: kind.H == 1 or kind.W != "general"),
        Condition("the loss is at the last step only", lambda kind: kind.loss == "last step"),
        Condition("h_0 = 0", lambda kind: kind.h0 == "zero"),
    ]
    return found


def search(kinds: Sequence[Any], right: Sequence[bool | None], known: Sequence[Condition]) -> Found:
    """The simplest conjunctions of conditions under which nothing is wrong.

    Args:
        kinds: the kinds of problem.
        right: for each of them True, False, or None where nothing could be seen.
        known: the conditions to build from; one that holds of every kind is of no use.

    Returns:
        Every clause is true of no wrong kind, no condition can be left out of it, and no clause is
        superfluous.
    """
    good = np.array([r is True for r in right])
    bad = np.array([r is False for r in right])
    table = {c.words: np.array([c.holds(kind) for kind in kinds]) for c in known}
    table = {words: row for words, row in table.items() if not row.all() and row.any()}
    primes: list[tuple[tuple[str, ...], np.ndarray]] = []
    for size in range(1, LONGEST + 1):
        for clause in itertools.combinations(table, size):
            if any(set(simpler) <= set(clause) for simpler, _ in primes):
                continue
            rows = np.logical_and.reduce([table[words] for words in clause])
            if (rows & good).any() and not (rows & bad).any():
                primes.append((clause, rows & good))
    return _cover(good, primes)


def _cover(good: np.ndarray, primes: list[tuple[tuple[str, ...], np.ndarray]]) -> Found:
    """The fewest clauses, greedily: first those that cover most."""
    left, chosen = good.copy(), []
    while left.any():
        best = max(primes, key=lambda p: ((p[1] & left).sum(), -len(p[0])), default=None)
        if best is None or not (best[1] & left).any():
            break
        chosen.append(best)
        left &= ~best[1]
    for clause, rows in list(chosen):
        others = [one for one in chosen if one[0] != clause]
        if others and not (rows & ~np.logical_or.reduce([r for _, r in others])).any():
            chosen = others
    return Found(tuple(clause for clause, _ in chosen), not left.any())
