"""Classifies an error: the user's code, JAX or NumPy refusing it, or a defect of bpttcheck.

A refusal makes one oracle abstain; a defect of bpttcheck must never look like one. Both come out of
the same call, so the traceback decides. In it, :func:`on_behalf` and :func:`natively` mark where
the user's code begins and where NumPy works on the user's own arguments.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable, Container
from types import FrameType, TracebackType
from typing import Any, NoReturn, TypeVar

import jax

from bpttcheck.errors import Declined, InternalError

_Result = TypeVar("_Result")

DEBUG = "BPTTCHECK_DEBUG"
_NOTE = f"a defect of bpttcheck, raised as it is because of {DEBUG}=1"

_DEFECTS = (
    KeyError, IndexError, AttributeError, NameError, AssertionError, ZeroDivisionError,
    RecursionError,
)  # fmt: skip
_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_PUBLIC = os.path.join(
    _HERE, "tracer", "lax_engine.py"
)  # called by the user's own `sequence`, with its arguments
_STANDARD_LIBRARY = sysconfig.get_path("stdlib") + os.sep
_DEEP = 200


def on_behalf(function: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
    """``function(*args, **kwargs)`` for the user's code, or for a JAX primitive in it.

    Args:
        function: the user's own function, or one of JAX that stands in the user's code.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    return function(*args, **kwargs)


def natively(function: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
    """``function(*args, **kwargs)`` for a NumPy function and the user's arguments."""
    return function(*args, **kwargs)


def as_numpy(error: Exception) -> NoReturn:
    """Raise the error that NumPy itself raises for these arguments."""
    raise error


def raise_defect(
    what: str, error: BaseException, user: Container[int] = (), *, any_kind: bool = False
) -> None:
    """Raise :class:`InternalError` if ``error`` is a defect of bpttcheck; else return.

    With ``BPTTCHECK_DEBUG=1`` in the environment the error itself is raised.

    Args:
        what: what was being done, such as ``"tracing the step"``.
        error: what was raised, with its traceback.
        user: ``id`` of the global dictionaries that are known to be the user's.
        any_kind: True where user code runs through :func:`on_behalf` only: every other error is
            then a defect, whatever its type.

    Raises:
        InternalError: ``error`` is a defect.
    """
    if not is_defect(error, user, any_kind=any_kind):
        return
    if os.environ.get(DEBUG) == "1":
        error.add_note(_NOTE)
        raise error
    raise InternalError(what, error) from error


def is_defect(error: BaseException, user: Container[int] = (), *, any_kind: bool = False) -> bool:
    """True if ``error`` was raised by bpttcheck's code: see :func:`raise_defect`."""
    if _NOTE in _notes(error):
        return True
    if isinstance(error, (Declined, *_jax_refusals())):
        return False
    if not (any_kind or isinstance(error, _DEFECTS)):
        return False
    frames = _frames(error.__traceback__)
    codes = [frame.f_code for frame in frames]
    marks = [i for i, code in enumerate(codes) if code in _MARKS]
    inner = frames[marks[-1] + 1 :] if marks else frames
    if any_kind:
        return not marks or any(map(_is_ours, inner))
    if not inner or (marks and codes[marks[-1]] in _NUMPYS):
        return False
    if _is_library(inner[-1]) or _cut_by_jax(error):
        return False
    if isinstance(error, RecursionError):
        return not any(_may_be_users(frame, user) for frame in inner[-_DEEP:])
    if _is_ours(inner[-1]):
        return True
    # A function that is neither a library's nor known as the user's, called by bpttcheck.
    own = [i for i, frame in enumerate(inner) if _is_ours(frame)]
    return bool(own) and not any(id(frame.f_globals) in user for frame in inner[own[-1] :])


_NUMPYS = (natively.__code__, as_numpy.__code__)
_MARKS = (on_behalf.__code__, *_NUMPYS)


def _cut_by_jax(error: BaseException) -> bool:
    """True if JAX has removed its frames, perhaps the innermost, from the traceback."""
    return any("JAX has removed its internal frames" in note for note in _notes(error))


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def _may_be_users(frame: FrameType, user: Container[int]) -> bool:
    return id(frame.f_globals) in user or not (_is_ours(frame) or _is_library(frame))


def _jax_refusals() -> tuple[type[Exception], ...]:
    """JAX's own errors about what it cannot trace, differentiate or compile."""
    kinds = vars(jax.errors).values()
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception))


def _frames(trace: TracebackType | None) -> list[FrameType]:
    found: list[FrameType] = []
    while trace is not None:
        found.append(trace.tb_frame)
        trace = trace.tb_next
    return found


def _is_ours(frame: FrameType) -> bool:
    filename = frame.f_code.co_filename
    return filename.startswith(_HERE) and filename not in (_PUBLIC, __file__)


def _is_library(frame: FrameType) -> bool:
    filename = frame.f_code.co_filename
    if str(frame.f_globals.get("__name__", "")).partition(".")[0] == "bpttcheck":
        return False
    return filename.startswith(("<frozen", _STANDARD_LIBRARY)) or "site-packages" in filename
