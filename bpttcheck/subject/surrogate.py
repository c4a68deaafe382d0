"""A declared surrogate: a sentence, a step with the same values, and its run in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bpttcheck import trees
from bpttcheck.bptt.engine import Frozen, NativeEngine, SurrogateCell
from bpttcheck.bptt.unroll import unroll
from bpttcheck.contract import Array, Params, State, is_float
from bpttcheck.errors import ContractError
from bpttcheck.subject.user_code import Notes, call
from bpttcheck.traits import Traits

if TYPE_CHECKING:
    from bpttcheck.subject.subject import Subject


# Relative to the largest value: the same value computed twice differs by rounding only.
_SAME = 1e-4


def validate_surrogate_step(
    cell: Any, params: Params, state: State, x: Array, step: tuple[Any, ...], notes: Notes | None
) -> None:
    """Compare ``surrogate_step`` with what ``step`` returned.

    Raises:
        ContractError: one of ``surrogate`` and ``surrogate_step`` is missing, or the values differ.
    """
    traits = Traits.of(cell)
    declared, method = traits.surrogate, traits.surrogate_step
    if not declared and method is None:
        return
    if method is None:
        raise ContractError(
            f"surrogate={declared!r}, but there is no surrogate_step(freeze, params, state, x): "
            "write it, or remove the sentence",
            item="surrogate",
        )
    require_sentence(declared, "surrogate_step")
    found = call("surrogate_step", method, lambda tree: tree, params, state, x, notes=notes)
    if not isinstance(found, tuple) or len(found) != 2:
        raise ContractError(
            f"surrogate_step returned {type(found).__name__}, expected (new_state, y)",
            method="surrogate_step",
        )
    for mine, real, what in zip(found, step[:2], ("new_state", "y"), strict=True):
        ordered = trees.map_leaves(lambda _, leaf: leaf, real, mine)
        for a, b in zip(trees.leaves(ordered), trees.leaves(real), strict=True):
            if is_float(b) and not _same(np.asarray(a), np.asarray(b)):
                raise ContractError(
                    f"{what} of surrogate_step is not that of step: it must have the same values, "
                    "and differ in its derivative alone: soft + freeze(real - soft)",
                    method="surrogate_step",
                    item=what,
                )


def validate_surrogate_sequence(layer: Any) -> None:
    """Require a ``sequence`` of every layer that declares a surrogate, and the reverse.

    Raises:
        ContractError: a surrogate is declared without a ``sequence``.
    """
    traits = Traits.of(layer)
    declared = traits.surrogate
    if declared and traits.sequence is None:
        raise ContractError(
            f"surrogate={declared!r}, but there is no sequence(engine, params, xs, state0, mask) "
            "that freezes anything: write it, or remove the sentence",
            item="surrogate",
        )


def require_sentence(declared: Any, method: str) -> None:
    """Reject a surrogate that is not described.

    Raises:
        ContractError: ``declared`` is empty or not a string.
    """
    if not isinstance(declared, str) or not declared.strip():
        raise ContractError(
            f"there is a {method}, but surrogate={declared!r}: expected one sentence that says of "
            "what the backward pass is the gradient; reports repeat it",
            item="surrogate",
        )


def _same(mine: Array, real: Array) -> bool:
    if mine.shape != real.shape:
        return False
    gap = np.abs(mine.astype(np.float64) - real.astype(np.float64))
    return bool(gap.max(initial=0.0) <= _SAME * np.abs(real).max(initial=0.0))


def surrogate_forward(subject: Subject) -> Callable[..., Any] | None:
    """A forward pass that keeps frozen values from its first run; None if nothing is frozen."""
    sequence, step = subject.reference_sequence, subject.surrogate_step
    frozen = Frozen()
    if sequence is not None and subject.surrogate:

        def whole(params: Any, xs: Array, state0: Any, mask: Any = None) -> Any:
            frozen.again()
            real = np.ones(xs.shape[:2], bool) if mask is None else mask
            return sequence(NativeEngine(frozen), params, xs, state0, real)

        return whole
    if step is not None:
        cell: Any = SurrogateCell(subject.surrogate_cell, frozen)

        def unrolled(params: Any, xs: Array, state0: Any, mask: Any = None) -> Any:
            frozen.again()
            return unroll(cell, params, xs, state0, mask)

        return unrolled
    return None
