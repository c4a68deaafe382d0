"""One batch of sequences for a loss: inputs, targets, and which steps are real."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.bptt.unroll import require_mask, require_sequence
from bpttcheck.contract import Array, State
from bpttcheck.errors import ContractError


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences with their targets.

    Args:
        xs: the inputs ``(T, B, n_in)``, floating.
        targets: what the loss compares the outputs with. With a readout at every step, integer
            labels ``(T, B)`` or numbers ``(T, B, n_out)``; with one at the last step, ``(B,)`` or
            ``(B, n_out)``.
        mask: ``(T, B)`` bool, true where the step is real; None: every step is.
        lengths: the number of real steps of each row, ``(B,)`` integers in ``0 .. T``, instead of a
            mask.
        state0: the state before the first step; None: the network's own.

    Raises:
        ContractError: ``xs`` is no floating array of three axes or has no step, there are both a
            mask and lengths, one of them has the wrong shape, dtype or values, or no step is real.
    """

    xs: Array
    targets: Array
    mask: Array | None = None
    lengths: Any = None
    state0: State | None = None

    def __post_init__(self) -> None:
        _require_steps(self.xs)
        if not isinstance(self.targets, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ContractError(
                f"targets of type {type(self.targets).__name__}, but expected a NumPy array",
                item="targets",
            )
        if self.mask is not None and self.lengths is not None:
            raise ContractError(
                "both mask and lengths are given, but they say the same: give one of them, the"
                " other None",
                item="mask",
            )
        if self.mask is not None:
            require_mask(self.mask, *self.xs.shape[:2])
        if self.lengths is not None:
            object.__setattr__(self, "lengths", _checked_lengths(self.lengths, self.xs))
        real = self.real
        if real is not None and not real.any():
            given = f"lengths={self.lengths}" if self.mask is None else "a mask that is false"
            raise ContractError(
                f"{given}: no step is real, but a loss needs at least one",
                item="lengths" if self.mask is None else "mask",
            )

    @property
    def real(self) -> Array | None:
        """The mask ``(T, B)``, made of the lengths if these are given; None: every step is real."""
        if self.lengths is None:
            return self.mask
        return np.arange(len(self.xs))[:, None] < self.lengths


def _require_steps(xs: Array) -> None:
    require_sequence(xs)
    if xs.shape[0] * xs.shape[1] == 0:
        raise ContractError(
            f"xs.shape={xs.shape}: the batch is empty, but a loss needs at least one step (T > 0)"
            " of at least one row (B > 0)",
            item="xs",
        )


def _checked_lengths(given: Any, xs: Array) -> Array:
    T, B = xs.shape[:2]
    lengths = np.asarray(given)
    if lengths.shape != (B,) or lengths.dtype.kind not in "iu":
        raise ContractError(
            f"lengths.shape={lengths.shape}, lengths.dtype={lengths.dtype}, but expected (B,) ="
            f" ({B},) integers, one for each row of xs",
            item="lengths",
        )
    bad = np.flatnonzero((lengths < 0) | (lengths > T))
    if bad.size:
        raise ContractError(
            f"lengths[{bad[0]}]={lengths[bad[0]]}, but expected a number of steps in 0..{T},"
            f" because xs has T={T}",
            item="lengths",
        )
    return lengths
