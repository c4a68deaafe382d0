"""The forward pass of a declared surrogate, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bpttcheck.bptt.engine import Frozen, NativeEngine, SurrogateCell
from bpttcheck.bptt.unroll import unroll
from bpttcheck.contract import Array
from bpttcheck.subject.subject import Subject


def surrogate_forward(subject: Subject) -> Callable[..., Any] | None:
    """A forward pass in which what the subject freezes stays as in the first run; None: no need."""
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
