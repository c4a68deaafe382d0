"""Which change of the value at one place would mend every gradient.

A backward pass is linear in its cotangents. So its result is, for most places, an affine function
of the value ``v`` there: ``g(v + d) = g(v) + L d``. With ``L`` measured, a change ``d`` mends the
code if ``L d = r - g(v)``, with ``r`` the known gradient. Where no ``d`` does, no edit of that
place does; where one does, terms are compared with it and need not be run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.remedy.trials import Trial

MOST_ENTRIES = 80
"""Of a value: so many runs are needed to measure ``L``."""
_ROUNDING = 1e-12
"""Relative to the largest entry of a block, to which gradients are scaled here."""


@dataclass(frozen=True)
class PlaceFit:
    """The affine function of one value.

    Args:
        slope: ``L``, of all blocks by the entries of the value.
        missing: ``r - g(v)``.
        close: how small a difference is none, relative to ``missing``.
        parts: which rows belong to which block.
    """

    slope: Array
    missing: Array
    close: float
    parts: Mapping[str, slice]

    def halves(self, right: Iterable[str]) -> Iterator[PlaceFit]:
        """For each block, what mends the entries that the value reaches, and no right block.

        Args:
            right: the blocks that are right.
        """
        kept = [name for name in right if name in self.parts]
        for block in self.parts:
            some = None if block in kept else self._on(block, kept)
            if some is not None and some.possible:
                yield some

    def _on(self, block: str, right: Sequence[str]) -> PlaceFit | None:
        part = self.parts[block]
        reached = np.abs(self.slope[part]).max(axis=1) > 1e-12 * np.abs(self.slope).max()
        rows = [part.start + int(k) for k in np.flatnonzero(reached)]
        if not np.abs(self.missing[rows]).max(initial=0.0) > self.close:
            return None
        for name in right:
            rows += range(self.parts[name].start, self.parts[name].stop)
        return PlaceFit(self.slope[rows], self.missing[rows], self.close, {})

    @property
    def possible(self) -> bool:
        """True if some change of the value mends every block."""
        solved = np.linalg.lstsq(self.slope, self.missing, rcond=None)[0]
        return self._is_it(self.slope @ solved)

    def is_mended_by(self, change: Array) -> bool:
        """True if adding ``change`` to the value mends every block."""
        return self._is_it(self.slope @ np.ravel(change))

    def times(self, change: Array) -> float | None:
        """How many times ``change`` must be added to mend every block; None: no number does."""
        moved = self.slope @ np.ravel(change)
        size = float(moved @ moved)
        if not size > 0:
            return None
        number = float(moved @ self.missing) / size
        return number if self._is_it(number * moved) else None

    def _is_it(self, moved: Array) -> bool:
        gap = np.abs(moved - self.missing).max(initial=0.0)
        return bool(gap <= self.close * np.abs(self.missing).max(initial=0.0) + _ROUNDING)


def measured(
    trial: Trial, run: Callable[[Any], Mapping[str, Any] | None], value: Array
) -> PlaceFit | None:
    """The affine function of the value at one place.

    Args:
        trial: the problem with its gradients.
        run: gives the gradients when a change is added to the value at its single visit; None where
            it raises, or where there are several visits.
        value: the value.

    Returns:
        None if the result is not affine in it, or if it has too many entries.
    """
    if not 0 < value.size <= MOST_ENTRIES:
        return None
    first = run(np.zeros(value.shape))
    if first is None:
        return None
    shaped = [b for b, one in trial.known.items() if np.shape(first[b]) == one.value.shape]
    blocks = [b for b in shaped if trial.known[b].value.size]
    weights = {b: 1.0 / (np.abs(trial.known[b].value).max() or 1.0) for b in blocks}

    def flat(found: Mapping[str, Any] | None) -> Array | None:
        if found is None:
            return None
        parts = [np.asarray(found[b], np.float64) * weights[b] for b in blocks]
        if any(p.shape != trial.known[b].value.shape for p, b in zip(parts, blocks, strict=True)):
            return None
        whole = np.concatenate([np.ravel(part) for part in parts])
        return whole if np.isfinite(whole).all() else None

    right = np.concatenate([np.ravel(trial.known[b].value) * weights[b] for b in blocks])
    step = float(np.abs(value).max()) or 1.0
    start = flat(first) if blocks else None
    if start is None:
        return None
    columns: list[Array] = []
    for entry in np.ndindex(value.shape):
        change = np.zeros(value.shape)
        change[entry] = step
        moved = flat(run(change))
        if moved is None:
            return None
        columns.append((moved - start) / step)
    slope = np.stack(columns, axis=1)
    close = 1e-7 if trial.problem.dtype == np.float64 else 1e-2
    anywhere = step * np.random.default_rng(0).uniform(-2.0, 2.0, value.shape)
    moved = flat(run(anywhere))
    if moved is None:
        return None
    expected = slope @ np.ravel(anywhere)
    if np.abs(moved - start - expected).max() > close * (np.abs(expected).max() + 1.0):
        return None
    ends = np.cumsum([0, *(trial.known[b].value.size for b in blocks)])
    parts = {b: slice(int(ends[k]), int(ends[k + 1])) for k, b in enumerate(blocks)}
    return PlaceFit(slope, right - start, close, parts)
