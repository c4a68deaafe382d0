"""The input of a diagnosis: a wrong block on a few problems, and the outcome of every case.

A diagnosis is a formula for the *wrong* gradient in terms of the right one. It fits if rounding
explains the residual: the test and its error bars are those by which the gradient was found wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck import trees
from bpttcheck.calibration import LIMIT
from bpttcheck.diagnose.right import right_gradient
from bpttcheck.judge.run import SEQUENCE, STEP, Hand, Reference, Run
from bpttcheck.judge.tally import Seen
from bpttcheck.judge.verdict import rounding, width
from bpttcheck.oracles.autodiff.autodiff import Untied
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.results.records import Case, Diagnosis

ASSUMED = "assumed"
"""Among the notes: the gradients of mistakes that were found in other blocks."""

Array = NDArray[Any]
Blocks = Mapping[str, Any]


@dataclass(frozen=True)
class Page:
    """What ``bpttcheck explain CODE`` prints.

    Args:
        code: the diagnosis's stable code.
        meaning: what is wrong, in one sentence.
        formula: the right equation, in the symbols of the contract.
        mistake: the usual wrong code.
        right: the right code.
        seen: how the diagnosis is recognised.
    """

    code: str
    meaning: str
    formula: str
    mistake: str
    right: str
    seen: str

    def __str__(self) -> str:
        """The page as text."""
        parts = [
            ("", self.meaning), ("the formula", self.formula), ("the usual mistake", self.mistake),
            ("right", self.right), ("how it is recognised", self.seen),
        ]  # fmt: skip
        return "\n\n".join(_section(title, text) for title, text in parts)


@dataclass(frozen=True)
class Rule:
    """A diagnosis.

    Args:
        page: what ``bpttcheck explain`` prints.
        fit: the diagnosis of an error, a :class:`bpttcheck.results.records.Diagnosis`, or None.
    """

    page: Page
    fit: Callable[[Evidence], Diagnosis | None]


def _section(title: str, text: str) -> str:
    if not title:
        return text
    return f"{title}:\n" + "\n".join(f"    {line}" for line in text.splitlines())


@dataclass(frozen=True)
class FailingExample:
    """One problem on which the bug shows.

    Args:
        run: the subject and its oracles.
        mode: ``STEP`` or ``SEQUENCE``.
        problem: the problem.
        template: the compiled shape it fits; None: its own.
        hand: the hand-derived gradient.
        reference: the right gradient, JAX's where there is one.
        wrong: the blocks that are wrong.
    """

    run: Run
    mode: str
    problem: Problem
    template: Template | None
    hand: Hand
    reference: Reference
    wrong: tuple[str, ...]

    @cached_property
    def right(self) -> dict[str, Array]:
        """The right gradient, block by block."""
        return {block: spread.value for block, spread in self.reference.gradients.items()}

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The sizes by which a factor may be wrong: of a function every letter, else T, B, H."""
        case = self.problem.case
        return dict(case.letters) or {"T": case.T, "B": case.B, "n_hidden": case.n_hidden}

    @cached_property
    def factor(self) -> float:
        """What the gradients of a loss, which its author returns, are multiplied by: else 1."""
        of_loss = getattr(self.run.subject.target, "backward_function", False) is None
        return float(np.ravel(self.problem.d_ys)[0]) if of_loss else 1.0

    def given(self, block: str) -> Array:
        """The hand-derived block, float64."""
        return np.asarray(self.hand.gradients[block], np.float64)

    def residual(self, candidate: Blocks) -> float:
        """The largest ratio of ``|hand - candidate|`` to the error bar: up to ``LIMIT``, it fits.

        Args:
            candidate: block -> the wrong gradient that a diagnosis predicts.
        """
        worst = 0.0
        for block, predicted in candidate.items():
            c = np.asarray(predicted, np.float64)
            if self.given(block).shape != c.shape:
                return np.inf
            worst = max(worst, float(self.residuals(block, c[None])[0]))
        return worst

    def residuals(self, block: str, candidates: Array) -> Array:
        """The same for many predictions ``(E, ...)`` of one block."""
        unit, tiny = rounding(self.problem.dtype)
        g, right = self.given(block), self.right[block]
        if not np.isfinite(g).all():
            return np.full(len(candidates), np.inf)
        if not g.size:
            return np.zeros(len(candidates))
        g, c = g.reshape(1, -1), candidates.reshape(len(candidates), -1)
        spread = self.reference.gradients[block]
        s = width(spread.value, spread.copies, unit, tiny).max(initial=tiny)
        # A candidate larger than the gradient is proportionally less precise.
        largest = np.abs(right).max(initial=0.0)
        with np.errstate(all="ignore"):
            scale = np.abs(c).max(axis=1, keepdims=True) / largest if largest else 1.0
            bar = s * np.maximum(1.0, scale) + unit * np.abs(c)
            found = np.max(np.abs(g - c) / bar, axis=1)
        return np.where(np.isnan(found), np.inf, found)

    def is_told(self, block: str, candidate: Array) -> bool:
        """False if a prediction of a block is the right gradient itself."""
        gap = np.abs(np.asarray(candidate, np.float64) - self.right[block])
        error = np.abs(self.given(block) - self.right[block])
        return not gap.max(initial=0.0) < 0.5 * error.max(initial=0.0)

    @cached_property
    def parts(self) -> dict[str, dict[str, Array]]:
        """The gradient from one cotangent alone: ``d_y`` or a leaf of ``d_state`` -> blocks."""
        p = self.problem
        none = trees.map_leaves(np.zeros_like, p.d_state)
        found = {"d_y": self._with(np.asarray(p.d_ys), none)}
        shape, leaves = trees.structure(p.d_state), trees.leaves(p.d_state)
        for i, path in enumerate(shape.paths):
            only = [leaf if j == i else np.zeros_like(leaf) for j, leaf in enumerate(leaves)]
            found[f"d_state{path}"] = self._with(np.zeros_like(p.d_ys), shape.unflatten(only))
        if len(leaves) > 1:  # the whole state, as one cotangent
            found["d_state"] = {b: self.right[b] - found["d_y"][b] for b in self.right}
        return found

    def _with(self, d_ys: Array, d_state: Any) -> dict[str, Array]:
        changed = replace(self.problem, d_ys=d_ys, d_state=d_state)
        return self.right_for(changed)

    def right_for(self, changed: Problem) -> dict[str, Array]:
        """The right gradient of another problem of the same shape."""
        found = right_gradient(self.run, self.mode, changed, self.template)
        return {block: spread.value for block, spread in found.gradients.items()}

    @cached_property
    def untied(self) -> Untied:
        """Each step's own contribution, and the adjoints."""
        return self.run.jax.untied(self.problem, self.template)


@dataclass(frozen=True)
class Evidence:
    """Everything that is known about one wrong block.

    Args:
        run: the subject and its oracles.
        check: the check that failed.
        mode: ``STEP`` or ``SEQUENCE``.
        block: the block to explain.
        examples: problems on which it is wrong, the richest first.
        seen: every case of the check.
        notes: a cache that the diagnoses share.
    """

    run: Run
    check: str
    mode: str
    block: str
    examples: Sequence[FailingExample]
    seen: Sequence[Seen]
    notes: dict[str, Any] = field(default_factory=dict)

    def assume(self, gradients: Mapping[int, Blocks]) -> None:
        """Remember what a mistake that was found gives: what is left may be another one beside it.

        Args:
            gradients: by the identity of each example, every block.
        """
        self.notes.setdefault(ASSUMED, []).append(gradients)

    @property
    def sequence(self) -> bool:
        """True if whole sequences are compared."""
        return self.mode == SEQUENCE

    def fits_all(self, predict: Callable[[FailingExample], Blocks | None]) -> float | None:
        """The largest residual of a prediction over all examples; None if it does not fit one."""
        worst = 0.0
        for example in self.examples:
            with np.errstate(all="ignore"):
                candidate = predict(example)
            if candidate is None:
                return None
            residual = example.residual(candidate)
            if not residual <= LIMIT or self._says_nothing(example, candidate):
                return None
            worst = max(worst, residual)
        return worst if self.examples else None

    def _says_nothing(self, example: FailingExample, candidate: Blocks) -> bool:
        """True if the prediction for this block is the right gradient itself."""
        own = candidate.get(self.block)
        if own is None:
            return False
        return not example.is_told(self.block, own)

    def fits_block(self, predict: Callable[[Array, FailingExample], Array | None]) -> float | None:
        """As :meth:`fits_all`, for this block alone: ``predict(right, example)``."""

        def candidate(example: FailingExample) -> Blocks | None:
            found = predict(example.right[self.block], example)
            return None if found is None else {self.block: found}

        return self.fits_all(candidate)

    def wrong_cases(self) -> list[Case]:
        """The cases in which this block is wrong."""
        return [one.case for one in self.seen if self.block in one.wrong]

    def right_cases(self) -> list[Case]:
        """The cases in which this block was judged and is right."""
        return [
            one.case
            for one in self.seen
            if self.block in one.judged and self.block not in one.wrong
        ]


def step_name(evidence: Evidence) -> str:
    """The user's backward method."""
    return evidence.run.code.methods[1] if evidence.sequence else "step_vjp"


def diagnosis(code: str, sentence: str, residual: float, **more: Any) -> Diagnosis:
    """A diagnosis with its fit: the residual, in widths of the error bar."""
    return Diagnosis(code, sentence, {**more, "residual": residual, "limit": LIMIT})


__all__ = [
    "ASSUMED",
    "SEQUENCE",
    "STEP",
    "Array",
    "Blocks",
    "Evidence",
    "FailingExample",
    "Page",
    "Seen",
    "diagnosis",
    "step_name",
]  # fmt: skip
