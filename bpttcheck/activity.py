"""Announces the current activity, so that it is known if the process dies.

An isolated run (``bpttcheck verify --isolate``) listens; all others pay one comparison for each
call of user code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Listener = Callable[[str, tuple[Any, ...]], None]
"""``listener(what, args)``: a method of the user's about to be called, and its arguments."""

_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Call ``listener`` before each call of user code and before each trace."""
    _listeners.append(listener)


def about_to(what: str, *args: Any) -> None:
    """Announce an activity.

    Args:
        what: a user's method, or an activity such as ``"tracing the step"``.
        args: its arguments, for their sizes.
    """
    for listener in _listeners:
        listener(what, args)
