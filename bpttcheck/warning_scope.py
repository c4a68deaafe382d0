"""Catches warnings raised by user code, or by JAX on its behalf, thread by thread.

``warnings.catch_warnings`` replaces the filters of the whole process. Two threads that leave it in
the wrong order would keep each other's filters, and so would a thread that outlives the caller's
``catch_warnings``. Hence the first thread to enter replaces the filters and the last to leave
restores them, and only if they are still its own.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import numpy as np

Heard = Callable[[Warning | str, type[Warning], str, int], None]
"""``heard(message, category, filename, lineno)`` is called for each warning of its thread."""


class _Recorder:
    """Passes the warnings of each thread to that thread's listener."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._catcher: warnings.catch_warnings[None] | None = None
        self._filters: Any = None
        self._outer: Callable[..., Any] = warnings.showwarning
        self._here = threading.local()

    @contextmanager
    def listening(self, heard: Heard | None) -> Generator[None]:
        """Pass the warnings of this thread to ``heard`` while the block runs; None drops them."""
        stack: list[Heard | None] = self._here.__dict__.setdefault("stack", [])
        self._enter()
        stack.append(heard)
        try:
            yield
        finally:
            stack.pop()
            self._leave()

    def _enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._put_back()  # where others have restored these filters since
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                self._outer = warnings.showwarning
                warnings.simplefilter("always")
                warnings.showwarning = self._show
                self._filters = warnings.filters
            self._inside += 1

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._put_back()

    def _put_back(self) -> None:
        """Undo :meth:`_enter` unless the filters have been replaced since."""
        if self._catcher is not None and warnings.filters is self._filters:
            self._catcher.__exit__(None, None, None)
            self._catcher = self._filters = None

    def _show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        stack = self._here.__dict__.get("stack")
        if not stack:  # another thread, which runs no user code
            self._outer(message, category, filename, lineno, file, line)
        elif stack[-1] is not None:
            stack[-1](message, category, filename, lineno)


_RECORDER = _Recorder()


@contextmanager
def heard_by(heard: Heard | None) -> Generator[None]:
    """Pass the warnings of this thread to ``heard``; NumPy's floating-point errors are ignored.

    The filters and the error state of the caller are restored on exit.

    Args:
        heard: called for each warning; None drops them.
    """
    with np.errstate(all="ignore"), _RECORDER.listening(heard):
        yield


def silenced() -> Any:
    """Drop warnings: those of JAX about code that has also run natively."""
    return heard_by(None)
