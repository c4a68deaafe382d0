"""Makes mutants of a cell's source, and says of each what became of it on a few problems."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np

from bpttcheck.errors import ContractError, Declined
from bpttcheck.mutants.base import Call, Mutant, MutatedCell, Pulled
from bpttcheck.mutants.source.edits import Edit, edits, numbered
from bpttcheck.mutants.source.equivalents import why_equivalent
from bpttcheck.mutants.source.observing import observe
from bpttcheck.mutants.source.problems import Gradients, StepProblem, compare, problem
from bpttcheck.mutants.source.reading import Method, read

Sizes = tuple[tuple[int, int], ...]

RAISES = "raises"
"""The note of a mutant that raises or returns another shape: a broken contract."""

_DEFAULT_SIZES = ((5, 4), (4, 4))
# No width of a built-in cell is 7 at these sizes: rows and columns cannot be mistaken.
_ROWS = 7

# A garbled expression need not be a formula that anybody knows: saying where it is, or which
# quantity took whose place, is right too.
_GARBLED = ("wrong-derivative", "missing-path", "sign", "doubled-path")
_LOCATED = ("wrong-cotangent", "wrong-operand")


def source_mutants(
    target: Any, *, sizes: Sizes | None = None, equivalents: bool = False
) -> tuple[Mutant, ...]:
    """Every mutant of the source of ``target.step_vjp``.

    Args:
        target: a right cell.
        sizes: allowed ``(n_in, n_hidden)``; None: any.
        equivalents: True to have those too that are proved to change nothing; their note says why.

    Returns:
        The mutants, in the order of the source; ``()`` if the source cannot be changed, for which
        :func:`why_no_source` has the reason. The note is ``"raises"`` where the wrong source breaks
        the contract, and says so where no problem that was tried shows a difference.

    Raises:
        ContractError: if ``sizes`` is empty.
    """
    try:
        found = _examine(target, sizes)
    except Declined:
        return ()
    return tuple(
        mutant for mutant in found if equivalents or not mutant.note.startswith("equivalent")
    )


def why_no_source(target: Any, *, sizes: Sizes | None = None) -> str:
    """Why :func:`source_mutants` has nothing for ``target``; ``""`` if it has something."""
    try:
        _examine(target, sizes)
    except Declined as reason:
        return str(reason)
    return ""


@dataclass(frozen=True)
class Trial:
    """A problem and what the right backward pass makes of it."""

    problem: StepProblem
    right: Gradients


def _examine(target: Any, sizes: Sizes | None) -> list[Mutant]:
    """Every mutant, equivalents too.

    Raises:
        Declined: the source cannot be read, cannot be run, or offers nothing to change.
        ContractError: if ``sizes`` is empty.
    """
    allowed = _DEFAULT_SIZES if sizes is None else sizes
    if not allowed:
        raise ContractError("sizes=(), but should hold at least one (n_in, n_hidden)", item="sizes")
    method = read(target)
    with _quiet():
        try:
            trials = list(_trials(target, allowed))
            # More variables have one shape where both sizes are equal.
            equal = problem(target, np.random.default_rng(1), _sizes(allowed)[0], _ROWS)
            scenes = observe(method, target, equal)
        except Exception as error:
            raise Declined(f"the cell cannot be run: {type(error).__name__}: {error}") from error
        found = list(edits(method.tree, scenes))
        if not found:
            raise Declined(
                "there is nothing to change in the source of step_vjp: it hands on to another"
                " function"
            )
        names = numbered(found)
        return [
            _mutant(target, method, edit, name, trials)
            for edit, name in zip(found, names, strict=True)
        ]


def _mutant(target: Any, method: Method, edit: Edit, name: str, trials: list[Trial]) -> Mutant:
    function = method.compile(edit.tree)
    note, diagnosis = _outcome(target, method.bind(function, target), edit, trials)
    return Mutant(
        f"{type(target).__name__}.step_vjp {name}", "source", edit.sentence,
        _plant(type(target), method, function), diagnosis=diagnosis,
        also=_LOCATED if diagnosis in _GARBLED else (), regimes=("ordinary",),
        least_B=edit.least_B, note=note,
    )  # fmt: skip


def _plant(owner: type, method: Method, function: FunctionType) -> Callable[[Any], Any]:
    def plant(target: Any) -> MutatedCell:
        if not isinstance(target, owner):
            raise ContractError(
                f"target={target!r}, but should be a {owner.__name__}, whose source was changed",
                item="target",
            )
        wrong = method.bind(function, target)

        def change(call: Call) -> Pulled:
            return Pulled(*wrong(call.params, call.record, call.d_state, call.d_y))

        return MutatedCell(target, change)

    return plant


def _outcome(
    target: Any, wrong: Callable[..., Any], edit: Edit, trials: list[Trial]
) -> tuple[str, str]:
    """The note and the diagnosis of a mutant."""
    for trial in trials:
        verdict = compare(trial.right, trial.problem, target, wrong)
        if verdict == "raises":
            return RAISES, ""
        if verdict == "misshapen":
            return RAISES, edit.diagnosis if edit.diagnosis == "transposed" else ""
        if verdict == "differs":
            return "", edit.diagnosis
    reason = why_equivalent(target, edit.title)
    if reason:
        return f"equivalent: {reason}", ""
    note = f"no difference in {len(trials)} problems"
    return note if edit.reached else f"{note}, none of which reached its line", edit.diagnosis


def _trials(target: Any, sizes: Sizes) -> Iterator[Trial]:
    """Problems to tell mutants apart; sizes that differ come first, where more of them raise."""
    square, distinct = _sizes(sizes)
    plan = [
        (distinct, _ROWS, {}), (square, _ROWS, {}), (distinct, 1, {"scale": 3.0}),
        (distinct, 3, {"d_y": 0.0}), (square, 2, {"d_state": 0.0}), (distinct, 2, {"scale": 30.0}),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    for size, B, more in plan:
        one = problem(target, rng, size, B, **more)
        yield Trial(one, one.run(target, target.step_vjp))


def _sizes(sizes: Sizes) -> Sizes:
    """A size with ``n_in == n_hidden`` and one without, where they are allowed."""
    square = [size for size in sizes if size[0] == size[1]]
    distinct = [size for size in sizes if size[0] != size[1]]
    return (square or distinct)[0], (distinct or square)[0]


@contextmanager
def _quiet() -> Generator[None]:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
