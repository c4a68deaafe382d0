"""Makes mutants of the source of a backward function, and classifies each on a few problems.

Of a function that returns its loss and the gradients, those changes count that leave the loss as it
is: a function of another loss may well have the right gradient of that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import numpy as np

from bpttcheck.adapt.function import ForwardPass, Function
from bpttcheck.errors import BpttcheckError, ContractError, Declined
from bpttcheck.mutants.base import Mutant
from bpttcheck.mutants.source.edits import Edit, edits, numbered
from bpttcheck.mutants.source.planting import RAISES, quiet
from bpttcheck.mutants.source.problems import Gradients, compare
from bpttcheck.mutants.source.reading import Method, read_function
from bpttcheck.mutants.source.scene import LocalsSnapshot
from bpttcheck.mutants.source.sites import definitions, probed, statements
from bpttcheck.problems.function_cases import build_function
from bpttcheck.problems.problem import Problem
from bpttcheck.problems.values import FREE
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject

# T, B and the first two other letters: all different, two alike, one step of one row.
_SIZES = ((4, 3, 2, 5), (3, 2, 4, 4), (1, 1, 3, 2))
_PROBE = "_bpttcheck_probe_"


def function_mutants(function: Function) -> tuple[Mutant, ...]:
    """Every mutant of the source of a function's backward pass.

    Args:
        function: a right function with a backward pass, or with gradients beside its loss.

    Raises:
        ContractError: its source cannot be changed; the message says why.
    """
    try:
        method = read_function(function.backward_function or function.forward_function)
        with quiet():
            problems = [_FunctionProblem(_problem(function, *sizes)) for sizes in _SIZES]
            right = [one.run(function, method.function) for one in problems]
            # More variables have one shape where sizes are equal.
            found = list(edits(method.tree, _observe(method, function, problems[1])))
            if function.backward_function is None:
                found = _of_the_gradients(function, method, found, problems)
            names = numbered(found)
            return tuple(
                _mutant(function, method, edit, name, list(zip(right, problems, strict=True)))
                for edit, name in zip(found, names, strict=True)
            )
    except Declined as reason:
        raise ContractError(
            f"no bug can be planted in {function.methods[1]}: {reason}", item="subject"
        ) from reason


@dataclass(frozen=True)
class _FunctionProblem:
    """Arguments of a function with cotangents of its outputs."""

    problem: Problem

    def run(self, target: Any, backward: Callable[..., Any]) -> Gradients:
        """The gradients that ``backward`` gives, by input.

        Raises:
            Exception: whatever it raises.
        """
        return {n: np.asarray(g) for n, g in self.gradients(target, backward).items()}

    def gradients(
        self, function: Function, backward: Callable[..., Any], scale: float = 1.0
    ) -> dict[str, Any]:
        """The same as they are, for cotangents times ``scale``."""
        one, tape = self._forward(function, backward)
        return one.gradients(tape, self.problem.d_ys * scale)[0]

    def loss(self, function: Function, code: Callable[..., Any]) -> Any:
        """The loss that the code returns beside its gradients; None where it raises."""
        try:
            return self._forward(function, code)[1].outputs["loss"]
        except Exception:
            return None

    def _forward(
        self, function: Function, backward: Callable[..., Any]
    ) -> tuple[Function, ForwardPass]:
        one = _with(function, backward)
        params = {name: np.copy(value) for name, value in self.problem.params.items()}
        return one, one.forward(params, self.problem.xs, ())[2]


def _with(function: Function, code: Callable[..., Any]) -> Function:
    """The function with other code in the place of its backward pass."""
    if function.backward_function is None:
        return replace(function, forward_function=code)
    return replace(function, backward_function=code)


def _of_the_gradients(
    function: Function, method: Method, found: list[Edit], problems: list[_FunctionProblem]
) -> list[Edit]:
    """The edits that leave the loss as it is; of those that raise, the ones in other lines."""
    right = [one.loss(function, method.function) for one in problems]
    losses = [_losses(function, method.compile(edit.tree), problems) for edit in found]
    changed = [any(a is not None and a != b for a, b in zip(one, right, strict=True))
               for one in losses]  # fmt: skip
    of_loss = {edit.line for edit, is_other in zip(found, changed, strict=True) if is_other}
    raises = [any(value is None for value in one) for one in losses]
    return [
        edit
        for edit, is_other, fails in zip(found, changed, raises, strict=True)
        if not is_other and not (fails and edit.line in of_loss)
    ]


def _losses(
    function: Function, code: Callable[..., Any], problems: list[_FunctionProblem]
) -> list[Any]:
    return [one.loss(function, code) for one in problems]


def _problem(function: Function, T: int, B: int, n_in: int, n_hidden: int) -> Problem:
    case = Case(0, -1, T, B, n_in, n_hidden, "float64", "none", "ordinary")
    return build_function(Subject.of(function), case, 0, FREE)


def _observe(
    method: Method, function: Function, one: _FunctionProblem
) -> Mapping[int, LocalsSnapshot]:
    """The locals at every statement that was reached, by the statement's ``id``."""
    now, rest = (_locals(method, function, one, scale) for scale in (1.0, 0.0))
    known = definitions(method.tree)
    first = LocalsSnapshot(now.get(0, {}), rest.get(0, {}))
    given = frozenset(
        id(value)
        for value in first.values.values()
        if isinstance(value, np.ndarray) and np.any(value) and _vanishes(value, now[0], rest[0])
    )
    return {
        id(path[-1]): LocalsSnapshot(now[k], rest.get(k, {}), one.problem.params, given, known)
        for k, path in enumerate(statements((method.tree,)))
        if k in now
    }


def _vanishes(value: Any, now: Mapping[str, Any], rest: Mapping[str, Any]) -> bool:
    name = next(name for name, one in now.items() if one is value)
    return not np.any(rest[name])


def _locals(
    method: Method, function: Function, one: _FunctionProblem, scale: float
) -> dict[int, dict[str, Any]]:
    """The local variables before the first visit of each statement, by its number."""
    seen: dict[int, dict[str, Any]] = {}

    def probe(number: int, variables: Mapping[str, Any]) -> None:
        seen.setdefault(number, dict(variables))

    one.gradients(function, method.compile(probed(method.tree, _PROBE), **{_PROBE: probe}), scale)
    return seen


def _mutant(
    function: Function,
    method: Method,
    edit: Edit,
    name: str,
    solved: list[tuple[Gradients, _FunctionProblem]],
) -> Mutant:
    wrong = method.compile(edit.tree)
    verdicts = [compare(right, one, function, wrong) for right, one in solved]
    verdict = next((v for v in verdicts if v in ("raises", "misshapen", "differs")), "")
    note = "" if verdict else f"no difference in {len(solved)} problems"
    if not verdict and not edit.reached:
        note += ", none of which reached its line"
    return Mutant(
        f"{function.methods[1]} {name}", "source", edit.sentence, _plant(wrong), "layer",
        note=note if verdict in ("", "differs") else RAISES,
    )  # fmt: skip


def _plant(wrong: FunctionType) -> Callable[[Any], Any]:
    def plant(target: Any) -> Function:
        if not isinstance(target, Function):
            raise BpttcheckError(f"target={target!r}, but should be the function that was changed")
        return _with(target, wrong)

    return plant
