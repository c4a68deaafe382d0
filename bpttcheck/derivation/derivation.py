"""``derive``: the backward pass of a traced step, written out, and checked like any other."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

from bpttcheck.contract import is_layer
from bpttcheck.errors import ContractError
from bpttcheck.oracles.step_source.latex_text import equations
from bpttcheck.oracles.step_source.traces import traced
from bpttcheck.oracles.step_source.writing import Writer, compiled
from bpttcheck.problems.step_points import step_points
from bpttcheck.results.records import Verdict
from bpttcheck.results.report import Report
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.check import check

HEADER = (
    "Made by automatic differentiation of the traced step and written out: no derivation by hand.",
    "It must not serve as an independent check of itself. Each comment has the number of the",
    "equation, and the statement of step that it is the adjoint of.",
)
_METHODS = ("init", "initial_state", "step")
_EXAMPLES = 30


@dataclass(frozen=True)
class Derivation:
    """A backward pass made from the step of a cell.

    Args:
        source: a function ``step_vjp`` in NumPy, to stand in the class of the cell.
        latex: the same equations, with the same numbers.
        cell: the cell with this backward pass.
        report: what the checks say of it; None if they were not run.
    """

    source: str
    latex: str
    cell: Any
    report: Report | None = None

    def __str__(self) -> str:
        """The source, and in its last line what the checks say of it."""
        return self.source if self.report is None else f"{self.source}\n# {self.conclusion}"

    @property
    def conclusion(self) -> str:
        """One line: what the checks say of it."""
        if self.report is None:
            return "not checked"
        run = [one for one in self.report.checks if one.verdict is not None]
        failed = [one.name for one in run if one.verdict is Verdict.FAILED]
        if failed:
            return f"FAILS {len(failed)} of {len(run)} checks: {', '.join(failed)}"
        open_ = [one.name for one in run if one.verdict is Verdict.INCONCLUSIVE]
        if open_ or not run:
            return f"INCONCLUSIVE: {', '.join(open_) or 'no check was run'}"
        return f"passes all {len(run)} checks, each with {self.report.examples} cases at most"


def derive(cell: Any, *, examples: int = _EXAMPLES, seed: int = 0) -> Derivation:
    """Write out the backward pass of a cell from its ``step``.

    The step is traced at several sizes, differentiated in reverse, and written as NumPy with the
    names of the step: one statement for each adjoint. It is automatic differentiation written out,
    not a derivation by hand, and never judges itself: JAX and finite differences do.

    >>> import bpttcheck
    >>> print(bpttcheck.derive(bpttcheck.cells.Elman(), examples=20).conclusion)
    passes all 11 checks, each with 20 cases at most

    Args:
        cell: a cell, or a :class:`bpttcheck.Subject` of one; it needs no ``step_vjp``.
        examples: cases for each check of what was written; 0 for no check.
        seed: of these checks.

    Returns:
        The :class:`Derivation`; if a check fails, its report says so, and so does its text.

    Raises:
        ContractError: what was given is no cell.
        Declined: the step cannot be traced, or has an operation without a known adjoint; the
            message names it and its line.
    """
    target = cell.target if isinstance(cell, Subject) else cell
    if is_layer(target) or not all(callable(getattr(target, name, None)) for name in _METHODS):
        raise ContractError(
            f"a {type(target).__name__}, expected a cell: an object with {', '.join(_METHODS)}",
            item="cell",
        )
    writer = Writer(target, traced(target, step_points(target)))
    source = writer.source([f"# {line}" for line in HEADER])
    made = with_rule(target, source)
    latex = "".join(f"% {line}\n" for line in HEADER[:2]) + equations(writer)
    if not examples:
        return Derivation(source, latex, made)
    subject = replace(cell, target=made) if isinstance(cell, Subject) else made
    return Derivation(
        source, latex, made, check(subject, examples=examples, seed=seed, raises=False)
    )


def with_rule(cell: Any, source: str) -> Any:
    """The cell with a function ``step_vjp`` of this source in its class.

    Args:
        cell: the cell.
        source: the function; it sees the globals of the file in which ``step`` stands.
    """
    owner, function = type(cell), compiled(cell, source)
    bound = function if hasattr(cell.step, "__func__") else staticmethod(function)
    own = {"step_vjp": bound, "__module__": owner.__module__, "__slots__": (),
           "__doc__": owner.__doc__, "__qualname__": owner.__qualname__}  # fmt: skip
    made = copy.copy(cell)
    object.__setattr__(made, "__class__", type(owner.__name__, (owner,), own))
    return made
