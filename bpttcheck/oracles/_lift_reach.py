"""Which modules are user code: those that a step function can reach and that belong to its author."""

from __future__ import annotations

import functools
import sys
import sysconfig
from pathlib import Path
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

_FOREIGN = frozenset(
    "numpy scipy jax jaxlib ml_dtypes opt_einsum torch tensorflow hypothesis pytest _pytest pluggy "
    "click matplotlib equinox flax".split()
)
# Cells of ours are user code like any other; the machinery that traces them is not.
_OURS = ("activations", "adapt", "cells", "losses", "mutants")
_SIMPLE = (str, bytes, int, float, complex, bool, type(None), BuiltinFunctionType)
_LARGE = 1000


class Reach:
    """Global dictionaries and closure cells of user code, found from a function.

    Args:
        function: the step, as a function, a bound method, a partial or any callable object.
    """

    def __init__(self, function: Any) -> None:
        self.namespaces: dict[int, dict[str, Any]] = {}
        self.cells: list[CellType] = []
        self._seen: dict[int, Any] = {}
        self._homes: set[str] = set()
        # What the function itself holds is user code even where it is installed as a package.
        roots = self._roots(function, 3)
        self._homes = {_top(name) for name in roots} - _FOREIGN - {"bpttcheck", "builtins"}
        self._homes -= sys.stdlib_module_names
        self._visit_all([function])

    def _roots(self, item: Any, depth: int) -> set[str]:
        names = {getattr(item, "__module__", None) or type(item).__module__}
        if depth and not isinstance(item, (type, ModuleType, *_SIMPLE)):
            for part in _held_by(item):
                names |= self._roots(part, depth - 1)
        return {str(name) for name in names}

    def _visit_all(self, pending: list[Any]) -> None:
        while pending:
            item = pending.pop()
            if isinstance(item, _SIMPLE) or id(item) in self._seen:
                continue
            self._seen[id(item)] = item
            pending.extend(self._from(item))

    def _from(self, item: Any) -> list[Any]:
        if isinstance(item, ModuleType):
            return self._namespace(vars(item))
        if isinstance(item, FunctionType):
            for cell in item.__closure__ or ():
                if cell not in self.cells and self._is_user(item.__globals__):
                    self.cells.append(cell)
            return [*self._namespace(item.__globals__), *_held_by(item)]
        if isinstance(item, type):
            return self._from_class(item)
        if isinstance(item, (list, tuple, set, frozenset, dict, MethodType, functools.partial)):
            return _held_by(item)
        return [type(item), *_held_by(item)] if self._knows(type(item)) else []

    def _from_class(self, kind: type) -> list[Any]:
        if not self._knows(kind):
            return []
        found: list[Any] = list(kind.__mro__)
        for member in vars(kind).values():
            inner = getattr(member, "__func__", None) or getattr(member, "fget", None)
            found.append(member if inner is None else inner)
        module = sys.modules.get(kind.__module__)
        return found if module is None else [*found, module]

    def _knows(self, kind: type) -> bool:
        module = sys.modules.get(kind.__module__)
        return module is not None and self._is_user(vars(module))

    def _namespace(self, namespace: dict[str, Any]) -> list[Any]:
        if id(namespace) in self.namespaces or not self._is_user(namespace):
            return []
        self.namespaces[id(namespace)] = namespace
        return list(namespace.values())

    def _is_user(self, namespace: dict[str, Any]) -> bool:
        name = str(namespace.get("__name__", "__main__"))
        top = _top(name)
        if top == "bpttcheck":
            return name.split(".")[1:2] in [[room] for room in _OURS]
        if top in _FOREIGN or top in sys.stdlib_module_names or top == "builtins":
            return top == "__main__"
        return top in self._homes or not _installed(namespace.get("__file__"))


def _held_by(item: Any) -> list[Any]:
    """What a callable, a container or an instance holds on to."""
    if isinstance(item, FunctionType):
        contents = [cell.cell_contents for cell in item.__closure__ or () if _is_set(cell)]
        defaults = [*(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
        return [*contents, *defaults, getattr(item, "__wrapped__", None)]
    if isinstance(item, MethodType):
        return [item.__func__, item.__self__]
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, dict):
        return list(item.values()) if len(item) < _LARGE else []
    if isinstance(item, (list, tuple, set, frozenset)):
        return list(item) if len(item) < _LARGE else []
    slots = [getattr(kind, "__slots__", ()) for kind in type(item).__mro__]
    named = [getattr(item, name, None) for names in slots for name in _names(names)]
    return [*getattr(item, "__dict__", {}).values(), *named]


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_set(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _top(name: str) -> str:
    return name.partition(".")[0]


@functools.cache
def _installed(file: str | None) -> bool:
    """True for a file of the standard library or of an installed package."""
    if file is None:
        return False
    path = Path(file).resolve()
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return path.is_relative_to(Path(sysconfig.get_paths()["stdlib"]).resolve())
