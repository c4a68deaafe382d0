"""The places where a NumPy program takes a branch, and the side it took there.

An event keeps its arguments only; the decisions are computed on demand, because most recorded runs
are compared once and few are explained.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.branches.user_line import SourceLine

Array = NDArray[Any]

UNORDERED = 2


@dataclass(frozen=True)
class Event:
    """One branch: ``name`` is the NumPy function that the line ``number`` of ``filename`` calls.

    ``codes`` are the decisions, and ``ties`` marks decisions that rest on an equality.
    """

    name: str
    filename: str
    number: int

    @property
    def line(self) -> SourceLine:
        """The line of user code."""
        return SourceLine(self.filename, self.number)

    @cached_property
    def codes(self) -> Array:
        """The decisions, as an array that is equal if and only if the branch is the same."""
        raise NotImplementedError

    @cached_property
    def key(self) -> bytes:
        """The decisions, as bytes that are equal if and only if ``codes`` are."""
        return self.codes.tobytes()

    @property
    def ties(self) -> NDArray[np.bool_]:
        """True where the arguments lie exactly on the threshold; the shape of ``codes``."""
        raise NotImplementedError

    def __str__(self) -> str:
        """``maximum at cell.py:12: z = np.maximum(z, 0)``."""
        return f"{self.name} at {self.line}"


@dataclass(frozen=True)
class ComparisonEvent(Event):
    """``a`` against ``b``, entry by entry: -1, 0 (a tie) or +1, and 2 if one of them is NaN."""

    a: Any
    b: Any

    @cached_property
    def codes(self) -> Array:
        """The sign of ``a - b``, without the overflow of a difference."""
        greater, less = np.greater(self.a, self.b), np.less(self.a, self.b)
        codes = np.asarray(greater, np.int8) - np.asarray(less, np.int8)
        if codes.all():
            return codes
        unordered = ~(greater | less | np.equal(self.a, self.b))
        return np.where(unordered, np.int8(UNORDERED), codes)

    @cached_property
    def key(self) -> bytes:
        """Cheaper than ``codes``, which are rarely needed."""
        a, b = self.a, self.b
        return np.greater(a, b).tobytes() + np.less(a, b).tobytes() + np.equal(a, b).tobytes()

    @property
    def ties(self) -> NDArray[np.bool_]:
        """Where ``a == b``."""
        return self.codes == 0


@dataclass(frozen=True)
class RoundingEvent(Event):
    """``a`` against the integers (``floor`` and similar)."""

    a: Any

    @cached_property
    def codes(self) -> Array:
        """``floor(a) + ceil(a)``: odd between two integers, even exactly on one."""
        codes = np.floor(self.a) + np.ceil(self.a)
        return np.where(np.isnan(codes), np.inf, codes)

    @property
    def ties(self) -> NDArray[np.bool_]:
        """Where ``a`` is an integer."""
        return np.asarray(self.a == np.floor(self.a))


@dataclass(frozen=True)
class SelectionEvent(Event):
    """Which entries of ``a`` along ``axis`` are the extreme one (``max``, ``argmin``, ...)."""

    a: Array
    axis: Any
    largest: bool

    @cached_property
    def codes(self) -> Array:
        """True at the extreme entries: more than one of them is a tie."""
        pick = np.max if self.largest else np.min
        return np.asarray(self.a == pick(self.a, axis=self.axis, keepdims=True))

    @property
    def ties(self) -> NDArray[np.bool_]:
        """The extreme entries of each reduction that has several."""
        count = np.sum(self.codes, axis=self.axis, keepdims=True)
        return self.codes & (count > 1)


@dataclass(frozen=True)
class OrderEvent(Event):
    """The order of ``a`` along its last axis (``sort``, ``argsort``, ``partition``, ``median``)."""

    a: Array

    @cached_property
    def codes(self) -> Array:
        """The sorting permutation, and where two neighbours in it are equal."""
        order = np.argsort(self.a, axis=-1, kind="stable")
        return np.concatenate([order, self._steps() == 0], axis=-1)

    @property
    def ties(self) -> NDArray[np.bool_]:
        """Where two neighbours in the order are equal; breaking a tie always changes this."""
        equal = self._steps() == 0
        return np.concatenate([np.zeros(self.a.shape, bool), equal], axis=-1)

    def _steps(self) -> Array:
        return np.diff(np.sort(self.a, axis=-1), axis=-1)
