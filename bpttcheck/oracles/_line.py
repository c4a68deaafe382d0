"""A program seen along one line through a point: values at ``±h``, and how noisy they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles._weighted import Scaled, flat, total
from bpttcheck.oracles.recording import Function, Pattern, plain, record

Array = NDArray[Any]
Vector = NDArray[np.float64]
_FLOATS = {2: np.float16, 4: np.float32, 8: np.float64}


@dataclass(frozen=True)
class Row:
    """A central difference at one step, by entry of the outputs and in total.

    Args:
        step: the step as realised.
        slopes: ``w·(o(+h) - o(-h)) / 2h``.
        bends: ``w·(o(+h) - 2·o(0) + o(-h)) / h``: tends to zero with ``h`` unless the slope jumps.
    """

    step: float
    slopes: Vector
    bends: Vector

    @property
    def slope(self) -> float:
        """The central difference of the weighted sum."""
        return total(self.slopes)

    @property
    def bend(self) -> float:
        """The difference of the two one-sided slopes of the weighted sum."""
        return total(self.bends)


class Line:
    """``outputs(point + s·direction)``, evaluated in the precision of the program itself.

    The program first runs on a float64 copy of the point; if float32 shows anywhere in it, every
    point is rounded to float32 before it is handed over, so that the step is the one realised.
    """

    def __init__(
        self, function: Function, point: Sequence[Array], direction: Scaled, weights: Sequence[Array]
    ) -> None:
        self._function = function
        self._direction = direction.arrays
        self._weights = flat(weights)
        self.evaluations = 0
        self.trouble = ""
        self.at_tie = False
        self._dtype: Any = np.float64
        self._point = [np.asarray(leaf, np.float64) for leaf in point]
        outputs, self.pattern = self._first()
        narrowest = min((o.dtype.itemsize for o in outputs if o.dtype.kind == "f"), default=8)
        if self.pattern is not None:
            narrowest = min(narrowest, self.pattern.narrowest)
        if narrowest < 8:
            self._dtype = _FLOATS[narrowest]
            rounded = self._rounded(self._point)
            if any(not np.array_equal(a, b) for a, b in zip(rounded, self._point, strict=True)):
                self._point = rounded
                outputs, self.pattern = self._first()
        self.eps = float(np.finfo(self._dtype).eps)
        self.shapes = [output.shape for output in outputs]
        self._base = flat(outputs)
        self.size = 0.0
```
