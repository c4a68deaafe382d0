"""What user code assigns while it is traced is put back afterwards.

A cell over code that keeps its weights in module globals, or on ``self``, assigns tracers to them
while it is traced. Left there, they would be used by the next run with plain arrays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import jax

from bpttcheck.oracles._lift_memory import Chosen, Held
from bpttcheck.oracles._lift_reach import Reach

_ABSENT = object()
_TRACED = (Held, Chosen, jax.core.Tracer)


@contextlib.contextmanager
def unchanged(reach: Reach) -> Generator[None, None, None]:
    """Put names, attributes, dictionaries and lists of user code back as they were.

    Args:
        reach: where user code keeps its names.
    """
    tables = [
        (table, dict(table)) for table in (*reach.namespaces.values(), *reach.tables.values())
    ]
    lists = [(items, list(items)) for items in reach.lists.values()]
    classes = [(kind, dict(vars(kind))) for kind in reach.classes.values()]
    try:
        yield
    finally:
        for table, before in tables:
            _restore(table, before, table.__setitem__, table.__delitem__)
        for items, before in lists:
            # A list may count calls or hold results of another check; only tracers must not stay.
            if any(isinstance(item, _TRACED) for item in items):
                items[:] = before
        for kind, before in classes:
            _restore(vars(kind), before, _setter(kind), _deleter(kind))


def _restore(
    now: Any, before: dict[Any, Any], put: Callable[[Any, Any], Any], drop: Callable[[Any], Any]
) -> None:
    for name in [name for name in now if name not in before]:
        drop(name)
    for name, value in before.items():
        if now.get(name, _ABSENT) is not value:
            put(name, value)


def _setter(kind: type) -> Callable[[Any, Any], None]:
    return lambda name, value: type.__setattr__(kind, name, value)


def _deleter(kind: type) -> Callable[[Any], None]:
    return lambda name: type.__delattr__(kind, name)
