"""Make a failing case small: first its structure, then its numbers.

A failing structure is replaced by the simplest one that still fails, in a fixed order: width, then
regime and mask, then T and B. Small structures share one compiled template, so that trying many
costs little. Hypothesis shrinks by repeated calls of a predicate whose every new shape would cost a
compilation; here the order of the candidates is chosen so that few shapes are met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from bpttcheck.errors import BpttcheckError
from bpttcheck.judge.run import Run
from bpttcheck.judge.verdict import Judged
from bpttcheck.problems.problem import Problem, Template, simplified
from bpttcheck.results.records import Case

_SMALL = ((1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2))
_TRIES = 400
# Rows of all steps of all tries: few tries where a sequence is long.
_ROWS = 30_000
_STREAMS = 2
_FADED = 1e4

ABSURD = 1e9
"""Ratios beyond it are alike: how absurd an absurd one is does not matter."""

Result = TypeVar("Result")
Attempt = Callable[[Problem, Template | None], Result | None]


def smallest(
    run: Run, failing: Problem, template: Template | None, attempt: Attempt[Result], first: Result
) -> Result:
    """The result of the smallest problem on which ``attempt`` still fails.

    Args:
        run: the subject.
        failing: a problem known to fail.
        template: the compiled shape that it was judged in.
        attempt: judges a problem: its result if it fails, None if it does not.
        first: what ``attempt`` said of ``failing``.

    Returns:
        What ``attempt`` said of the smallest failing problem.
    """
    best, found, room = failing, first, template
    rows = 0
    for tried, (case, shape, stream) in enumerate(_candidates(run, failing.case, template)):
        rows += case.T * case.B
        if tried == _TRIES or rows > _ROWS:
            break
        try:
            problem = run.cases.problem(case, stream)
            result = attempt(problem, shape)
        except BpttcheckError:
            continue  # another failure than the one being shrunk
        if result is not None:
            best, found, room = problem, result, shape
            break
    for decimals in (0, 1, 2):
        try:
            plain = simplified(best, decimals)
            result = attempt(plain, room)
        except BpttcheckError:
            continue
        if result is not None:
            return result
    return found


def shows(found: Sequence[Judged], before: Sequence[Judged]) -> bool:
    """True if something is wrong still and stands out about as much: a faded error explains less.

    Args:
        found: the wrong blocks of the smaller problem.
        before: those of the problem that is made small.
    """
    new, old = (
        max((min(ABSURD, j.ratio) for j in judged), default=0.0) for judged in (found, before)
    )
    return bool(found) and new >= old / _FADED


def _candidates(
    run: Run, case: Case, template: Template | None
) -> Iterator[tuple[Case, Template | None, int]]:
    """Structures no larger than ``case``, simplest first."""
    if run.subject.traced_whole:
        yield from _compiled(run, case)
        return
    for n_in, n_hidden in _widths(run, case):
        for regime, mask in _manners(case):
            for T, B in _lengths(run, case):
                small = replace(
                    case, T=T, B=B, n_in=n_in, n_hidden=n_hidden, regime=regime,
                    mask=mask if T * B > 1 else "none", index=-1,
                )  # fmt: skip
                yield from ((small, _room(small, template), stream) for stream in range(_STREAMS))


def _compiled(run: Run, case: Case) -> Iterator[tuple[Case, Template | None, int]]:
    """The compiled shapes alone, the smallest first."""
    known = sorted(run.cases.templates, key=lambda t: t.T * t.B * t.n_in * t.n_hidden)
    for t in known:
        if t.T <= case.T and t.B <= case.B and t.n_in <= case.n_in and t.n_hidden <= case.n_hidden:
            for regime, mask in _manners(case):
                small = replace(case, T=t.T, B=t.B, n_in=t.n_in, n_hidden=t.n_hidden,
                                regime=regime, mask=mask, index=-1)  # fmt: skip
                yield from ((small, t, stream) for stream in range(_STREAMS))


def _widths(run: Run, case: Case) -> list[tuple[int, int]]:
    own = (case.n_in, case.n_hidden)
    allowed = _SMALL if run.cases.sizes is None else run.cases.sizes
    if run.subject.traits.fixed_sizes:
        return [own]
    smaller = [w for w in allowed if w[0] <= own[0] and w[1] <= own[1] and w != own]
    return [*smaller, own]


def _manners(case: Case) -> list[tuple[str, str]]:
    """Regime and mask, the plain ones first."""
    options = [("ordinary", "none"), ("ordinary", case.mask), (case.regime, "none")]
    return list(dict.fromkeys([*options, (case.regime, case.mask)]))


def _lengths(run: Run, case: Case) -> list[tuple[int, int]]:
    subject = run.subject
    wanted = {1, 2, 3, 4, case.T // 2, case.T, *(subject.lengths or ())}
    lengths = sorted(T for T in wanted if 1 <= T <= case.T and _takes(subject.lengths, T))
    batches = sorted(B for B in {1, 2, case.B} if B <= case.B and _takes(subject.batches, B))
    pairs = [(T, B) for T in lengths for B in batches]
    return sorted(pairs, key=lambda pair: (pair[0] > 4, pair[0] + pair[1], pair))


def _takes(allowed: Sequence[int] | None, size: int) -> bool:
    return allowed is None or size in allowed


def _room(case: Case, template: Template | None) -> Template | None:
    """A template that the structure fits: the original one, or a small one shared by all."""
    if template is None:
        return None
    same = (case.n_in, case.n_hidden) == (template.n_in, template.n_hidden)
    if same and case.T <= template.T and case.B <= template.B and not template.exact:
        return template
    T = 4 if case.T <= 4 else case.T
    B = 2 if case.B <= 2 else case.B
    return Template(case.n_in, case.n_hidden, T, B)
