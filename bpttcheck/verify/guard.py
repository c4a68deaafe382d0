"""Runs the user's code: floating-point errors are silent, warnings become notes, exceptions errors.

Whatever a cell raises leaves here as a :class:`ContractError` that names the method and the line.
"""

from __future__ import annotations

import linecache
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import CoroutineType, TracebackType
from typing import Any

import numpy as np

from bpttcheck.errors import BpttcheckError, ContractError

MOST_NOTES = 20
_LONGEST_TEXT = 400
_STANDARD_LIBRARY = sysconfig.get_path("stdlib")

SIGNATURES = {
    "init": "init(rng, n_in, n_hidden)",
    "initial_state": "initial_state(params, batch_size)",
    "initial_state_vjp": "initial_state_vjp(params, d_state0)",
    "step": "step(params, state, x)",
    "step_vjp": "step_vjp(params, cache, d_state, d_y)",
    "forward": "forward(params, xs, state0, mask=None)",
    "vjp": "vjp(params, tape, d_ys, d_state_T)",
}


class Notes:
    """Remarks gathered during a run: each text once, at most ``MOST_NOTES`` of them."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}

    def add(self, text: str) -> None:
        """Remember ``text`` unless it is known already or the notes are full."""
        if len(self._texts) < MOST_NOTES:
            self._texts.setdefault(text)

    @property
    def texts(self) -> tuple[str, ...]:
        """The remarks in the order in which they first came."""
        return tuple(self._texts)


def call(method: str, function: Callable[..., Any], *args: Any, notes: Notes | None = None) -> Any:
    """Call ``function(*args)``, the user's ``method``, and keep its accidents away from the caller.

    The caller's NumPy error state and warning filters are what they were once this returns.

    Args:
        method: the name of the method, for messages.
        function: the bound method itself.
        args: its positional arguments.
        notes: where the warnings of the user's code are put; None drops them.

    Returns:
        What ``function`` returns.

    Raises:
        ContractError: ``function`` raised anything (``SystemExit`` too), or is a coroutine. The
            errors of :mod:`bpttcheck.errors` and ``KeyboardInterrupt`` pass unchanged.
    """
    try:
        with np.errstate(all="ignore"), _RECORDER.listening(method, notes):
            result = function(*args)
    except BpttcheckError:
        raise
    except (Exception, SystemExit) as error:
        raise ContractError(_explain(method, error), method=method) from error
    if type(result) is CoroutineType:  # the type is asked: an odd object may refuse to say
        result.close()
        raise ContractError(f"{method} is a coroutine: write `def`, not `async def`", method=method)
    return result


@contextmanager
def examining(method: str, item: str = "") -> Generator[None]:
    """Turn whatever an odd object does while it is looked at into a :class:`ContractError`."""
    try:
        with np.errstate(all="ignore"):
            yield
    except BpttcheckError:
        raise
    except Exception as error:
        what = f"{method}: {item or 'the result'}" if method else item or "the object"
        raise ContractError(
            f"{what} cannot be examined: looking at it raised {_name_and_text(error)}; use plain "
            "NumPy arrays, tuples and dicts",
            method=method,
            item=item,
        ) from error


class _Recorder:
    """Sends the warnings of user code to the notes of the thread that raised them.

    ``warnings.catch_warnings`` replaces the filters of the whole process; two threads that leave it
    in the wrong order would keep each other's. Hence the first to come replaces them and the last
    to go puts them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._catcher = warnings.catch_warnings()
        self._outer: Callable[..., Any] = warnings.showwarning
        self._here = threading.local()

    @contextmanager
    def listening(self, method: str, notes: Notes | None) -> Generator[None]:
        """Record the warnings of this thread while the block runs."""
        stack: list[tuple[str, Notes | None]] = self._here.__dict__.setdefault("stack", [])
        self._enter()
        stack.append((method, notes))
        try:
            yield
        finally:
            stack.pop()
            self._leave()

    def _enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                self._outer = warnings.showwarning
                warnings.simplefilter("always")
                warnings.showwarning = self._show
            self._inside += 1

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._catcher.__exit__(None, None, None)

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
            return
        method, notes = stack[-1]
        if notes is not None:
            place = f"{Path(filename).name}:{lineno}"
            notes.add(f"{method} warned: {category.__name__}: {_text(message)} ({place})")


_RECORDER = _Recorder()


def _explain(method: str, error: BaseException) -> str:
    message = f"{method} raised {_name_and_text(error)}"
    where = _location(error.__traceback__)
    if where:
        return f"{message} ({where})"
    if isinstance(error, TypeError) and method in SIGNATURES:
        return f"{message}; it is called as {SIGNATURES[method]}"
    return message


def _name_and_text(error: BaseException) -> str:
    text = _text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text(thing: object) -> str:
    try:
        text = str(thing)
    except Exception:  # a __str__ that raises must not hide the first accident
        return "(its text cannot be printed)"
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " ..."


def _location(trace: TracebackType | None) -> str:
    """``cell.py:12: z = x @ W`` for the deepest line that is not a library's; ``""`` if none is."""
    frames = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(trace)
        if frame.f_code.co_filename != __file__
    ]
    own = [place for place in frames if not _is_library(place[0])]
    if not frames:
        return ""
    filename, line = (own or frames)[-1]
    source = linecache.getline(filename, line).strip()
    place = f"{Path(filename).name}:{line}"
    return f"{place}: {source}" if source else place


def _is_library(filename: str) -> bool:
    parts = Path(filename).parts
    if "site-packages" in parts or filename.startswith("<frozen"):
        return True
    return filename.startswith(_STANDARD_LIBRARY)
