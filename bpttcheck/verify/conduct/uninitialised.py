"""Does a result depend on memory that was never written?

``np.empty`` and ``np.empty_like``, called from the user's code, are filled in scratch runs: once
with NaN and huge integers, once with ordinary numbers. A result that differs between the two was
read from memory that was never written; filling one call site at a time finds the line.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import sys
import sysconfig
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np

from bpttcheck.contract import Array
from bpttcheck.errors import ContractError
from bpttcheck.subject.filled import unfilled
from bpttcheck.subject.values import Bits, bits, same
from bpttcheck.verify.conduct.passes import Arguments, Passes, Rounding

Site = tuple[str, int]
"""File and line of a call."""

_FUNCTIONS = ("empty", "empty_like")
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


@dataclass(frozen=True)
class Unwritten:
    """A result that depends on memory that was never written.

    Args:
        method: the method that returns it.
        item: the result.
        filename: the file that asks for the memory; ``""`` if several lines do it together.
        line: its line there.
        function: ``"np.empty"`` or ``"np.empty_like"``.
        error: how the method fails, or ``""``.
    """

    method: str
    item: str
    filename: str
    line: int
    function: str
    error: str = ""

    @property
    def place(self) -> str:
        """``cell.py:12: out = np.empty_like(x)``, as far as it is known."""
        if not self.filename:
            return "several lines together"
        source = linecache.getline(self.filename, self.line).strip()
        place = f"{Path(self.filename).name}:{self.line}"
        return f"{place}: {source}" if source else place

    @property
    def message(self) -> str:
        """What was observed and what to write instead."""
        what = f"fails ({self.error})" if self.error else f"{self.item} depends on it"
        return (
            f"{self.method}: part of the memory of {self.function} is read before it is written, "
            f"and {what} ({self.place}): write every entry, or use np.zeros"
        )


def unwritten(passes: Passes, given: Arguments) -> Unwritten | None:
    """Whether memory that was not written reaches a result of one forward and backward pass.

    Args:
        passes: the subject; its code runs in this thread alone.
        given: the point.

    Returns:
        The first item that depends on such memory, with the line; None if there is none.

    Raises:
        ContractError: the subject's code fails where nothing is filled in.
    """
    filled = _Filler(_files_of(passes.subject))
    with filled.installed():
        plain = bits(passes.both(given.copy()))
        if not filled.sites:
            return None
        found = _difference(passes, given, filled, plain, None)
        if found is None:
            return None
        for site, function in list(filled.sites.items()):
            alone = _difference(passes, given, filled, plain, site)
            if alone is not None:
                method, item, error = alone
                return Unwritten(method, item, *site, function, error)
        method, item, error = found
        return Unwritten(method, item, "", 0, "np.empty", error)


def _difference(
    passes: Passes, given: Arguments, filled: _Filler, plain: Bits, site: Site | None
) -> tuple[str, str, str] | None:
    """``(method, item, error)`` that depends on the memory of one site, or of all for None."""
    try:
        with filled.filling(_ORDINARY, site):
            value, again = bits(passes.both(given.copy())), bits(passes.both(given.copy()))
    except ContractError:
        return None  # it fails with ordinary numbers too
    try:
        with filled.filling(_POISON, site):
            others = [bits(passes.both(given.copy())) for _ in range(2)]
    except ContractError as error:
        return error.method, error.item or error.method, str(error)
    bar = Rounding(passes, given, plain)

    def varies(item: str, one: Bits, other: Bits) -> bool:
        if item not in other or same(one[item], other[item]):
            return False
        return not bar.explains(item, one[item], other[item])

    for item in value:
        random = varies(item, value, again)
        if not random and all(varies(item, value, other) for other in others):
            return passes.method_of(item), item, ""
    return None


_POISON = {"f": np.nan, "c": np.nan, "i": 1_111_111_111, "u": 1_111_111_111, "b": True}
_ORDINARY = {"f": 0.375, "c": 0.375, "i": 0, "u": 0, "b": False}


class _Filler:
    """A stand-in for ``np.empty`` and ``np.empty_like`` in the user's code."""

    def __init__(self, own: frozenset[str]) -> None:
        self._own, self._thread = own, threading.get_ident()
        self._values: dict[str, Any] | None = None
        self._only: Site | None = None
        self._active = False
        self.sites: dict[Site, str] = {}

    @contextmanager
    def filling(self, values: dict[str, Any], only: Site | None) -> Generator[None]:
        """Fill the arrays of one call site, or of all, by dtype; others get ordinary numbers."""
        self._values, self._only = values, only
        try:
            yield
        finally:
            self._values, self._only = None, None

    @contextmanager
    def installed(self) -> Generator[None]:
        """Replace both functions in NumPy and in the user's modules that imported them by name."""
        originals = {name: getattr(np, name) for name in _FUNCTIONS}
        changed: list[tuple[ModuleType, str, Any]] = []
        try:
            self._active = True
            modules = [np, *_of_the_user(self._own)]
            for name, original in originals.items():
                wrapped = self._wrapped(f"np.{name}", original)
                for module in modules:
                    for attribute in [at for at, v in list(vars(module).items()) if v is original]:
                        changed.append((module, attribute, original))
                        setattr(module, attribute, wrapped)
            yield
        finally:
            self._active = False
            for module, attribute, original in changed:
                setattr(module, attribute, original)

    def _wrapped(self, function: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def memory(*args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            # Other threads compile programs from the same code meanwhile.
            if self._active and threading.get_ident() == self._thread:
                self._fill(made, inspect.currentframe(), function)
            return made

        return memory

    def _fill(self, made: Any, wrapper: FrameType | None, function: str) -> None:
        caller = wrapper.f_back if wrapper else None
        if caller is None:
            return
        filename, site = caller.f_code.co_filename, (caller.f_code.co_filename, caller.f_lineno)
        if filename not in self._own and _is_library(filename):
            return
        self.sites.setdefault(site, function)
        if self._values is not None and isinstance(made, np.ndarray):
            _write(made, self._values if self._only in (None, site) else _ORDINARY)


def _write(made: Array, values: dict[str, Any]) -> None:
    value = values.get(made.dtype.kind)
    if value is None:
        return
    if made.dtype.kind in "iu":
        value = min(value, int(np.iinfo(made.dtype).max))
    made[...] = value


def _files_of(subject: Any) -> frozenset[str]:
    """The files that hold the subject's classes: user code wherever it is installed."""
    modules = [sys.modules.get(base.__module__) for base in type(unfilled(subject)).__mro__]
    files = [getattr(module, "__file__", None) for module in modules]
    return frozenset(file for file in files if file)


def _of_the_user(own: frozenset[str]) -> list[ModuleType]:
    """The modules that are no library's: they may have imported a function by name."""
    return [
        module
        for module in list(sys.modules.values())
        if isinstance(file := getattr(module, "__file__", None), str)
        and (file in own or not _is_library(file))
    ]


@functools.cache
def _is_library(filename: str) -> bool:
    return filename.startswith((*_LIBRARIES, "<frozen"))
