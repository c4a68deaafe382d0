"""What a published formula is here: its text, its readings as executable code, its correction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .grid import Kind
from .search import Condition
from .sequence import Reader


@dataclass(frozen=True)
class Reading:
    """One way to read a formula for gradients.

    Args:
        words: how it is read.
        rule: from a sequence to what the formula says, by the blocks of :meth:`.grid.Truth.spread`.
    """

    words: str
    rule: Reader


@dataclass(frozen=True)
class Outcome:
    """What one problem says about a statement that is not a gradient.

    Args:
        holds: does the statement hold; None: the problem is no evidence.
        numbers: what is to be shown if it does not.
    """

    holds: bool | None
    numbers: str = ""


@dataclass(frozen=True)
class Statement:
    """One way to read a statement: a bound, an identity, a system that must exist.

    Args:
        words: how it is read.
        kinds: the kinds of problem it is tried on.
        rule: from a kind and the number of a problem to an outcome.
        conditions: what tells the kinds apart.
        problems: problems of each kind.
    """

    words: str
    kinds: Sequence[Any]
    rule: Callable[[Any, int], Outcome]
    conditions: Sequence[Condition] = ()
    problems: int = 4


@dataclass(frozen=True)
class Formula:
    """A formula as published.

    Args:
        code: such as ``"A1"``.
        text: the formula in its text's notation.
        readings: every reasonable reading, the one that is closest to the letter first.
        by_eye: the verdict of a first reading by eye, in the words of a verdict and its condition.
        corrected: the right formula, in the same notation; empty if the text has it.
        correction: the right formula as code.
        model: what the text assumes, in words.
        within: the same as a test of a kind.
        note: what is to be said besides.
        parts: the readings are parts of the formula, not other ways to read all of it.
        against: what the search found that the first reading did not, in one sentence.
    """

    code: str
    text: str
    readings: tuple[Reading | Statement, ...]
    by_eye: str
    corrected: str = ""
    correction: Reading | Statement | None = None
    model: str = ""
    within: Callable[[Kind], bool] = lambda kind: True
    note: str = ""
    parts: bool = False
    against: str = ""

    @property
    def all_readings(self) -> tuple[Reading | Statement, ...]:
        """The readings and then the correction."""
        return self.readings if self.correction is None else (*self.readings, self.correction)


def last_step(kind: Kind) -> bool:
    """The error of one step: that of the last."""
    return kind.loss == "last step"


def later(kind: Kind) -> bool:
    """The same, with a step before it."""
    return last_step(kind) and kind.T > 1
