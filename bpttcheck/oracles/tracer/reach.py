"""Which modules are user code, and the NumPy that they see while they are traced.

Names are replaced in those modules and restored afterwards. NumPy itself is never changed, because
JAX uses it at the same time. In every thread that does not trace, a replacement behaves as NumPy's
own function.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import math
import sys
import sysconfig
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import scipy
import scipy.linalg
import scipy.special

from bpttcheck.oracles.tracer.arguments import collect, is_traced, replace
from bpttcheck.oracles.tracer.call import perform, perform_known
from bpttcheck.oracles.tracer.functions import call_function
from bpttcheck.oracles.tracer.memory import ArrayProxy, Selection
from bpttcheck.oracles.tracer.refusals import remedy_for_math
from bpttcheck.oracles.tracer.run import current, decline
from bpttcheck.oracles.tracer.watch import NumpyCall, observed

_FOREIGN = frozenset(
    "numpy scipy jax jaxlib ml_dtypes opt_einsum torch tensorflow hypothesis pytest _pytest pluggy "
    "click matplotlib equinox flax builtins".split()
)
# The built-in cells are user code like any other; the machinery that traces them is not.
_OURS = frozenset({"activations", "adapt", "cells", "losses", "mutants"})
_SIMPLE = (str, bytes, int, float, complex, bool, type(None), BuiltinFunctionType)
_CONTAINERS = (list, tuple, set, frozenset, dict)
_LARGE = 1000


class UserNamespaces:
    """The namespaces of user code: globals, closure cells, dicts, lists, classes.

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
        # The function itself is user code even where it comes from an installed package.
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
            # functools.cache and similar; a plain getattr could run foreign code.
            return [_own_names(item).get("__wrapped__")]
        own = _own_names(item)
        self.tables[id(own)] = self.attributes[id(own)] = own
        return [type(item), *_held_by(item)]

    def _leads_on(self, part: Any) -> bool:
        """True for what a foreign decorator may wrap; its other contents are not user code."""
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


_MODULES: tuple[ModuleType, ...] = (
    np,
    np.linalg,
    np.fft,
    np.random,
    np.lib,
    np.lib.stride_tricks,
    scipy,
    scipy.special,
    scipy.linalg,
    math,
)
_DISPATCHER = type(np.sum)


class ModuleProxy(ModuleType):
    """A stand-in for a module: members come from the original and are replaced on access."""

    def __init__(self, original: ModuleType) -> None:
        super().__init__(original.__name__, original.__doc__)
        self.__dict__["_original"] = original

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.__dict__["_original"], name)
        return substitute(member, member)


def substitute(item: Any, default: Any = None) -> Any:
    """The replacement of a module or function of NumPy, SciPy or math; else ``default``."""
    try:
        return _substitutes().get(id(item), default)
    except TypeError:
        return default


@functools.cache
def _substitutes() -> dict[int, Any]:
    table: dict[int, Any] = {id(module): ModuleProxy(module) for module in _MODULES}
    for module in _MODULES:
        # Only loaded members: listing what a lazy module could load would load it.
        public = [member for name, member in vars(module).items() if not name.startswith("_")]
        for member in public:
            if isinstance(member, (FunctionType, BuiltinFunctionType, _DISPATCHER)) or (
                module is np.random and callable(member) and not isinstance(member, type)
            ):
                make = _of_math if module is math else _forward
                table.setdefault(id(member), make(member))
    table[id(np.c_)] = _Joiner(np.c_)
    table[id(np.r_)] = _Joiner(np.r_)
    table[id(np.mgrid)] = _Joiner(np.mgrid)
    table[id(np.ogrid)] = _Joiner(np.ogrid)
    table[id(np.vectorize)] = _vectorize
    table[id(np.ndenumerate)] = _ndenumerate
    return table


def _forward(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        if current() is None and not _ours(args, kwargs):
            return function(*args, **kwargs)
        return call_function(function, args, kwargs)

    return call


def _of_math(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        if current() is not None and is_traced(args, kwargs):
            name = function.__name__
            decline(f"math.{name} of a traced value", remedy_for_math(name))
        return function(*args, **kwargs)

    return call


def _ours(*trees: Any) -> bool:
    found: list[bool] = []
    replace(trees, lambda item: found.append(isinstance(item, (ArrayProxy, Selection))))
    return any(found)


class _Joiner:
    """``np.c_``, ``np.r_``, ``np.mgrid`` and ``np.ogrid``."""

    def __init__(self, native: Any) -> None:
        self._native = native

    @observed(lambda self, key: NumpyCall("np.r_ or np.c_", self._native.__getitem__, (key,), {}))
    def __getitem__(self, key: Any) -> Any:
        if current() is None:
            return self._native[key]
        if not is_traced(key):
            return perform_known(self._native.__getitem__, (key,), {})
        import jax.numpy as jnp

        name = "c_" if self._native is np.c_ else "r_"
        if self._native not in (np.c_, np.r_) or not isinstance(key, tuple):
            key = (key,)
        parts = tuple(np.asarray(k) if isinstance(k, list) and not collect(k) else k for k in key)
        return perform(self._native.__getitem__, lambda k: getattr(jnp, name)[k], (parts,))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)


def _vectorize(*args: Any, **kwargs: Any) -> Any:
    """``np.vectorize``, which refuses traced arguments when it is called."""
    native: Any = np.vectorize(*args, **kwargs)

    def call(*inputs: Any, **named: Any) -> Any:
        if current() is None:
            return native(*inputs, **named)
        if is_traced(inputs, named):
            decline("np.vectorize", "array expressions, np.where for branches")
        return perform_known(native, inputs, named)

    return call


def _ndenumerate(array: Any) -> Iterator[Any]:
    """``np.ndenumerate``."""
    return ((place, array[place]) for place in np.ndindex(*np.shape(array)))


@contextlib.contextmanager
def swapped(reach: UserNamespaces) -> Generator[None, None, None]:
    """Replace NumPy's names in all user code, and restore them all in any case."""
    undo: list[Callable[[], None]] = []
    try:
        for table in (*reach.namespaces.values(), *reach.tables.values()):
            for name, value in list(table.items()):
                stand = substitute(value)
                if stand is not None:
                    table[name] = stand
                    undo.append(functools.partial(_put_back, table, name, stand, value))
        for cell in reach.cells:
            undo.extend(_swap_cell(cell))
        undo.append(_swap_imports(reach))
        yield
    finally:
        for step in reversed(undo):
            step()


def _put_back(table: dict[Any, Any], name: Any, stand: Any, value: Any) -> None:
    # Code that has assigned the name meanwhile keeps its value.
    if table.get(name) is stand:
        table[name] = value


def _swap_cell(cell: Any) -> Iterator[Callable[[], None]]:
    try:
        value = cell.cell_contents
    except ValueError:
        return
    stand = substitute(value)
    if stand is not None:
        cell.cell_contents = stand
        yield lambda: setattr(cell, "cell_contents", value)


def _swap_imports(reach: UserNamespaces) -> Callable[[], None]:
    """Make ``import numpy`` inside a function of user code find the stand-in too."""
    original = builtins.__import__

    def find(name: str, globals: Any = None, *rest: Any, **named: Any) -> Any:
        module = original(name, globals, *rest, **named)
        if current() is None or id(globals) not in reach.namespaces:
            return module
        return substitute(module, module)

    def put_back() -> None:
        if builtins.__import__ is find:
            builtins.__import__ = original

    builtins.__import__ = find
    return put_back
