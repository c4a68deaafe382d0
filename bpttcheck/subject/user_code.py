"""Runs user code: floating-point errors are ignored, warnings become notes, exceptions errors.

Whatever a cell raises becomes a :class:`ContractError` that names the method and the line.
"""

from __future__ import annotations

import linecache
import os
import sysconfig
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import CoroutineType, ModuleType, TracebackType
from typing import Any

import numpy as np

from bpttcheck.activity import about_to
from bpttcheck.errors import BpttcheckError, ContractError, InternalError
from bpttcheck.warning_scope import Heard, heard_by

MOST_NOTES = 20
_LONGEST_TEXT = 400
_STANDARD_LIBRARY = sysconfig.get_path("stdlib")
_ADAPTERS = str(Path(__file__).parents[1] / "adapt") + os.sep
# What the user's arrays and functions make an adapter raise is of other types, or told by it.
_DEFECTS = (AssertionError, AttributeError, IndexError, KeyError, NameError, ZeroDivisionError)

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
        """Keep ``text`` unless it is known already or the notes are full."""
        if len(self._texts) < MOST_NOTES:
            self._texts.setdefault(text)

    @property
    def texts(self) -> tuple[str, ...]:
        """The remarks in the order in which they first came."""
        return tuple(self._texts)


def call(method: str, function: Callable[..., Any], *args: Any, notes: Notes | None = None) -> Any:
    """Call ``function(*args)``, the user's ``method``, and isolate its exceptions and warnings.

    The caller's NumPy error state and warning filters are restored on return.

    Args:
        method: the name of the method, for messages.
        function: the bound method itself.
        args: its positional arguments.
        notes: receives the warnings of the user's code; None drops them.

    Returns:
        What ``function`` returns.

    Raises:
        ContractError: ``function`` raised anything (``SystemExit`` too), or is a coroutine. The
            errors of :mod:`bpttcheck.errors` and ``KeyboardInterrupt`` pass unchanged.
        InternalError: an adapter of bpttcheck around the user's code has a defect.
    """
    about_to(method, *args)
    try:
        with heard_by(None if notes is None else _into(notes, method)):
            result = function(*args)
    except BpttcheckError:
        raise
    except (Exception, SystemExit) as error:
        if _is_defect(error):
            raise InternalError(f"adapting {method}", error) from error
        raise ContractError(_explain(method, error), method=method) from error
    if type(result) is CoroutineType:  # of the type: an unusual object may raise
        result.close()
        raise ContractError(f"{method} is a coroutine: write `def`, not `async def`", method=method)
    return result


@contextmanager
def guarded_inspection(method: str, item: str = "") -> Generator[None]:
    """Turn an exception raised while an object is inspected into a :class:`ContractError`."""
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


def _is_defect(error: BaseException) -> bool:
    """True if a line of an adapter, not of what it calls, raised what only a defect raises."""
    if not isinstance(error, _DEFECTS):
        return False
    if isinstance(error, AttributeError) and not _is_ours(error.obj):
        return False  # a method of the user's object that it does not have
    places = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return places[-1].startswith(_ADAPTERS)


def _is_ours(item: object) -> bool:
    home = item.__name__ if isinstance(item, ModuleType) else type(item).__module__
    return home.partition(".")[0] == "bpttcheck"


def _into(notes: Notes, method: str) -> Heard:
    """Warnings as notes on a method."""

    def heard(message: Warning | str, category: type[Warning], filename: str, lineno: int) -> None:
        place = f"{Path(filename).name}:{lineno}"
        notes.add(f"{method} warned: {category.__name__}: {_text(message)} ({place})")

    return heard


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
    except Exception:  # a __str__ that raises must not hide the original error
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
