"""The trace in progress: its thread, what is user code, and how it is declined."""

from __future__ import annotations

import contextlib
import dis
import linecache
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, NoReturn

from bpttcheck.errors import Declined


@dataclass
class TracingRun:
    """The state of one call of a lifted function.

    Args:
        make: builds the wrapper for an array or a scalar from its shadow and its box.
        namespaces: ``id`` of each global dictionary of user code -> the dictionary.
        boxes: ``id`` of each owner of NumPy memory -> its box.
        wrappers: ``id`` of each shadow -> a weak reference to its wrapper.
        masks: recipes of boolean arrays -> the value made from them, so that a mask computed
            twice from the same operands is the same mask.
        refusal: the first refusal, kept in case user code swallows it.
        watch: observes each operation of user code: see :mod:`bpttcheck.oracles.tracer.watch`.
    """

    make: Callable[[Any, Any], Any]
    namespaces: dict[int, dict[str, Any]] = field(default_factory=dict)
    buffers: dict[int, Any] = field(default_factory=dict)
    wrappers: dict[int, Any] = field(default_factory=dict)
    masks: dict[Any, Any] = field(default_factory=dict)
    refusal: Declined | None = None
    watch: Callable[..., Any] | None = None


class _Local(threading.local):
    def __init__(self) -> None:
        self.runs: list[TracingRun] = []
        self.decisions: Decisions | None = None


_LOCAL = _Local()


def current() -> TracingRun | None:
    """The run of this thread, or None if this thread does not trace."""
    return _LOCAL.runs[-1] if _LOCAL.runs else None


def is_active(run: TracingRun | None) -> bool:
    """True if ``run`` is active in this thread, perhaps around a nested one."""
    return any(one is run for one in _LOCAL.runs)


@contextlib.contextmanager
def running(run: TracingRun) -> Generator[TracingRun, None, None]:
    """Make ``run`` the current one of this thread."""
    _LOCAL.runs.append(run)
    try:
        yield run
    finally:
        _LOCAL.runs.pop()
        for book in (run.buffers, run.wrappers, run.masks):
            book.clear()  # references that user code kept must not keep the trace alive


@contextlib.contextmanager
def paused() -> Generator[None, None, None]:
    """Let this thread run NumPy natively for a while, replaced names included."""
    kept, _LOCAL.runs = _LOCAL.runs, []
    try:
        yield
    finally:
        _LOCAL.runs = kept


@dataclass
class Decisions:
    """What the values at a point decide: the truth of conditions, and integers, in order.

    Args:
        known: the answers at a point whose code is traced; None: they are found out, by a run on
            arrays that have values.
        found: the answers that were given.
    """

    known: tuple[bool | int, ...] | None = None
    found: list[bool | int] = field(default_factory=list)


@contextlib.contextmanager
def deciding(decisions: Decisions) -> Generator[None]:
    """Answer what traced code asks of values, in this thread."""
    before, _LOCAL.decisions = _LOCAL.decisions, decisions
    try:
        yield
    finally:
        _LOCAL.decisions = before


def decided(kind: str, dtype: Any, value: Callable[[], Any]) -> bool | int | None:
    """The answer to ``bool(z)`` or ``int(z)`` at the point, None where nobody knows.

    Args:
        kind: ``"bool"``, ``"int"`` or ``"index"``.
        dtype: of ``z``; the derivative of a float would be lost in an integer.
        value: ``z`` as a JAX array.
    """
    decisions = _LOCAL.decisions
    if decisions is None or (kind != "bool" and dtype.kind not in "iub"):
        return None
    number = len(decisions.found)
    if decisions.known is not None:
        if number >= len(decisions.known):
            return None
        answer = decisions.known[number]
    else:
        try:
            answer = (bool if kind == "bool" else int)(value())
        except (TypeError, ValueError):  # a tracer, or an array of several values
            return None
    decisions.found.append(answer)
    return answer


def decline(what: str, remedy: str = "", *, where: str = "", by_value: bool = False) -> NoReturn:
    """Raise :class:`Declined` for ``where``, or for the line of user code that is running now."""
    run = current()
    error = Declined(what, where=where or here(), remedy=remedy, by_value=by_value)
    if run is not None and run.refusal is None:
        run.refusal = error
    try:
        raise error
    finally:
        del error  # this frame is in its traceback: a cycle that keeps the callers' frames


def here() -> str:
    """The line of user code that is running now, as ``file.py:12: text``, or ``""``."""
    frame = user_frame()
    return "" if frame is None else _place(frame.f_code, frame.f_lineno)


def user_frame() -> FrameType | None:
    """The innermost frame of user code, or None."""
    run = current()
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while run is not None and frame is not None:
        if id(frame.f_globals) in run.namespaces:
            return frame
        frame = frame.f_back
    return None


def user_line() -> str:
    """The text of the line of user code that is running now, or ``""``."""
    frame = user_frame()
    return "" if frame is None else _source(frame.f_code, frame.f_lineno)


def called_by_user() -> str:
    """The Python function that the user's line called, as ``module.name``, or ``""``."""
    user = user_frame()
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    inner: FrameType | None = None
    while frame is not None and frame is not user:
        if not frame.f_globals.get("__name__", "").startswith("bpttcheck.oracles"):
            inner = frame
        frame = frame.f_back
    if inner is None or user is None:
        return ""
    return f"{inner.f_globals.get('__name__', '')}.{inner.f_code.co_qualname}"


def where_raised(run: TracingRun, error: BaseException) -> str:
    """The innermost line of user code in the traceback of ``error``, or ``""``."""
    found = ""
    for step in _steps(error.__traceback__):
        if id(step.tb_frame.f_globals) in run.namespaces:
            code = step.tb_frame.f_code
            found = _place(code, step.tb_lineno)
    return found


def raised_on_purpose(run: TracingRun, error: BaseException) -> bool:
    """True if ``error`` comes from a ``raise`` or ``assert`` that user code itself executed."""
    steps = list(_steps(error.__traceback__))
    if not steps or id(steps[-1].tb_frame.f_globals) not in run.namespaces:
        return False
    code = steps[-1].tb_frame.f_code.co_code
    return dis.opname[code[steps[-1].tb_lasti]] == "RAISE_VARARGS"


def _steps(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _place(code: CodeType, line: int) -> str:
    text = _source(code, line)
    place = f"{Path(code.co_filename).name}:{line}"
    return f"{place}: {text}" if text else place


def _source(code: CodeType, line: int) -> str:
    return linecache.getline(code.co_filename, line).strip()
