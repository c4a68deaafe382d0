"""Which modules are user code: what a step function can reach and what is its author's own."""

from __future__ import annotations

import functools
import sys
import sysconfig
from pathlib import Path
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

_FOREIGN = frozenset(
    "numpy scipy jax jaxlib ml_dtypes opt_einsum torch tensorflow hypothesis pytest _pytest pluggy "
    "click matplotlib equinox flax builtins".split()
)
# Cells of ours are user code like any other; the machinery that traces them is not.
_OURS = frozenset({"activations", "adapt", "cells", "losses", "mutants"})
_SIMPLE = (str, bytes, int, float, complex, bool, type(None), BuiltinFunctionType)
_CONTAINERS = (list, tuple, set, frozenset, dict)
_LARGE = 1000


class Reach:
    """Where user code keeps its names: globals, closure cells, tables, lists, classes.

    Args:
        function: the step, as a function, a bound method, a partial or any callable object.
    """

    def __init__(self, function: Any) -> None:
        self.namespaces: dict[int, dict[str, Any]] = {}
        self.tables: dict[int, dict[Any, Any]] = {}
        self.cells: list[CellType] = []
        self.attributes: dict[int, dict[str, Any]] = {}
        self.lists: dict[int, list[Any]] = {}
        self.classes: dict[int, type] = {}
        self._seen: dict[int, Any] = {}
        # What the function itself is made of is user code even where it is an installed package.
        self._homes = {_top(name) for name in _makers(function, 3)} - _FOREIGN - {"bpttcheck"}
        self._homes -= sys.stdlib_module_names
        pending = [function]
        while pending:
            item = pending.pop()
            if not isinstance(item, _SIMPLE) and id(item) not in self._seen:
                self._seen[id(item)] = item
                pending.extend(self._from(item))

    def _from(self, item: Any) -> list[Any]:
        if isinstance(item, ModuleType):
            return self._namespace(vars(item))
        if isinstance(item, FunctionType):
            if not self._is_user(item.__globals__):
                return [part for part in _held_by(item) if self._leads_on(part)]
            self.cells.extend(item.__closure__ or ())
            return [*self._namespace(item.__globals__), *_held_by(item)]
        if isinstance(item, type):
            return self._from_class(item) if self._knows(item) else []
        if isinstance(item, dict):
            if item is sys.modules or "__spec__" in item or len(item) >= _LARGE:
                return []
            self.tables[id(item)] = item
        if isinstance(item, list) and len(item) < _LARGE:
            self.lists[id(item)] = item
        if isinstance(item, (*_CONTAINERS, MethodType, functools.partial)):
            return _held_by(item)
        if not self._knows(type(item)):
            # functools.cache and the like; asking politely could run foreign code.
            return [_own_names(item).get("__wrapped__")]
        own = _own_names(item)
        self.tables[id(own)] = self.attributes[id(own)] = own
        return [type(item), *_held_by(item)]

    def _leads_on(self, part: Any) -> bool:
        """True for what a foreign decorator may wrap: its other contents are its own business."""
        return isinstance(part, (FunctionType, MethodType, functools.partial)) or (
            self._knows(type(part))
        )

    def _from_class(self, kind: type) -> list[Any]:
        self.classes[id(kind)] = kind
        found: list[Any] = [*kind.__mro__, sys.modules[kind.__module__]]
        for member in vars(kind).values():
            inner = getattr(member, "__func__", None) or getattr(member, "fget", None)
            found.append(member if inner is None else inner)
        return found

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
            return name.split(".")[1:2] != [] and name.split(".")[1] in _OURS
        if top in _FOREIGN or top in sys.stdlib_module_names - {"__main__"}:
            return False
        return top in self._homes or not _installed(namespace.get("__file__"))


def _makers(item: Any, depth: int) -> set[str]:
    """The modules of the functions and classes that ``item`` consists of."""
    if isinstance(item, (*_SIMPLE, type, ModuleType)) or not (
        callable(item) or hasattr(type(item), "step") or depth == 3
    ):
        return set()
    kind: Any = type(item)
    own = [item] if isinstance(item, (FunctionType, MethodType)) else kind.__mro__
    found = {str(part.__module__) for part in own}
    if depth:
        found = found.union(*(_makers(part, depth - 1) for part in _held_by(item)))
    return found


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
    if isinstance(item, _CONTAINERS):
        return list(item) if len(item) < _LARGE else []
    slots = [getattr(kind, "__slots__", ()) for kind in type(item).__mro__]
    named = [getattr(item, name, None) for names in slots for name in _names(names)]
    return [*_own_names(item).values(), *named]


def _own_names(item: Any) -> dict[str, Any]:
    try:
        return object.__getattribute__(item, "__dict__")
    except AttributeError:
        return {}


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
