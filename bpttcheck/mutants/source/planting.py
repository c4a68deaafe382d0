"""Makes mutants of a cell's source, and classifies each on a few problems."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np

from bpttcheck.errors import ContractError, Declined
from bpttcheck.mutants.base import Mutant, MutatedCell, VjpCall, VjpResult
from bpttcheck.mutants.source.edits import Edit, edits, numbered
from bpttcheck.mutants.source.problems import Gradients, StepProblem, compare, problem
from bpttcheck.mutants.source.reading import Method, read
from bpttcheck.mutants.source.sites import observe

Sizes = tuple[tuple[int, int], ...]

RAISES = "raises"
"""The note of a mutant that raises or returns another shape: a broken contract."""

_DEFAULT_SIZES = ((5, 4), (4, 4))
# No width of a built-in cell is 7 at these sizes: rows and columns cannot be mistaken.
_ROWS = 7

# A changed expression need not be a known mistake: naming its place, or the quantity that was
# replaced, is right too.
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
    """Why :func:`source_mutants` is empty for ``target``; ``""`` if it is not."""
    try:
        _examine(target, sizes)
    except Declined as reason:
        return str(reason)
    return ""


@dataclass(frozen=True)
class SolvedProblem:
    """A problem and the result of the right backward pass."""

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
    with quiet():
        try:
            solved = list(_solved(target, allowed))
            # More variables have one shape where both sizes are equal.
            equal = problem(target, np.random.default_rng(1), _sizes(allowed)[0], _ROWS)
            scenes = observe(method, target, equal)
        except Exception as error:
            raise Declined(f"the cell cannot be run: {type(error).__name__}: {error}") from error
        found = list(edits(method.tree, scenes))
        if not found:
            raise Declined(
                "there is nothing to change in the source of step_vjp: it delegates to another"
                " function"
            )
        names = numbered(found)
        return [
            _mutant(target, method, edit, name, solved)
            for edit, name in zip(found, names, strict=True)
        ]


def _mutant(
    target: Any, method: Method, edit: Edit, name: str, solved: list[SolvedProblem]
) -> Mutant:
    function = method.compile(edit.tree)
    note, diagnosis = _outcome(target, method.bind(function, target), edit, solved)
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

        def change(call: VjpCall) -> VjpResult:
            return VjpResult(*wrong(call.params, call.record, call.d_state, call.d_y))

        return MutatedCell(target, change)

    return plant


def _outcome(
    target: Any, wrong: Callable[..., Any], edit: Edit, solved: list[SolvedProblem]
) -> tuple[str, str]:
    """The note and the diagnosis of a mutant."""
    for one in solved:
        verdict = compare(one.right, one.problem, target, wrong)
        if verdict == "raises":
            return RAISES, ""
        if verdict == "misshapen":
            return RAISES, edit.diagnosis if edit.diagnosis == "transposed" else ""
        if verdict == "differs":
            return "", edit.diagnosis
    reason = why_equivalent(target, edit.title)
    if reason:
        return f"equivalent: {reason}", ""
    note = f"no difference in {len(solved)} problems"
    return note if edit.reached else f"{note}, none of which reached its line", edit.diagnosis


def _solved(target: Any, sizes: Sizes) -> Iterator[SolvedProblem]:
    """Problems that distinguish mutants; unequal sizes first, where more mutants raise."""
    square, distinct = _sizes(sizes)
    plan = [
        (distinct, _ROWS, {}), (square, _ROWS, {}), (distinct, 1, {"scale": 3.0}),
        (distinct, 3, {"d_y": 0.0}), (square, 2, {"d_state": 0.0}), (distinct, 2, {"scale": 30.0}),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    for size, B, more in plan:
        one = problem(target, rng, size, B, **more)
        yield SolvedProblem(one, one.run(target, target.step_vjp))


def _sizes(sizes: Sizes) -> Sizes:
    """A size with ``n_in == n_hidden`` and one without, where they are allowed."""
    square = [size for size in sizes if size[0] == size[1]]
    distinct = [size for size in sizes if size[0] != size[1]]
    return (square or distinct)[0], (distinct or square)[0]


@contextmanager
def quiet() -> Generator[None]:
    """No warnings from code that was changed."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


_ONE = "the derivative of the identity is 1.0 whatever its argument, and v * 1.0 is v in every bit"
_ITSELF = "h = f(z) is z itself, in every bit, when f is the identity"
_SAME_SIDE = (
    "f' sees only on which side of a kink its argument is, and h = f(z) is on the same side as z:"
    " h > 0 where z > 0 for relu and leaky_relu, |h| < 1 where |z| < 1 for hard_tanh"
)
_FREE = "this branch runs only if teacher_forced is False, and here it is True"
_FORCED = "this branch runs only if teacher_forced is True, and here it is False"

_IDENTITY_OF_ELMAN = {
    "without the factor f.derivative(z) in …": _ONE,
    "z -> h in `d_z = d_h_new * f.derivative(z)`": _ONE,
    "d_z -> d_h_new in …": _ONE,
}
_IDENTITY_OF_JORDAN = {
    "without the factor f.derivative(z) in …": _ONE,
    "z -> h in `d_z = d_h * f.derivative(z)`": _ONE,
    "d_z -> d_h in …": _ONE,
    "z <-> h in `x_in, o, z, h, q = cache`": _ITSELF,
    "h -> z in `'V': d_q.T @ h`": _ITSELF,
}
_SAME_SIDE_OF_JORDAN = {"z -> h in `d_z = d_h * f.derivative(z)`": _SAME_SIDE}
_IDENTITY_OF_OUTPUT = {
    "without the factor g.derivative(q) in …": _ONE,
    "q -> o in `d_q = d_out * g.derivative(q)`": _ONE,
    "d_q -> d_out in …": _ONE,
}

EQUIVALENTS: dict[str, dict[str, str]] = {
    "Elman(activation='identity')": _IDENTITY_OF_ELMAN,
    "Jordan(…, activation='identity', …)": _IDENTITY_OF_JORDAN,
    "Jordan(…, activation='relu', …)": _SAME_SIDE_OF_JORDAN,
    "Jordan(…, activation='leaky_relu', …)": _SAME_SIDE_OF_JORDAN,
    "Jordan(…, activation='hard_tanh', …)": _SAME_SIDE_OF_JORDAN,
    "Jordan(…, output_activation='identity', …)": _IDENTITY_OF_OUTPUT,
    # x_in has the shape of q only if there are as many inputs as outputs.
    "Jordan(n_out=None, …, output_activation='identity', teacher_forced=False)": {
        "q -> x_in in `d_q = d_out * g.derivative(q)`": _ONE,
    },
    "Jordan(…, teacher_forced=True)": {"… in `d_out = d_y + d_state`": _FREE},
    "Jordan(…, teacher_forced=False)": {
        "… in `d_x = np.concatenate([d_x, d_state], axis=-1)`": _FORCED,
    },
}
"""For a built-in cell, printed by ``repr``: the change, without its line, and why it is equivalent.
An ellipsis stands for any text.

A mutant that no check can find says nothing about the checks, so equivalent mutants are listed, and
tests compare this table with random problems in both directions."""


def why_equivalent(target: Any, title: str) -> str:
    """The proof that a change of ``target.step_vjp`` changes no gradient.

    Args:
        target: a cell.
        title: the change: ``"z -> h in `d_z = d_h_new * f.derivative(z)`"``.

    Returns:
        The proof; ``""`` if none is known. Only the built-in cells have any: a subclass may have
        another forward step.
    """
    if not str(type(target).__module__).startswith("bpttcheck.cells."):
        return ""
    for cell, changes in EQUIVALENTS.items():
        if matches(cell, repr(target)):
            for change, reason in changes.items():
                if matches(change, title):
                    return reason
    return ""


def matches(pattern: str, words: str) -> bool:
    """True if ``words`` is ``pattern`` with something in place of every ellipsis."""
    pieces = (re.escape(piece) for piece in pattern.split("…"))
    return re.fullmatch(".*".join(pieces), words) is not None
