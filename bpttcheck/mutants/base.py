"""A planted bug, and how it is planted in any backward pass.

A cell's ``step_vjp`` and a layer's ``vjp`` take the same arguments in another order. A family of
mutants uses the common form: a call of the right backward pass, :class:`VjpCall`, whose result,
:class:`VjpResult`, it replaces by a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bpttcheck.mutants._anatomy import Shapes, Size, SubjectInfo, anatomy
from bpttcheck.mutants._call import (
    Change,
    Edit,
    VjpCall,
    VjpResult,
    change_block,
    change_blocks,
    change_leaf,
    times,
    zero_state,
    zeros,
)
from bpttcheck.mutants._planted import Mutated, MutatedCell, MutatedLayer, planted
from bpttcheck.mutants._stepwise import Loop, in_layer, stepped

__all__ = [
    "ACTIVE_REGIMES",
    "ANY_REGIME",
    "VALUES",
    "Change",
    "Edit",
    "Loop",
    "Mutant",
    "Mutated",
    "MutatedCell",
    "MutatedLayer",
    "Shapes",
    "Size",
    "SubjectInfo",
    "VjpCall",
    "VjpResult",
    "anatomy",
    "change_block",
    "change_blocks",
    "change_leaf",
    "in_layer",
    "planted",
    "stepped",
    "times",
    "zero_state",
    "zeros",
]

ANY_REGIME = ()
"""A bug with these regimes is visible in every one of them."""

ACTIVE_REGIMES = (
    "ordinary", "long", "large_cotangents", "tiny_gradients", "own_initial_state", "exploding",
    "at_kinks", "near_kinks",
)  # fmt: skip
"""The regimes in which a cotangent reaches every unit and the steps before.

Not so where units saturate, where gradients vanish, or where most values are zero.
"""


VALUES = {
    "zero_row": "a row of x is zero",
    "large_x": "an entry of x exceeds 5",
    "far_x": "an entry of x exceeds 10",
    "one_hot": "every row of x is a token: a single 1, else 0",
    "equal_rows": "two rows of x are equal",
    "one_sign": "no entry of d_y is negative",
    "no_d_y": "d_y is zero, d_state is not",
    "no_d_state": "d_state is zero, d_y is not",
    "one_output": "d_y has entries for a single output, d_state has none",
    "fortran": "arrays are in Fortran order",
    "read_only": "arrays are read-only",
    "huge": "gradients exceed 1e9",
    "tiny": "gradients are below 1e-30",
}
"""Properties of a problem's arrays that reveal a bug which ordinary values do not."""


@dataclass(frozen=True)
class Mutant:
    """One planted bug: its effect, where it is visible, and its diagnosis.

    Args:
        name: unique in a catalogue and readable: ``"sign of d_params['W']"``.
        family: the name of its file in :mod:`bpttcheck.mutants`.
        sentence: what is wrong.
        plant: makes the wrong target from a right one; a mutant of kind ``"layer"`` also takes a
            cell, of which it makes a layer whose ``reference`` is that cell.
        kind: ``"cell"`` or ``"layer"``: what ``plant`` gives.
        blocks: the outputs of the backward pass that are wrong, in the names of ``step_vjp``
            (``"d_params['W']"``, ``"d_previous_state[0]"``, ``"d_x"``); one of them must be named.
            Empty: whichever the wrong value reaches.
        diagnosis: the code that must be the first diagnosis, or ``""`` if none is declared.
        also: further codes that describe the same bug equally well.
        dtypes: the dtypes in which it can be seen.
        regimes: the regimes in which it can be seen; empty: in every one.
        least_T: the shortest sequence that shows it for what it is.
        least_B: the smallest batch that shows it.
        sizes: ``(n_in, n_hidden)`` that show it; empty: every size.
        least_n_in: the smallest ``n_in`` that shows it.
        least_H: the smallest ``n_hidden`` that shows it.
        every_T: only a ``T`` that is a multiple of this shows it.
        values: the property of arrays that shows it, a key of :data:`VALUES`; ``""``: none.
        error: the relative error of its block where it is a plain factor, else ``inf``; it can be
            seen where the resolution is finer than this.
        time_step: the step whose contribution is wrong, counted from the start if not negative;
            None: no particular step.
        note: why it may be invisible, or ``""``.
        needs_mask: True if it can be seen only where some step is masked.
    """

    name: str
    family: str
    sentence: str
    plant: Callable[[Any], Any] = field(repr=False)
    kind: str = "cell"
    blocks: tuple[str, ...] = ()
    diagnosis: str = ""
    also: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float64", "float32")
    regimes: tuple[str, ...] = ANY_REGIME
    least_T: int = 1
    least_B: int = 1
    sizes: tuple[Size, ...] = ()
    least_n_in: int = 1
    least_H: int = 1
    every_T: int = 1
    values: str = ""
    error: float = np.inf
    time_step: int | None = None
    note: str = ""
    needs_mask: bool = False
