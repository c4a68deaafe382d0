"""Restores what user code assigns while it is traced.

A cell over code that keeps its weights in module globals, or on ``self``, assigns tracers to them
while it is traced. Left there, they would be used by the next run with plain arrays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

from jax.core import Tracer

from bpttcheck.oracles.tracer.memory import ArrayProxy, Selection
from bpttcheck.oracles.tracer.reach import UserNamespaces

_ABSENT = object()
_TRACED = (ArrayProxy, Selection, Tracer)


@contextlib.contextmanager
def unchanged(reach: UserNamespaces) -> Generator[None, None, None]:
    """Restore globals and attributes of user code, and remove tracers from other containers.

    Other dictionaries, and lists, may count calls or hold what belongs to another run.

    Args:
        reach: the namespaces of user code.
    """
    whole = {**reach.namespaces, **reach.attributes}
    names = [(table, dict(table)) for table in whole.values()]
    classes = [(kind, dict(vars(kind))) for kind in reach.classes.values()]
    tables = [(table, dict(table)) for key, table in reach.tables.items() if key not in whole]
    lists = [(items, list(items)) for items in reach.lists.values()]
    try:
        yield
    finally:
        for table, before in names:
            _restore(table, before, table.__setitem__, table.__delitem__)
        for kind, before in classes:
            _restore(vars(kind), before, _setter(kind), _deleter(kind))
        for table, before in tables:
            if any(map(_is_traced, table.values())):
                _restore(table, before, table.__setitem__, table.__delitem__)
        for items, before in lists:
            if any(map(_is_traced, items)):
                items[:] = before


def _is_traced(item: Any) -> bool:
    """True for a tracer and for plain containers that hold one."""
    if isinstance(item, (tuple, list)):
        return any(map(_is_traced, item))
    if type(item) is dict:
        return any(map(_is_traced, item.values()))
    return isinstance(item, _TRACED)


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
