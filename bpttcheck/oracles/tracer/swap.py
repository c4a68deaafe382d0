"""NumPy as user code sees it while it is traced: names swapped in its own modules, then put back.

NumPy itself is never changed: JAX uses it at the same time. A swapped function behaves as NumPy's
own in every thread that does not trace.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import math
from collections.abc import Callable, Generator, Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import scipy
import scipy.linalg
import scipy.special

from bpttcheck.oracles.tracer.arguments import collect, is_traced, replace
from bpttcheck.oracles.tracer.call import perform, perform_known
from bpttcheck.oracles.tracer.functions import call_function
from bpttcheck.oracles.tracer.memory import Chosen, Held
from bpttcheck.oracles.tracer.reach import Reach
from bpttcheck.oracles.tracer.refusals import remedy_for_math
from bpttcheck.oracles.tracer.run import current, decline
from bpttcheck.oracles.tracer.watch import NumpyCall, observed

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


class Stand(ModuleType):
    """A module whose members are looked up in another one and swapped on the way."""

    def __init__(self, original: ModuleType) -> None:
        super().__init__(original.__name__, original.__doc__)
        self.__dict__["_original"] = original

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.__dict__["_original"], name)
        return substitute(member, member)


def substitute(item: Any, default: Any = None) -> Any:
    """What stands in for a module or function of NumPy, SciPy or math; else ``default``."""
    try:
        return _substitutes().get(id(item), default)
    except TypeError:
        return default


@functools.cache
def _substitutes() -> dict[int, Any]:
    table: dict[int, Any] = {id(module): Stand(module) for module in _MODULES}
    for module in _MODULES:
        # What is there already: asking a module for all it could load would load it.
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
    replace(trees, lambda item: found.append(isinstance(item, (Held, Chosen))))
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
def swapped(reach: Reach) -> Generator[None, None, None]:
    """Swap NumPy's names in all of user code; put back every one, whatever happens."""
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
    # Code that assigned the name itself meanwhile keeps what it assigned.
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


def _swap_imports(reach: Reach) -> Callable[[], None]:
    """Let ``import numpy`` inside a function of user code find the stand-in too."""
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
