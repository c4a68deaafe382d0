"""What is being done right now, for whoever wants to know should the process die of it.

A run in a process of its own (``bpttcheck verify --isolate``) listens; everybody else pays one
comparison for each call of user code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Listener = Callable[[str, tuple[Any, ...]], None]
"""``listener(what, args)``: a method of the user's about to be called, and its arguments."""

_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Let ``listener`` hear of each call of user code, and of each trace, before it begins."""
    _listeners.append(listener)


def about_to(what: str, *args: Any) -> None:
    """Say what comes next.

    Args:
        what: a method of the user's, or such as ``"tracing the step"``.
        args: its arguments, for their sizes.
    """
    for listener in _listeners:
        listener(what, args)
