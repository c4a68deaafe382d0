"""The hand-written code of a target: its own functions, and what they call in the user's modules.

The source is read and never run: names and attributes are resolved statically in closures, globals,
classes and instances. A method of an unresolved object (an argument, an item of a list) is looked
up by name in the objects that the target holds. Code without Python source is skipped.
"""

from __future__ import annotations

import ast
import functools
import linecache
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from types import FunctionType, MethodType, ModuleType
from typing import Any

from bpttcheck.contract import is_cell
from bpttcheck.subject.source.names import UNKNOWN, Bound, Scope, Super, lookup

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

# Wrappers around somebody's code: followed, and never part of that code.
_WRAPPERS = ("bpttcheck.adapt.", "bpttcheck.activations")
# Functions passed to these run when JAX traces them, not whenever the backward pass runs.
_TRACING = (
    "bpttcheck.adapt.jax_rule", "bpttcheck.adapt.custom_vjp",
    "bpttcheck.adapt.jax_functions.function", "bpttcheck.adapt.second_order",
)  # fmt: skip
# The attributes in which wrappers keep a Python function: JAX and functools, Numba,
# jax.custom_vjp.
_INSIDE = ("__wrapped__", "py_func", "fun", "fwd", "bwd")
_WRITTEN_BY_HAND = ("backward", "forward")  # of a torch.autograd.Function
_INSTALLED = tuple(
    path + os.sep
    for path in {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib")}
    if path
)
_AT_MOST = 64  # items of one container that are looked at
_DEPTH = 3  # how far objects in the attributes of the target are looked for


@dataclass(eq=False)
class UserFunction:
    """One function of the hand-written code.

    Args:
        function: the function itself, a ``FunctionType``.
        tree: its definition; line numbers are those of the file.
        module: the file in which it stands.
        owner: its ``self`` or ``cls``; None if it has none or if it is unknown.
        backward: True if the backward pass reaches it.
        certain: False if it was found by the name of a method alone.
        compiled: True if it is compiled or if its results are cached.
        called_from: the function and the expression from which it was first found.
    """

    function: Any
    tree: Definition
    module: ast.Module
    owner: Any
    backward: bool
    certain: bool
    compiled: bool
    called_from: tuple[FunctionType, ast.expr] | None

    @property
    def filename(self) -> str:
        """The file in which the function stands."""
        return self.function.__code__.co_filename

    @property
    def scope(self) -> Scope:
        """The meaning of the names in the function."""
        return Scope(self.function, self.tree, self.owner)


@dataclass(frozen=True)
class UserCode:
    """The functions of the hand-written code, those of the backward pass first.

    Args:
        functions: the functions.
        reason: why reading stopped, or ``""``.
    """

    functions: tuple[UserFunction, ...] = ()
    reason: str = ""

    @property
    def backward(self) -> tuple[UserFunction, ...]:
        """The functions that the backward pass calls."""
        return tuple(found for found in self.functions if found.backward)


def user_code(target: Any) -> UserCode:
    """The functions of the hand-written code of ``target`` that have Python source.

    They are its ``step``, ``step_vjp`` and ``initial_state``, or ``forward``, ``vjp`` and
    ``initial_state``, and what these call in the user's modules: not in the standard library, not
    in installed packages (but for the package that ``target`` comes from), and not in bpttcheck
    unless there is no other code (a built-in cell).

    Args:
        target: a cell or a layer.

    Returns:
        The functions; none where there is no source, or where the target cannot be read.
    """
    try:
        return _read_code(target)
    except Exception as error:  # any attribute access may raise
        return UserCode(reason=f"the code cannot be read ({type(error).__name__}: {error})")


def _read_code(target: Any) -> UserCode:
    search = _Search(_top_package(type(target).__module__))
    search.keep(target, _DEPTH)
    has_vjp = lookup(target, "vjp") is not UNKNOWN
    forms = ((is_cell(target) or not has_vjp, "step", "step_vjp"), (has_vjp, "forward", "vjp"))
    there = [(forward, backward) for is_there, forward, backward in forms if is_there]
    for name in (*(backward for _, backward in there), "initial_state_vjp"):
        search.method(target, name, backward=True)
    search.finish()
    for name in (*(forward for forward, _ in there), "initial_state"):
        search.method(target, name, backward=False)
    search.finish()
    found = [entry for entry in search.found.values() if entry is not None]
    own = [entry for entry in found if not _is_ours(entry.function)]
    if not own and not type(target).__module__.startswith(_WRAPPERS):  # a built-in
        own = [e for e in found if not str(e.function.__module__).startswith(_WRAPPERS)]
    return UserCode(tuple(sorted(own, key=lambda entry: not entry.backward)))


def deferred(tree: Definition) -> list[ast.AST]:
    """The functions inside ``tree`` that it does not call but returns or stores.

    In a forward pass these form the backward pass: a tape of closures.
    """
    inner = {
        node.name: node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node is not tree
    }
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    kept: set[str] = set()
    for node in ast.walk(tree):
        kept |= {name.id for name in _stored(node) if isinstance(name, ast.Name)}
    return [node for name, node in inner.items() if name in kept - called]


@functools.lru_cache(maxsize=512)
def _inside_deferred(tree: Definition) -> frozenset[ast.AST]:
    return frozenset(node for outer in deferred(tree) for node in ast.walk(outer))


def _stored(node: ast.AST) -> Iterator[ast.AST]:
    """The expressions that ``node`` returns, collects or stores."""
    if isinstance(node, ast.Return) and node.value is not None:
        yield node.value
    elif isinstance(node, ast.Tuple | ast.List):
        yield from node.elts
    elif isinstance(node, ast.Dict):
        yield from node.values
    elif isinstance(node, ast.Assign):
        if not all(isinstance(aim, ast.Name) for aim in node.targets):
            yield node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in ("append", "push", "appendleft"):
            yield from node.args
    elif isinstance(node, ast.Call) and _called_class(node):  # the tape is a record
        yield from [*node.args, *(keyword.value for keyword in node.keywords)]


def _what_runs(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, without annotations and without code of error messages."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.Raise):
                yield child
                yield from _what_runs(child)


@functools.lru_cache(maxsize=512)
def _names_read(tree: Definition) -> tuple[tuple[ast.Name | ast.Attribute, bool], ...]:
    """The names and attributes that a function reads; True: only an attribute of it is read."""
    nodes = [n for n in _what_runs(tree) if isinstance(n, ast.Name | ast.Attribute)]
    bases = {node.value for node in nodes if isinstance(node, ast.Attribute)}
    return tuple((node, node in bases) for node in nodes if isinstance(node.ctx, ast.Load))


def _called_class(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id[:1].isupper()


@dataclass(frozen=True, eq=False)
class _Visit:
    """A function to be read, and how it was found."""

    function: Any
    owner: Any
    backward: bool
    certain: bool = True
    compiled: bool = False
    called_from: tuple[FunctionType, ast.expr] | None = None


class _Search:
    """Follows references from function to function."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.found: dict[FunctionType, UserFunction | None] = {}
        self._objects: dict[int, Any] = {}
        self._attributes: dict[str, tuple[int, list[Any]]] = {}
        self._followed: dict[int, bool] = {}
        self._queue: list[_Visit] = []
        self._seen: set[tuple[FunctionType, int, bool, bool]] = set()
        self._files: dict[str, tuple[ast.Module, dict[tuple[str, int], Definition]] | None] = {}

    def method(self, target: Any, name: str, *, backward: bool) -> None:
        """Start at one method of the target."""
        found = lookup(target, name)
        if found is UNKNOWN:  # a delegating proxy: use getattr
            try:
                found = getattr(target, name, UNKNOWN)
            except Exception:
                return
        for function, owner, compiled in self._functions(found):
            self._queue.append(_Visit(function, owner, backward, compiled=compiled))

    def keep(self, thing: Any, depth: int) -> None:
        """Collect the objects of the user's classes that ``thing`` holds."""
        if isinstance(thing, tuple | list | set | frozenset):
            for item in islice(thing, _AT_MOST):
                self.keep(item, depth)
        elif isinstance(thing, dict):
            for item in islice(thing.values(), _AT_MOST):
                self.keep(item, depth)
        elif depth and self._is_followed_class(type(thing)) and id(thing) not in self._objects:
            self._objects[id(thing)] = thing
            held = list(_variables(thing).values())
            for base in type(thing).__mro__:
                if self._is_followed_class(base):
                    held += list(vars(base).values())
            for item in held:
                self.keep(item, depth - 1)

    def finish(self) -> None:
        """Read every function in the queue, and those that it refers to."""
        while self._queue:
            visit = self._queue.pop()
            key = (visit.function, id(visit.owner), visit.certain, visit.compiled)
            if key in self._seen:
                continue
            self._seen.add(key)
            entry = self._enter(visit)
            if entry is not None:
                self._read(entry, visit)

    def _enter(self, visit: _Visit) -> UserFunction | None:
        """The entry of the visited function, as certain as its best visit."""
        if visit.function not in self.found:
            parsed = self._definition(visit.function)
            self.found[visit.function] = parsed and UserFunction(
                visit.function,
                *parsed,
                visit.owner,
                visit.backward,
                visit.certain,
                visit.compiled,
                visit.called_from,
            )
        entry = self.found[visit.function]
        if entry is not None:
            entry.certain |= visit.certain
            entry.compiled &= visit.compiled
            entry.backward |= visit.backward
        return entry

    def _read(self, entry: UserFunction, visit: _Visit) -> None:
        """Follow the names and the attributes that a function reads."""
        scope = Scope(visit.function, entry.tree, visit.owner)
        later = frozenset[ast.AST]() if visit.backward else _inside_deferred(entry.tree)
        for node, is_base in _names_read(entry.tree):
            thing = scope.resolve(node)
            if is_base:  # only an attribute is read, it is not called
                self.keep(thing, _DEPTH)
                continue
            certain = thing is not UNKNOWN
            things = [thing]
            if not certain and isinstance(node, ast.Attribute):
                known = scope.resolve(node.value) is not UNKNOWN
                things = [] if known else self._methods(node.attr)
            elif isinstance(node, ast.Attribute) and node.attr == "apply":
                rule = scope.resolve(node.value)
                things += [lookup(rule, name) for name in _WRITTEN_BY_HAND]
            for function, owner, compiled in (f for t in things for f in self._functions(t)):
                if _is_ours(function) and not _is_ours(visit.function):
                    continue
                self._queue.append(
                    _Visit(
                        function,
                        owner,
                        visit.backward or node in later,
                        visit.certain and certain,
                        visit.compiled or compiled or visit.function.__module__ in _TRACING,
                        (visit.function, node),
                    )
                )

    def _methods(self, name: str) -> list[Any]:
        """The attributes called ``name`` of the objects that the target holds."""
        known, found = self._attributes.get(name, (0, []))
        if known < len(self._objects):  # since then objects have come, in their order
            more = (lookup(thing, name) for thing in islice(self._objects.values(), known, None))
            found = found + [thing for thing in more if isinstance(thing, Bound)]
            self._attributes[name] = len(self._objects), found
        return found

    def _functions(self, thing: Any, depth: int = 4) -> Iterator[tuple[FunctionType, Any, bool]]:
        """The functions behind something that can be called: ``(function, owner, compiled)``."""
        if not depth or thing is UNKNOWN or isinstance(thing, ModuleType | Super):
            return
        if isinstance(thing, FunctionType):
            yield from self._function(thing, None, depth)
        elif isinstance(thing, Bound):
            yield from self._function(thing.function, thing.owner, depth)
        elif isinstance(thing, MethodType):
            if isinstance(thing.__func__, FunctionType):
                yield from self._function(thing.__func__, thing.__self__, depth)
                self.keep(thing.__self__, _DEPTH)
        elif isinstance(thing, functools.partial):
            for part in (thing.func, *thing.args, *thing.keywords.values()):
                yield from self._functions(part, depth - 1)
        elif isinstance(thing, type):
            yield from self._class(thing, depth)
        elif self._is_followed_class(type(thing)):
            self.keep(thing, _DEPTH)
            yield from self._functions(lookup(thing, "__call__"), depth - 1)
        elif callable(thing):
            for name in _INSIDE:
                for function, owner, _ in self._functions(lookup(thing, name), depth - 1):
                    yield function, owner, True

    def _function(
        self, function: FunctionType, owner: Any, depth: int
    ) -> Iterator[tuple[FunctionType, Any, bool]]:
        if self._is_followed(function):
            yield function, owner, False
            return
        # A library's decorator: the wrapped function is in its closure or an attribute.
        inside = [function.__dict__.get("__wrapped__")]
        for cell in function.__closure__ or ():
            try:
                inside.append(cell.cell_contents)
            except ValueError:  # not assigned yet
                continue
        for thing in inside:
            if isinstance(thing, FunctionType):
                for inner, _, compiled in self._function(thing, owner, depth - 1) if depth else ():
                    yield inner, owner, compiled

    def _class(self, thing: type, depth: int) -> Iterator[tuple[FunctionType, Any, bool]]:
        """The functions that run when a class is called."""
        if not self._is_followed_class(thing) or issubclass(thing, BaseException):
            return
        for name in ("__new__", "__init__", "__post_init__"):
            yield from self._functions(lookup(thing, name), depth - 1)

    def _is_followed(self, function: FunctionType) -> bool:
        code = function.__code__
        if self.package and _top_package(str(function.__module__)) == self.package:
            return True
        return _is_ours(function) or not _is_installed(code.co_filename)

    def _is_followed_class(self, cls: type) -> bool:
        known = self._followed.get(id(cls))  # by id: a metaclass may have no hash
        if known is None:
            known = self._followed[id(cls)] = self._is_of_the_user(cls)
        return known

    def _is_of_the_user(self, cls: type) -> bool:
        package = _top_package(str(cls.__module__))
        if package in (self.package, "bpttcheck"):
            return True
        file = getattr(sys.modules.get(str(cls.__module__)), "__file__", None)
        if isinstance(file, str):
            return not _is_installed(file)
        methods = [getattr(value, "__func__", value) for value in vars(cls).values()]
        files = [m.__code__.co_filename for m in methods if isinstance(m, FunctionType)]
        return any(not _is_installed(file) for file in files)

    def _definition(self, function: FunctionType) -> tuple[Definition, ast.Module] | None:
        code = function.__code__
        if code.co_filename not in self._files:
            lines = linecache.getlines(code.co_filename, function.__globals__)
            self._files[code.co_filename] = _parsed("".join(lines))
        file = self._files[code.co_filename]
        tree = file and file[1].get((code.co_name, code.co_firstlineno))
        return (tree, file[0]) if file and tree else None


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> tuple[ast.Module, dict[tuple[str, int], Definition]] | None:
    """A file and its definitions by name and first line, decorators included."""
    if not text.strip():
        return None
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found: dict[tuple[str, int], Definition] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Lambda):
            found.setdefault(("<lambda>", node.lineno), node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name, first] = node
    return module, found


def _variables(thing: Any) -> dict[str, Any]:
    try:
        return dict(vars(thing))
    except Exception:  # no __dict__, or one of the user's own that raises
        return {}


def _top_package(module: str) -> str:
    top = module.partition(".")[0]
    return "" if top in ("builtins", "__main__", "__mp_main__") else top


def _is_ours(function: FunctionType) -> bool:
    return _top_package(str(function.__module__)) == "bpttcheck"


@functools.cache
def _is_installed(filename: str) -> bool:
    """True for the standard library, for installed packages and for generated code."""
    if filename.startswith("<") and not filename.startswith("<ipython"):
        return True
    parts = filename.replace("\\", "/").split("/")
    return filename.startswith(_INSTALLED) or bool({"site-packages", "dist-packages"} & set(parts))
