"""What the measurements leave behind: one record for each question that was asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.common import interval

OURS = "bpttcheck"


@dataclass(frozen=True)
class Trial:
    """One checker on one mutant, or on the right code, at one or several inputs.

    Args:
        arm: which comparison it belongs to.
        method: the checker.
        cell: the cell.
        dtype: the checked dtype.
        regime: the regime of the inputs.
        family: the mutant's family; ``""``: the right code.
        mutant: its name.
        flagged: the checker was not content.
        alarm: it is not content with the right code at the same inputs either.
        forward: forward passes of the code under test.
        backward: backward passes.
        traced: forward passes of the reference, noisy ones included.
        seconds: time taken.
        spent: it was stopped because its forward passes were used up.
    """

    arm: str
    method: str
    cell: str
    dtype: str
    regime: str
    family: str
    mutant: str
    flagged: bool
    alarm: bool
    forward: int = 0
    backward: int = 0
    traced: int = 0
    seconds: float = 0.0
    spent: bool = False

    @property
    def told_apart(self) -> bool:
        """Flagged, while the right code at the same inputs is not."""
        return self.flagged and not self.alarm


@dataclass(frozen=True)
class Reach:
    """The smallest planted error of one block that one checker catches at one input.

    Args:
        arm: ``"defaults"`` or ``"best settings"``.
        method: the checker.
        cell: the cell.
        dtype: the checked dtype.
        block: the block that is multiplied by ``1 + d``.
        smallest: the smallest ``d`` caught; None: not even the largest, or an alarm.
        alarm: the right code is flagged already.
    """

    arm: str
    method: str
    cell: str
    dtype: str
    block: str
    smallest: float | None
    alarm: bool


@dataclass(frozen=True)
class Said:
    """What one checker said about one mutant.

    Args:
        method: the checker.
        cell: the cell.
        family: the mutant's family.
        mutant: its name.
        flagged: whether it said anything.
        characters: length of the message.
        block: the block named first, or ``""``.
        right_block: whether that block is wrong in the step; None where the mutant declares none.
        right_step: whether the right time step is named; None where the mutant declares none.
        forward: forward passes of the code under test.
        seconds: time taken.
    """

    method: str
    cell: str
    family: str
    mutant: str
    flagged: bool
    characters: int
    block: str
    right_block: bool | None
    right_step: bool | None
    forward: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Rate:
    """A share with its count."""

    hits: int
    trials: int

    @property
    def share(self) -> float:
        """The share, 0 if nothing was tried."""
        return self.hits / self.trials if self.trials else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends of the 95 % Wilson interval."""
        return interval(self.hits, self.trials)

    def __str__(self) -> str:
        """``9/10 [60, 98]``: hits, trials and the interval in percent."""
        if not self.trials:
            return "-"
        low, high = self.interval
        return f"{self.hits}/{self.trials} [{100 * low:.0f}, {100 * high:.0f}]"


def told_apart(trials: Iterable[Trial]) -> Rate:
    """Mutants flagged where the right code is not."""
    mutants = [t for t in trials if t.family]
    return Rate(sum(t.told_apart for t in mutants), len(mutants))


def caught(trials: Iterable[Trial]) -> Rate:
    """Mutants flagged, whatever is said of the right code."""
    mutants = [t for t in trials if t.family]
    return Rate(sum(t.flagged for t in mutants), len(mutants))


def false_alarms(trials: Iterable[Trial]) -> Rate:
    """Right code flagged."""
    right = [t for t in trials if not t.family]
    return Rate(sum(t.flagged for t in right), len(right))
