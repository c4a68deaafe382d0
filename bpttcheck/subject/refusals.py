"""Did code raise on purpose, or by accident?"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import TracebackType

_LIBRARIES = ("numpy", "scipy", "jax", "jaxlib", "torch")


def is_refusal(error: BaseException | None) -> bool:
    """True if the user's own code raised on purpose: by ``raise`` or ``assert``."""
    steps = [] if error is None else list(_steps(error.__traceback__))
    if not steps:
        return False
    frame, at = steps[-1].tb_frame, steps[-1].tb_lasti
    if str(frame.f_globals.get("__name__", "")).split(".")[0] in _LIBRARIES:
        return False
    return dis.opname[frame.f_code.co_code[at]] == "RAISE_VARARGS"


def _steps(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next
