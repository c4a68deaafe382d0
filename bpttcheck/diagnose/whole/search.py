"""Finds the edits that give the hand-derived gradient, of one block or of several at once."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from bpttcheck.blocks import D_X, D_XS, d_state0, of_params, of_state
from bpttcheck.calibration import LIMIT
from bpttcheck.diagnose.base import STEP, Array, Evidence, FailingExample, diagnosis
from bpttcheck.diagnose.whole import over_time, paths, quantities, sums
from bpttcheck.diagnose.whole.scene import LoopEdit, Scene
from bpttcheck.errors import BpttcheckError
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Diagnosis

_CHUNK = 512


@dataclass(frozen=True)
class Fit:
    """An edit beside the hand-derived gradient of one example.

    Args:
        edit: the edit.
        ratios: block -> the largest ratio of the residual to the error bar, where it fits.
        says: the blocks of which it predicts an error of the size that there is.
        gradient: block -> what it predicts.
        wrong: the blocks that are wrong.
        beyond: those of which it predicts another error than there is.
    """

    edit: LoopEdit
    ratios: Mapping[str, float]
    says: frozenset[str]
    gradient: Mapping[str, Array]
    wrong: tuple[str, ...]
    beyond: frozenset[str]


class EditSearch:
    """Every edit of the whole sequence, tried on the examples of a bug.

    One search serves all blocks that are wrong.
    """

    def __init__(self) -> None:
        self._known: dict[Any, dict[Any, Fit]] = {}
        self._examples: dict[Any, tuple[Problem, FailingExample | None]] = {}
        self.notes: dict[str, Any] = {}

    def example(
        self, problem: Problem, make: Callable[[], FailingExample | None]
    ) -> FailingExample | None:
        """``make()``, remembered for a problem."""
        key = (problem.case, problem.original or id(problem))
        if key not in self._examples:
            self._examples[key] = (problem, make())
        return self._examples[key][1]

    def best(
        self, evidence: Evidence, fewest: int = 1, codes: Container[str] | None = None
    ) -> Diagnosis | None:
        """The edit that explains the block and the most others with it.

        Args:
            evidence: what is known of the block.
            fewest: how many wrong blocks it must explain.
            codes: the diagnoses that count; None: all.

        Returns:
            None if there is none.
        """
        if not evidence.examples or not (evidence.sequence or fewest == 1):
            return None
        found = self._fitting(evidence)
        if found is None:
            return None
        common = [key for key in found[0] if all(key in fits for fits in found[1:])]
        if codes is not None:
            common = [
                key for key in common
                if found[0][key].edit.code in codes and not any(f[key].beyond for f in found)
            ]  # fmt: skip
        scores = {key: [_score(fits[key]) for fits in found] for key in common}
        common = [key for key in common if min(wrong for wrong, _ in scores[key]) >= fewest]
        if fewest > 1:  # it is said before all else: no block may contradict it
            common = [key for key in common if all(_leaves_right(fits[key]) for fits in found)]
        if not common:
            return None
        key = max(
            common, key=lambda k: (sum(w for w, _ in scores[k]), sum(n for _, n in scores[k]))
        )
        by_example = zip(evidence.examples, found, strict=True)
        evidence.assume({id(s): fits[key].gradient for s, fits in by_example})
        return _said(evidence, [fits[key] for fits in found], min(w for w, _ in scores[key]))

    def _fitting(self, evidence: Evidence) -> list[dict[Any, Fit]] | None:
        """For each example the edits that fit the block at hand."""
        found: list[dict[Any, Fit]] = []
        only: set[Any] | None = None
        for example in evidence.examples:
            try:
                fits = self._table(example, only)
            except BpttcheckError:
                return None
            only = set(fits)
            found.append({key: fit for key, fit in fits.items() if evidence.block in fit.says})
            if not found[-1]:
                return None
        return found

    def _table(self, example: FailingExample, only: set[Any] | None) -> dict[Any, Fit]:
        """Every edit, or some of them, that explain a wrong block of an example."""
        key = (id(example), None if only is None else frozenset(only))
        if key not in self._known:
            self._known[key] = dict(_fits(example, only))
        return self._known[key]


def _fits(example: FailingExample, only: set[Any] | None) -> Iterator[tuple[Any, Fit]]:
    scene = Scene(example)
    with np.errstate(all="ignore"):
        every: dict[Any, LoopEdit] = {}
        kinds = (over_time, paths, quantities, sums)
        for edit in chain.from_iterable(kind.edits(scene) for kind in kinds):
            if only is None or edit.key in only:
                every.setdefault(edit.key, edit)
        todo = list(every.values())
        for start in range(0, len(todo), _CHUNK):
            part = todo[start : start + _CHUNK]
            made = _blocks(scene, example, scene.pull.inputs([edit.change for edit in part]))
            ratios = {block: example.residuals(block, value) for block, value in made.items()}
            fitting = np.any([ratios[block] <= LIMIT for block in example.wrong], axis=0)
            for e in np.flatnonzero(fitting):
                mine = {b: float(r[e]) for b, r in ratios.items() if r[e] <= LIMIT}
                says = [
                    b for b in example.wrong if b in mine and example.is_told(b, made[b][e])
                ]  # fmt: skip
                if says:
                    gradient = {block: value[e] for block, value in made.items()}
                    beyond = frozenset(
                        b for b in made if b not in mine and example.is_told(b, gradient[b])
                    )
                    fit = Fit(part[e], mine, frozenset(says), gradient, example.wrong, beyond)
                    yield part[e].key, fit


def _blocks(scene: Scene, example: FailingExample, gradient: Sequence[Array]) -> dict[str, Array]:
    d_params, d_state, d_xs = scene.whole.unflatten(gradient)
    found: dict[Any, Array] = {**of_params(d_params), **of_state(d_state0(), d_state), D_XS: d_xs}
    if example.mode == STEP:  # a sequence of one step, each array behind the axis of the edits
        found = {name.in_step: a for name, a in found.items()} | {D_X: d_xs[:, 0]}
    return {name: found[name] for name in example.right}


def _score(fit: Fit) -> tuple[int, int]:
    """How many wrong blocks it explains, and how many of all it agrees with."""
    return len(fit.says), len(fit.ratios)


def _leaves_right(fit: Fit) -> bool:
    """True if every block that is right would be."""
    return all(block in fit.ratios for block in fit.gradient if block not in fit.wrong)


def _said(evidence: Evidence, fits: Sequence[Fit], blocks: int) -> Diagnosis:
    edit = fits[0].edit
    residual = max(fit.ratios[evidence.block] for fit in fits)
    sentence = edit.sentence.replace("{block}", evidence.block)
    return diagnosis(edit.code, sentence, residual, **dict(edit.evidence), explains=blocks)
