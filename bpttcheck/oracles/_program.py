"""A program around one point: run in its own precision, and only on the branches it takes there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles._weighted import flat, require_like
from bpttcheck.oracles.recording import Difference, Function, Pattern, plain, record

Array = NDArray[Any]
Vector = NDArray[np.float64]
_FLOATS: dict[int, Any] = {2: np.float16, 4: np.float32, 8: np.float64}


class Program:
    """``function`` with what a first run at ``point`` has shown of it.

    The first run is on a float64 copy of the point. If anything in it comes back narrower, points
    are rounded to that type from then on, so that a step taken is the step the program sees.

    Attributes:
        point: the leaves in float64, representable in the program's own type.
        outputs: all outputs at ``point`` in one vector.
        pattern: the branches taken at ``point``; ``None`` if they could not be recorded.
        eps: the spacing of the program's own type at one.
        evaluations: runs so far.
        trouble: why the last run gave nothing, or ``""``.
        departure: the branch on which the last run departed from ``pattern``, if that was why.
    """

    def __init__(self, function: Function, point: Sequence[Array]) -> None:
        self._function = function
        self.evaluations = 0
        self.trouble = ""
        self.departure: Difference | None = None
        self.point = [np.asarray(leaf, np.float64) for leaf in point]
        outputs = self._first_run()
        self._dtype = _FLOATS[self._narrowest(outputs)]
        rounded = self.rounded(self.point)
        if any(not np.array_equal(a, b) for a, b in zip(rounded, self.point, strict=True)):
            self.point = rounded
            outputs = self._first_run()
        self._like = outputs
        self.outputs = flat(outputs)
        self.eps = float(np.finfo(self._dtype).eps)

    @property
    def note(self) -> str:
        """What makes differences of this program less than they could be, or ``""``."""
        notes: list[str] = []
        if self._dtype is not np.float64:
            notes.append(f"{np.dtype(self._dtype).name}-only code")
        if self.pattern is None:
            notes.append("branches not recorded: the code refuses a subclass of ndarray")
        elif self.pattern.unseen:
            notes.append(f"branches on values that left NumPy not seen: {self.pattern.unseen[0]}")
        return "; ".join(notes)

    def require_weights(self, weights: Sequence[Array]) -> None:
        """Raise a ContractError unless ``weights`` has the shapes of the outputs."""
        require_like("weights", weights, "the outputs", self._like)

    def rounded(self, leaves: Sequence[Array]) -> list[Array]:
        """``leaves`` as the program sees them, in float64 again."""
        with np.errstate(all="ignore"):
            return [leaf.astype(self._dtype).astype(np.float64) for leaf in leaves]

    def run(self, leaves: Sequence[Array]) -> Vector | None:
        """All outputs at ``leaves`` in one vector.

        ``None``, with ``trouble`` set, if the program fails there, is not finite or takes another
        branch than at ``point``.
        """
        self.evaluations += 1
        self.trouble, self.departure = "", None
        try:
            outputs, pattern = self._outputs(leaves)
        except Exception as error:  # whatever user code raises away from the point
            self.trouble = f"the code raises {type(error).__name__} near the point"
            return None
        if self.pattern is not None and pattern is not None:
            self.departure = self.pattern.difference(pattern)
            if self.departure is not None:
                self.trouble = f"another branch is taken: {self.departure.event}"
                return None
        values = flat(outputs)
        if values.shape != self.outputs.shape or not np.isfinite(values).all():
            self.trouble = "the outputs near the point are not finite"
            return None
        return values

    def _first_run(self) -> list[Array]:
        self.evaluations += 1
        outputs, self.pattern = record(self._function, self.point)
        return outputs

    def _outputs(self, leaves: Sequence[Array]) -> tuple[list[Array], Pattern | None]:
        # Without a single branch at the point there is none nearby: recording would be wasted.
        if self.pattern is not None and self.pattern.events:
            return record(self._function, leaves)
        return plain(self._function, leaves), None

    def _narrowest(self, outputs: Sequence[Array]) -> int:
        sizes = [output.dtype.itemsize for output in outputs if output.dtype.kind == "f"]
        if self.pattern is not None:
            sizes.append(self.pattern.narrowest)
        return min(8, *sizes, 8)
