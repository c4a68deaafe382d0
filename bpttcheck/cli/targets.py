"""Resolves a target of the command line: a built-in's name, or an object of a module or file."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import linecache
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from bpttcheck.config import near
from bpttcheck.errors import BpttcheckError, ContractError

_T = TypeVar("_T")
_numbers = itertools.count()


@dataclass(frozen=True)
class Target:
    """What a command line argument stands for.

    Args:
        text: the argument as typed.
        subject: the cell, layer or :class:`bpttcheck.Subject`.
        note: a remark on how it was loaded, or ``""``.
    """

    text: str
    subject: Any
    note: str = ""


def load(text: str) -> Target:
    """The subject that a command line argument stands for.

    Args:
        text: ``"lstm"``, ``"elman[relu]"``, ``"module:object"`` or ``"folder/file.py:object"``;
            the object may be an instance, a class or a factory without arguments, and may be an
            attribute of another (``"cells.py:zoo.small"``).

    Raises:
        ContractError: there is no such object, or the user's code raised while it was loaded.
    """
    place, colon, path = text.rpartition(":")
    if not colon:
        return Target(text, _builtin(text))
    if not place or not path:
        raise ContractError(
            f"target {text!r}, expected a built-in's name, module:object or path/file.py:object"
        )
    module = _file(text, place) if place.endswith(".py") else _module(text, place)
    return _made(text, _attribute(text, module, path))


def _builtin(text: str) -> Any:
    from bpttcheck import cells

    if text.endswith(".py") or "/" in text:
        raise ContractError(f"target {text!r} names no object: write {text}:NAME")
    name = text.partition("[")[0]
    if name not in cells.BUILTINS:
        raise ContractError(
            f"no built-in cell is called {text!r}{near(name, cells.BUILTINS)} "
            f"(known: {', '.join(cells.BUILTINS)}; your own: module:object or path/file.py:object)"
        )
    return cells.builtin(text)


def _file(text: str, place: str) -> ModuleType:
    path = Path(place).resolve()
    if not path.is_file():
        raise ContractError(f"target {text!r}: there is no file {place}")
    for module in list(sys.modules.values()):
        if getattr(module, "__bpttcheck_file__", None) == str(path):
            return module  # two targets in one file share its definitions
    name = f"bpttcheck_target_{next(_numbers)}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ContractError(f"target {text!r}: {place} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    setattr(module, "__bpttcheck_file__", str(path))  # noqa: B010 - a name of ours on their module
    sys.modules[name] = module
    loader = spec.loader
    try:
        with _on_path(path.parent):
            _guarded(text, path, lambda: loader.exec_module(module))
    except ContractError:
        del sys.modules[name]
        raise
    return module


def _module(text: str, place: str) -> ModuleType:
    if not all(part.isidentifier() for part in place.split(".")):
        raise ContractError(
            f"target {text!r}: there is no module {place!r}, and a file's name ends in .py"
        )
    try:
        with _on_path(Path.cwd()):
            return _guarded(text, None, lambda: importlib.import_module(place))
    except ContractError as error:
        cause = error.__cause__
        missing = cause.name or "" if isinstance(cause, ModuleNotFoundError) else ""
        if missing and f"{place}.".startswith(f"{missing}."):  # itself, or a package it is in
            raise ContractError(f"target {text!r}: there is no module {missing!r}") from None
        raise


def _attribute(text: str, module: ModuleType, path: str) -> Any:
    thing: Any = module
    for name in path.split("."):
        if not hasattr(thing, name):
            public = [key for key in dir(thing) if not key.startswith("_")]
            raise ContractError(
                f"target {text!r}: {module.__file__} has no {path!r}{near(name, public)}"
            )
        thing = getattr(thing, name)
    return thing


def _made(text: str, thing: Any) -> Target:
    """The object itself, or what a class or factory makes."""
    from bpttcheck.contract import is_cell, is_layer
    from bpttcheck.subject.subject import Subject

    ready = is_cell(thing) or is_layer(thing) or isinstance(thing, Subject)
    if isinstance(thing, type) or (callable(thing) and not ready):
        made = _guarded(text, None, thing)
        # Instantiating a class needs no remark.
        note = "" if isinstance(thing, type) else f"{text} is a factory: called without arguments"
        return Target(text, made, note)
    return Target(text, thing)


@contextmanager
def _on_path(folder: Path) -> Generator[None]:
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _guarded(text: str, path: Path | None, action: Callable[[], _T]) -> _T:
    """Run the user's code; what it raises becomes one message with the line it came from."""
    try:
        return action()
    except BpttcheckError as error:
        raise ContractError(f"target {text!r}: {error}") from error
    except (Exception, SystemExit) as error:
        raise _failure(text, path, error) from error


def _failure(text: str, path: Path | None, error: BaseException) -> ContractError:
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError) and error.filename:
        file, number = error.filename, error.lineno or 1
    else:
        file, number = _line_of(path, error)
    if not file:
        return ContractError(f"target {text!r}: {what}")
    line = linecache.getline(file, number).strip()
    return ContractError(f"target {text!r}: {what}\n  {file}:{number}: {line}")


def _line_of(path: Path | None, error: BaseException) -> tuple[str, int]:
    """The innermost line in the user's own file, else the outermost outside the loader."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if path is not None and Path(frame.filename) == path]
    foreign = [
        frame
        for frame in frames
        if not frame.filename.startswith("<")
        and Path(frame.filename) != Path(__file__)
        and "importlib" not in Path(frame.filename).parts
    ]
    for frame in (*own[-1:], *foreign[:1]):
        return frame.filename, frame.lineno or 1
    return "", 0
