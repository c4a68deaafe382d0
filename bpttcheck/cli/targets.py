"""Resolves a target of the command line: a built-in's name, an object, or one or two functions."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import linecache
import re
import sys
import traceback
import types
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from bpttcheck.cli.functions import function_of
from bpttcheck.config import near
from bpttcheck.errors import BpttcheckError, ContractError

_T = TypeVar("_T")
_SHOWN = 4
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


def load(text: str, function: Mapping[str, str] | None = None) -> Target:
    """The subject that a command line argument stands for.

    Args:
        text: ``"lstm"``, ``"elman[relu]"``, ``"module:object"`` or ``"folder/file.py:object"``;
            the object may be an instance, a class or a factory without arguments, and may be an
            attribute of another (``"cells.py:zoo.small"``). ``"file.py:forward+backward"`` are two
            functions.
        function: what the options say of functions, such as their signature.

    Raises:
        ContractError: there is no such object, or the user's code raised while it was loaded.
    """
    _, path, module = _place(text)
    if module is None:
        if function:
            raise _no_function(text, "a built-in cell", function)
        return Target(text, _builtin(text))
    if "+" not in path and not function:
        return _made(text, _attribute(text, module, path))
    _, functions = _functions(text, module, path, function or {})
    return Target(
        text, _guarded(text, None, lambda: function_of(functions, function or {}, module))
    )


def load_functions(text: str) -> tuple[ModuleType, list[str], list[Any]]:
    """The module of one or two functions, their names in it, and they themselves.

    Raises:
        ContractError: as for :func:`load`, or they are no functions.
    """
    _, path, module = _place(text)
    if module is None:
        raise ContractError(f"target {text!r}, expected path/file.py:FUNCTION")
    return module, *_functions(text, module, path, {})


def _functions(
    text: str, module: ModuleType, path: str, options: Mapping[str, str]
) -> tuple[list[str], list[Any]]:
    names = [name.strip() for name in path.split("+")]
    if len(names) > 2 or not all(names):
        raise ContractError(f"target {text!r}, expected FILE.py:FORWARD+BACKWARD")
    functions = [_attribute(text, module, name) for name in names]
    for name, thing in zip(names, functions, strict=True):
        if not _is_plain(thing):
            raise _no_function(text, f"{name}, a {type(thing).__name__},", options)
    return names, functions


def load_reference(text: str) -> Any:
    """What ``--reference`` names: a cell, or a JAX function ``step(params, state, x)``.

    Raises:
        ContractError: as for :func:`load`.
    """
    _, path, module = _place(text)
    if module is None:
        return _builtin(text)
    thing = _attribute(text, module, path)
    return _guarded(text, None, thing) if isinstance(thing, type) else thing


def _place(text: str) -> tuple[str, str, ModuleType | None]:
    """The module or file, the path in it, and the module itself; None for a built-in's name."""
    place, colon, path = text.rpartition(":")
    if not colon:
        return "", "", None
    if not place or not path:
        raise ContractError(
            f"target {text!r}, expected a built-in's name, module:object or path/file.py:object"
        )
    module = _file(text, place) if place.endswith(".py") else _module(text, place)
    return place, path, module


def _is_plain(thing: Any) -> bool:
    """True for a function or anything else that is called, but for what is a subject already."""
    from bpttcheck.contract import is_cell, is_layer
    from bpttcheck.subject.subject import Subject

    ready = is_cell(thing) or is_layer(thing) or isinstance(thing, (Subject, type))
    return callable(thing) and not ready


def _no_function(text: str, what: str, options: Mapping[str, str]) -> ContractError:
    name = next(iter(options), "")
    told = f"--{name} says" if name else "'+' joins"
    return ContractError(
        f"target {text!r}: {what} is no function, but {told} "
        + ("what a function takes and returns: leave it out" if name else "two functions")
    )


def _builtin(text: str) -> Any:
    from bpttcheck import cells

    if text.endswith(".py") or "/" in text:
        raise ContractError(f"target {text!r} names no object: write {_in_file(text)}")
    name = text.partition("[")[0]
    if name not in cells.BUILTINS:
        raise ContractError(
            f"no built-in cell is called {text!r}{_meant(name, cells.BUILTINS)} "
            f"(known: {', '.join(cells.BUILTINS)}; your own: module:object or path/file.py:object)"
        )
    return cells.builtin(text)


def _in_file(text: str) -> str:
    """The targets that a file may have, by the definitions in its text."""
    path = Path(text)
    lines = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    classes = re.findall(r"^class ([A-Za-z]\w*)", lines, re.MULTILINE)
    return " or ".join(f"{text}:{name}" for name in classes[:_SHOWN]) or f"{text}:NAME"


def _meant(name: str, known: Iterable[str]) -> str:
    """What may have been meant: a class of a file here, or a built-in of a similar name."""
    defined = re.compile(rf"^(?:class|def) {re.escape(name)}\b|^{re.escape(name)} *=", re.MULTILINE)
    for path in sorted(Path.cwd().glob("*.py")):
        if defined.search(path.read_text(encoding="utf-8", errors="replace")):
            return f"; did you mean {path.name}:{name}?"
    small = name.lower()
    alike = [other for other in known if small and small in (other, other.partition("_")[0])]
    return f"; did you mean {' or '.join(map(repr, alike))}?" if alike else near(small, known)


def _file(text: str, place: str) -> ModuleType:
    path = Path(place).resolve()
    if not path.is_file():
        raise ContractError(f"target {text!r}: there is no file {place}")
    for module in list(sys.modules.values()):
        if getattr(module, "__bpttcheck_file__", None) == str(path):
            return module  # two targets in one file share its definitions
    root, package = _package(path.parent)
    name = f"bpttcheck_target_{next(_numbers)}_{path.stem}"
    if package:  # so that its relative imports work
        name = f"{package}.{name}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ContractError(f"target {text!r}: {place} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    setattr(module, "__bpttcheck_file__", str(path))  # noqa: B010 - a name of ours on their module
    sys.modules[name] = module
    loader = spec.loader
    try:
        with _on_path(root), _on_path(path.parent):
            if package:
                _require_package(text, package, path.parent)
            _guarded(text, path, lambda: loader.exec_module(module))
    except ContractError:
        del sys.modules[name]
        raise
    return module


def _package(folder: Path) -> tuple[Path, str]:
    """The folder above the package that a folder belongs to, and the package's name, or ``""``."""
    names: list[str] = []
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        names.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(names)


def _require_package(text: str, package: str, folder: Path) -> None:
    """Import the package of a file, which its relative imports need."""
    found = _guarded(text, None, lambda: importlib.import_module(package))
    if folder not in [Path(place).resolve() for place in found.__path__]:
        raise ContractError(
            f"target {text!r} belongs to a package {package!r}, but another one of this name is "
            f"imported, from {found.__file__}"
        )


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
        if isinstance(thing, types.FunctionType) and _needs_arguments(thing):
            raise ContractError(
                f"target {text!r} is a function that takes arguments: to check its gradient, write "
                "FILE.py:FORWARD+BACKWARD, or the loss that returns its gradients, and --signature"
            )
        if isinstance(thing, type) and _init_needs(thing):
            raise ContractError(
                f"target {text!r} is a class whose constructor takes {_init_needs(thing)}: give a "
                f"function of the file that makes one, such as def made(): return "
                f"{thing.__name__}(...)"
            )
        made = _guarded(text, None, thing)
        # Instantiating a class needs no remark.
        note = "" if isinstance(thing, type) else f"{text} is a factory: called without arguments"
        return Target(text, made, note)
    return Target(text, thing)


def _init_needs(cls: type) -> str:
    """The arguments without a default of a constructor written in Python, or ``""``."""
    init = getattr(cls, "__init__", None)
    if not isinstance(init, types.FunctionType):
        return ""
    code, defaults = init.__code__, len(init.__defaults__ or ())
    names = code.co_varnames[1 : code.co_argcount - defaults]
    more = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return ", ".join([*names, *(x for x in more if x not in (init.__kwdefaults__ or {}))])


def _needs_arguments(function: types.FunctionType) -> bool:
    code = function.__code__
    positional = code.co_argcount - len(function.__defaults__ or ())
    return positional + code.co_kwonlyargcount - len(function.__kwdefaults__ or {}) > 0


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
