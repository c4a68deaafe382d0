"""Sizes around the blocks of real kernels: which T, B and widths are tried without a program.

Compiling a program for every size would cost more than everything else. These oracles need none:
time splitting and batch additivity compare a large problem with parts of sizes already judged, and
differences along random directions judge the widths.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject

EDGES = (7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 256)
"""Sizes at and around the block sizes of real kernels."""

LONGEST, MOST_ROWS, WIDEST = 1030, 300, 600
FIRST = 10_000
"""The first number of these cases; the schedule stays below."""

ALL = 50
"""The number of examples from which every larger size is tried."""

# The loop over time is not part of a cell: fewer lengths reveal state kept between calls.
_LENGTHS_OF_A_CELL = (17, 33, 65, 129, 257)
_LENGTHS_OF_A_LAYER = (*EDGES, 300, 512, 513, 1024)
_TOGETHER = ((33, 65, (3, 33)),)
_SECONDS = 2.0


@dataclass(frozen=True)
class LargerSizes:
    """The sizes to be tried beyond the schedule's.

    Args:
        lengths: cases of many steps.
        batches: cases of many rows.
        widths: cases of wide inputs and states.
        always: numbers of the cases whose size was declared, or occurs in the subject's source.
    """

    lengths: tuple[Case, ...]
    batches: tuple[Case, ...]
    widths: tuple[Case, ...]
    always: frozenset[int] = frozenset()

    def within_budget(
        self, cases: Sequence[Case], examples: int, left: list[Case]
    ) -> Iterator[Case]:
        """Those that a run of so many cases tries, the cheap ones first, as far as time goes.

        Args:
            cases: some of the cases.
            examples: cases of the run.
            left: those that time does not allow are added.
        """
        yield from Budget().spend(self._some(cases, examples), left)

    def _some(self, cases: Sequence[Case], examples: int) -> list[Case]:
        """Those that a run of so many cases tries: all from :data:`ALL` on, else as large a part.

        A fixed part rather than a time limit, because a run is a function of its seed.
        """
        step = max(1, -(-ALL // max(examples, 1)))
        others = [case for case in cases if case.index not in self.always]
        first = others[0].seed % step if others else 0
        chosen = {case.index for case in others[first::step]} | self.always
        return [case for case in cases if case.index in chosen]


def plan(
    subject: Subject,
    seed: int,
    dtypes: Sequence[str],
    sizes: Sequence[tuple[int, int]] | None,
    compiled: Sequence[tuple[int, int]],
) -> LargerSizes:
    """Every edge once, and the integers in the subject's own source with their neighbours.

    Args:
        subject: what is under test.
        seed: the run's seed.
        dtypes: the dtypes checked.
        sizes: all sizes that the subject declares; None: any.
        compiled: the widths that the schedule uses.
    """
    rng = np.random.default_rng([seed, 0x512E])
    constants = neighbours(subject.size_constants)
    dtype = "float64" if "float64" in dtypes else dtypes[0]
    pairs = list(sizes) if sizes is not None else [(1, 1), (2, 3), (3, 2), (3, 4), (4, 4)]
    narrow = [pair for pair in pairs if max(pair) <= 8] or pairs[:1]

    def case(number: int, T: int, B: int, width: tuple[int, int]) -> Case:
        return Case(seed, FIRST + number, T, B, *width, dtype, "none", "ordinary")

    def any_of(options: Sequence[tuple[int, int]]) -> tuple[int, int]:
        return options[int(rng.integers(len(options)))]

    if subject.traits.fixed_sizes:
        left = [pair for pair in sizes or () if pair not in compiled]
        fixed = tuple(case(i, 3, 2, pair) for i, pair in enumerate(left))
        return LargerSizes((), (), fixed, frozenset(one.index for one in fixed))
    long, many = _long_and_many(subject, rng, constants)
    together = tuple(
        case(190 + i, T, B, width)  # large in all sizes at once, for code that counts all entries
        for i, (T, B, width) in enumerate(_TOGETHER)
        if (subject.batches, subject.lengths, sizes) == (None, None, None)
    )
    longer = [case(i, T, B, any_of(narrow)) for i, (T, B) in enumerate(long)]
    larger = [case(100 + i, T, B, any_of(narrow)) for i, (T, B) in enumerate(many)]
    steps, rows = _few_steps(subject)[-1], min(2, max(_few_rows(subject)))
    pairs = _widths(rng, sizes, compiled, constants)
    wide = [case(200 + i, steps, rows, pair) for i, pair in enumerate(pairs)]
    if subject.kind == "cell" and steps > 1:
        # A width is judged in one step: what the steps share, a buffer, shows in several.
        longer += [case(400 + i, steps, rows, pair) for i, pair in enumerate(pairs)]
    cases = (tuple(longer), (*larger, *together), tuple(wide))
    own = (subject.lengths is not None, subject.batches is not None, sizes is not None)
    always = frozenset(
        one.index
        for part, declared in zip(cases, own, strict=True)
        for one in part
        if declared or not {*constants}.isdisjoint((one.T, one.B, one.n_in, one.n_hidden))
    )
    return LargerSizes(*cases, always)


def _long_and_many(
    subject: Subject, rng: np.random.Generator, constants: Sequence[int]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """``(T, B)`` of long sequences of few rows, and of short ones of many."""
    rows, steps = _few_rows(subject), _few_steps(subject)
    lengths = _allowed(subject.lengths, _lengths(subject, constants), LONGEST)
    batches = _allowed(subject.batches, {5, *EDGES, MOST_ROWS, *constants}, MOST_ROWS)
    long = [(T, rows[int(rng.integers(len(rows)))]) for T in lengths]
    is_free = subject.batches is None and subject.lengths is None
    if is_free:
        long.append((MOST_ROWS, 4))  # many rows of the flattened sequence
    many = [(steps[int(rng.integers(len(steps)))], B) for B in batches]
    return long, [*many, (64, 17)] if is_free else many


def _few_rows(subject: Subject) -> Sequence[int]:
    return [B for B in subject.batches or (1, 2, 3) if B <= 4] or [min(subject.batches or (1,))]


def _few_steps(subject: Subject) -> Sequence[int]:
    return list(subject.lengths or (1, 2, 3))[:3]


@dataclass
class Budget:
    """Yields cases until their time is used up, and records those left over.

    Args:
        seconds: CPU time of this thread for all cases together.
        clock: the time in seconds, for tests.
    """

    seconds: float = _SECONDS
    clock: Callable[[], float] = time.thread_time

    def spend(self, cases: Sequence[Case], left: list[Case]) -> Iterator[Case]:
        """The cases, cheap ones first; those without time go to ``left``."""
        started, longest = self.clock(), 0.0
        for case in sorted(cases, key=lambda c: c.T * c.B * c.n_in * c.n_hidden):
            before = self.clock()
            # The next one is larger than the most expensive so far.
            if before - started + longest > self.seconds and longest:
                left.append(case)
                continue
            yield case
            longest = max(longest, self.clock() - before)


def chunks(B: int, most: int = 4) -> list[slice]:
    """The rows of a batch in parts of sizes that other oracles have judged."""
    return [slice(start, min(start + most, B)) for start in range(0, B, most)]


def _lengths(subject: Subject, constants: Sequence[int]) -> set[int]:
    own = _LENGTHS_OF_A_CELL if subject.kind == "cell" else _LENGTHS_OF_A_LAYER
    return {*own, LONGEST, *constants}


def neighbours(constants: Sequence[int]) -> tuple[int, ...]:
    """Whole numbers of a source with those beside them and twice as large."""
    near = {n for c in constants for n in (c - 1, c, c + 1, 2 * c)}
    return tuple(sorted(n for n in near if n > 4))


def _allowed(declared: Sequence[int] | None, wanted: set[int], most: int) -> list[int]:
    """The sizes wanted; all those declared where some are."""
    if declared is not None:
        return list(declared)
    return sorted(n for n in wanted if 4 < n <= most)


def _widths(
    rng: np.random.Generator,
    sizes: Sequence[tuple[int, int]] | None,
    compiled: Sequence[tuple[int, int]],
    constants: Sequence[int],
) -> list[tuple[int, int]]:
    """Each edge once as the width of the input and once as that of the state."""
    if sizes is not None:
        return [pair for pair in sizes if pair not in compiled]
    wanted = [n for n in dict.fromkeys((*EDGES, *constants)) if n <= WIDEST]
    other = list(wanted)
    rng.shuffle(other)
    return list(zip(other, wanted, strict=True))
