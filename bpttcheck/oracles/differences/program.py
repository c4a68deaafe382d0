"""A program around one point: run in its own precision, and only on the branches it takes there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.branches.recording import Difference, Function, Pattern, plain, record
from bpttcheck.oracles.differences.shaken import shaken
from bpttcheck.oracles.differences.weighted import flat, require_like

Array = NDArray[Any]
Vector = NDArray[np.float64]
_FLOATS: dict[int, Any] = {2: np.float16, 4: np.float32, 8: np.float64}


class NativeProgram:
    """``function`` with what a first run at ``point`` has shown of it.

    The first run is on a float64 copy of the point. If anything in it comes back narrower, points
    are rounded to that type from then on, so that a step taken is the step the program sees. Code
    that raises in float64 is handed float32.

    Attributes:
        point: the leaves in float64, representable in the program's own type.
        outputs: all outputs at ``point`` in one vector.
        pattern: the branches taken at ``point``; ``None`` if they could not be recorded.
        eps: the spacing of the program's own type at one.
        smallest: the spacing of the smallest numbers of the program's own type.
        evaluations: runs so far.
        limit: runs at most; beyond them ``run`` gives nothing.
        trouble: why the last run gave nothing, or ``""``.
        departure: the branch on which the last run departed from ``pattern``, if that was why.
        matters: the outputs whose values are used; the others may be anything.
        spread: the largest change of each output seen between runs at the very point.
    """

    def __init__(self, function: Function, point: Sequence[Array]) -> None:
        self._function = function
        self.evaluations = 0
        self.limit: float = math.inf
        self.trouble = ""
        self.departure: Difference | None = None
        self.point = [np.asarray(leaf, np.float64) for leaf in point]
        self._handed: Any = np.float64
        outputs = self._first_run_in_either(point)
        self._dtype = _FLOATS[self._narrowest(outputs)]
        rounded = self.rounded(self.point)
        if any(not _same(a, b) for a, b in zip(rounded, self.point, strict=True)):
            self.point = rounded
            outputs = self._first_run()
        self._like = outputs
        self.outputs = flat(outputs)
        self.matters = np.ones(self.outputs.shape, bool)
        self.spread = np.zeros(self.outputs.shape)
        self.eps = float(np.finfo(self._dtype).eps)
        self.smallest = float(np.finfo(self._dtype).smallest_subnormal)

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
        if any(not np.isfinite(leaf).all() for leaf in self.point):
            notes.append("entries of the point that are not finite were not moved")
        if self.spread.any():
            notes.append("repeated runs at the same point differ")
        return "; ".join(notes)

    def require_weights(self, weights: Sequence[Array]) -> None:
        """Raise a ContractError unless ``weights`` has the shapes of the outputs."""
        require_like("weights", weights, "the outputs", self._like)

    def rounded(self, leaves: Sequence[Array]) -> list[Array]:
        """``leaves`` as the program sees them, in float64 again."""
        with np.errstate(all="ignore"):
            return [leaf.astype(self._dtype).astype(np.float64) for leaf in leaves]

    def run(self, leaves: Sequence[Array]) -> Vector | None:
        """All outputs at ``leaves`` in one vector; zero where they do not matter.

        ``None``, with ``trouble`` set, if the program fails there, is not finite or takes another
        branch than at ``point``.
        """
        self.trouble, self.departure = "", None
        if self.evaluations >= self.limit:
            self.trouble = "the evaluations are used up"
            return None
        self.evaluations += 1
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
        values = self._usable(outputs)
        if values is None:
            self.trouble = "the outputs near the point are not finite"
        return values

    def run_shaken(
        self, seed: int, moving: Sequence[NDArray[np.bool_]]
    ) -> tuple[Vector, NDArray[np.bool_]] | None:
        """The outputs when every operation is off by rounding, and which outputs show it.

        An output that is no longer an array of the class that does so may have come from code that
        rounds unseen.
        """
        if self.evaluations >= self.limit:
            return None
        self.evaluations += 1
        found = shaken(self._function, self._as_handed(self.point), seed, self.eps, moving)
        values = None if found is None else self._usable(found[0])
        if found is None or values is None:
            return None
        outputs, kept, any_moved = found
        shown = np.repeat(kept, [output.size for output in outputs])
        # An output in a buffer of the code's own is no longer of the class, but moves as well.
        return values, shown | (any_moved & (values != self._usable_outputs))

    def repeat(self) -> bool:
        """Run at the very point once more; false if it gives nothing there."""
        values = self.run(self.point)
        if values is None:
            return False
        self.spread = np.maximum(self.spread, np.abs(values - self._usable_outputs))
        return True

    @property
    def _usable_outputs(self) -> Vector:
        return np.where(self.matters, self.outputs, 0.0)

    def _usable(self, outputs: Sequence[Array]) -> Vector | None:
        values = flat(outputs)
        if values.shape != self.outputs.shape:
            return None
        values = np.where(self.matters, values, 0.0)
        return values if np.isfinite(values).all() else None

    def _first_run_in_either(self, given: Sequence[Array]) -> list[Array]:
        try:
            return self._first_run()
        except Exception as error:  # whatever user code raises; perhaps only because of float64
            self._dtype = np.float32
            self._handed = np.float32
            self.point = self.rounded(self.point)
            try:
                return self._first_run()
            except Exception:
                if all(np.asarray(leaf).dtype == np.float32 for leaf in given):
                    raise
                raise error from None

    def _first_run(self) -> list[Array]:
        self.evaluations += 1
        outputs, self.pattern = record(self._function, self._as_handed(self.point))
        return outputs

    def _as_handed(self, leaves: Sequence[Array]) -> list[Array]:
        with np.errstate(all="ignore"):
            return [np.asarray(leaf, self._handed) for leaf in leaves]

    def _outputs(self, leaves: Sequence[Array]) -> tuple[list[Array], Pattern | None]:
        handed = self._as_handed(leaves)
        # Without a single branch at the point there is none nearby: recording would be wasted.
        if self.pattern is not None and self.pattern.events:
            return record(self._function, handed)
        return plain(self._function, handed), None

    def _narrowest(self, outputs: Sequence[Array]) -> int:
        sizes = [output.dtype.itemsize for output in outputs if output.dtype.kind == "f"]
        if self.pattern is not None:
            # Half precision inside is a staircase in wider arithmetic, seen as noise.
            sizes.append(max(self.pattern.narrowest, 4))
        return min(8, np.dtype(self._handed).itemsize, *sizes)


def _same(a: Array, b: Array) -> bool:
    return np.array_equal(a, b, equal_nan=True)
