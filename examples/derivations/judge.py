"""The judging: every reading on every kind of problem, a verdict, a smallest counterexample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bpttcheck.calibration import LIMIT
from bpttcheck.judge.verdict import judge, rounding

from .formula import Formula, Outcome, Reading, Statement
from .grid import PROBLEMS, Kind, Truth, kinds
from .search import Found, conditions, search


@dataclass(frozen=True)
class Trial:
    """One reading on one problem.

    Args:
        right: None where nothing could be seen.
        ratio: the largest error, in widths of its error bar.
        block: where; and there, what the text says and what is true.
        text: the text's value.
        true: the true value.
        numbers: the same for a statement.
    """

    right: bool | None
    ratio: float = 0.0
    block: object = ""
    text: Any = None
    true: Any = None
    numbers: str = ""


@dataclass(frozen=True)
class Counterexample:
    """The smallest kind of problem on which a reading is wrong, its numbers rounded."""

    kind: Any
    trial: Trial
    truth: Truth | None = None


@dataclass
class Judgement:
    """The verdict on one reading.

    Args:
        reading: which.
        right: for every kind within the text's model: True, False, or None (no evidence).
        judged: problems that were evidence.
        wrong: those on which it is wrong.
        ratios: the largest error of every kind, in widths of its bar.
        counterexample: the smallest; None if there is none.
        found: the conditions under which it is right.
    """

    reading: Reading | Statement
    right: dict[Any, bool | None] = field(default_factory=dict)
    judged: int = 0
    wrong: int = 0
    ratios: dict[Any, float] = field(default_factory=dict)
    counterexample: Counterexample | None = None
    found: Found | None = None

    def add(self, kind: Any, trial: Trial) -> None:
        """Count one problem."""
        before = self.right.setdefault(kind, None)
        if trial.right is None:
            return
        self.judged += 1
        self.wrong += not trial.right
        self.right[kind] = trial.right and before is not False
        self.ratios[kind] = max(self.ratios.get(kind, 0.0), trial.ratio)

    @property
    def worst(self) -> float:
        """The largest ratio on the kinds on which it is right."""
        return max((r for kind, r in self.ratios.items() if self.right[kind]), default=0.0)

    @property
    def verdict(self) -> str:
        """``"right"``, ``"right only if"`` or ``"wrong"``."""
        seen = set(self.right.values())
        if True not in seen and False not in seen:
            raise ValueError(f"no problem was evidence for the reading: {self.reading.words}")
        if False not in seen:
            return "right"
        return "right only if" if True in seen else "wrong"

    @property
    def sentence(self) -> str:
        """The verdict with its condition."""
        return f"{self.verdict} {self.found}" if self.verdict == "right only if" else self.verdict

    @property
    def smallest_wrong(self) -> Any:
        """The first kind on which it is wrong: kinds come in the order of their size."""
        return next((kind for kind, right in self.right.items() if right is False), None)


def judge_all(
    formulas: Iterable[Formula], chosen: Iterable[Kind] | None = None
) -> dict[str, dict[str, Judgement]]:
    """Judge every reading of every formula.

    Args:
        formulas: the formulas.
        chosen: the kinds of problem; None: all of them.

    Returns:
        By the formula's code and the reading's words, in order.
    """
    formulas = list(formulas)
    found = {
        formula.code: {reading.words: Judgement(reading) for reading in formula.all_readings}
        for formula in formulas
    }
    for kind in kinds() if chosen is None else chosen:
        asked = [formula for formula in formulas if formula.within(kind)]
        for index in range(PROBLEMS.get(kind.activation, 3)):
            truth = Truth(kind, index)
            for formula in asked:
                for reading in formula.all_readings:
                    if isinstance(reading, Reading):
                        found[formula.code][reading.words].add(kind, attempt(reading, truth))
    for by_words in found.values():
        for judgement in by_words.values():
            _conclude(judgement)
    return found


def attempt(reading: Reading, truth: Truth) -> Trial:
    """One reading on one problem: every block that it names, the worst one counts."""
    try:
        with np.errstate(all="ignore"):
            said = reading.rule(truth.sequence)
    except ValueError as error:
        if "matmul" not in str(error) and "shape" not in str(error):
            raise
        return Trial(False, np.inf, "shapes", numbers="the shapes do not fit")
    trials = [_compare(block, value, truth) for block, value in said.items()]
    seen = [trial for trial in trials if trial.right is not None]
    return max(seen, key=lambda trial: trial.ratio, default=Trial(None))


def _compare(block: object, said: Any, truth: Truth) -> Trial:
    spread = truth.spread(block)
    if np.shape(said) != spread.value.shape:
        shapes = f"the formula has shape {np.shape(said)}, the gradient {spread.value.shape}"
        return Trial(False, np.inf, block, said, spread.value, shapes)
    unit, tiny = rounding(np.float64)
    found = judge(str(block), said, spread.value, spread.copies, unit, tiny)
    if not found.usable or found.blind or (found.null and found.ratio <= LIMIT):
        return Trial(None)
    return Trial(found.ratio <= LIMIT, found.ratio, block, said, spread.value)


def _conclude(judgement: Judgement) -> None:
    """The conditions, and the smallest counterexample in round numbers."""
    reading = judgement.reading
    if isinstance(reading, Statement):
        for kind in reading.kinds:
            for index in range(reading.problems):
                judgement.add(kind, _outcome(reading.rule(kind, index)))
    if judgement.verdict == "right":
        return
    kind = judgement.smallest_wrong
    if isinstance(reading, Statement):
        judgement.counterexample = _of_statement(reading, kind)
        known = reading.conditions
    else:
        judgement.counterexample = _of_reading(reading, kind)
        known = conditions(list(judgement.right))
    judgement.found = search(list(judgement.right), list(judgement.right.values()), known)


def _outcome(outcome: Outcome) -> Trial:
    return Trial(None if outcome.holds is None else bool(outcome.holds), numbers=outcome.numbers)


def _of_statement(reading: Statement, kind: Any) -> Counterexample:
    trials = (_outcome(reading.rule(kind, index)) for index in range(reading.problems))
    return Counterexample(kind, next(trial for trial in trials if trial.right is False))


def _of_reading(reading: Reading, kind: Kind) -> Counterexample:
    """Round numbers that still show it: one decimal if possible."""
    for decimals in (1, 2, None):
        for index in range(8):
            truth = Truth(kind, index, decimals)
            trial = attempt(reading, truth)
            if trial.right is False:
                return Counterexample(kind, trial, truth)
    raise ValueError(f"the counterexample to {reading.words} is not found again")


def read_by(formula: Formula, judged: dict[str, Judgement]) -> Sequence[Judgement]:
    """The judgements of a formula's readings, its correction left out."""
    return [judged[reading.words] for reading in formula.readings]
