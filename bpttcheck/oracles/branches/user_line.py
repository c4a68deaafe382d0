"""The line of the user's own code that led to a NumPy call, found from a running frame."""

from __future__ import annotations

import functools
import linecache
import os
import sys
from dataclasses import dataclass
from types import FrameType

import numpy as np

_NUMPY = os.path.dirname(np.__file__)
_NOT_THE_USER = tuple(
    folder + os.sep
    for folder in (
        _NUMPY,
        os.path.join(os.path.dirname(_NUMPY), "scipy"),
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    )
)


@dataclass(frozen=True)
class SourceLine:
    """A place in a source file; the text is read only when it is printed."""

    filename: str
    number: int

    def __str__(self) -> str:
        """``cell.py:12: z = np.maximum(z, 0)``, or without the text where there is no source."""
        text = linecache.getline(self.filename, self.number).strip()
        place = f"{os.path.basename(self.filename)}:{self.number}"
        return f"{place}: {text}" if text else place


def user_place() -> tuple[str, int]:
    """File and number of the innermost running line outside NumPy, SciPy and the oracles."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        filename = frame.f_code.co_filename
        if is_the_user(filename):
            return filename, frame.f_lineno
        frame = frame.f_back
    return "?", 0


@functools.cache
def is_the_user(filename: str) -> bool:
    """True unless ``filename`` belongs to NumPy, SciPy or the oracles."""
    return not filename.startswith(_NOT_THE_USER)
