"""Resolves the names in a function without running user code."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from dataclasses import dataclass
from importlib.util import resolve_name
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_BINDINGS = (
    ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.AugAssign, ast.For, ast.AsyncFor,
    ast.comprehension, ast.withitem, ast.Import, ast.ImportFrom,
)  # fmt: skip


class _Unknown:
    """The result where static analysis fails."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Any = _Unknown()


@dataclass(frozen=True, eq=False)
class Bound:
    """A function found in a class, and its first argument (None: it takes none)."""

    function: Any  # a FunctionType
    owner: Any


@dataclass(frozen=True, eq=False)
class Super:
    """``super()`` in a method of ``cls``."""

    cls: type
    owner: Any


class Scope:
    """The names of one function.

    Args:
        function: the function.
        tree: its definition.
        owner: its first argument, if known; None: unknown.
    """

    def __init__(self, function: FunctionType, tree: Definition, owner: Any = None) -> None:
        self._function = function
        self._locals = _local_names(function.__code__)
        self._known: dict[str, Any] = {}
        self._aliases: dict[str, ast.expr | None] = {}
        self._defaults(tree)
        arguments = tree.args.posonlyargs + tree.args.args
        if owner is not None and arguments:
            self._known[arguments[0].arg] = owner
        self._owner = owner
        self._stored: set[str] = set()
        for node in _bindings(tree):
            if isinstance(node, ast.Attribute):
                self._stored.add(node.attr)
            else:
                self._note(node)

    def resolve(self, node: ast.AST, depth: int = 8) -> Any:
        """The value of an expression: an object, a :class:`Bound` method, or ``UNKNOWN``."""
        if not depth:
            return UNKNOWN
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._name(node.id, depth)
        if isinstance(node, ast.Attribute):
            base = self.resolve(node.value, depth - 1)
            if base is UNKNOWN:
                return UNKNOWN
            found = lookup(base, self._mangled(node.attr))
            if isinstance(base, type) and isinstance(found, Bound) and _is_a(self._owner, base):
                return Bound(found.function, found.owner and self._owner)
            return found
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        return UNKNOWN

    def is_local(self, name: str) -> bool:
        """True for a variable, and for an argument without a default."""
        return name in self._aliases or (name in self._locals and name not in self._known)

    def is_constant(self, node: ast.Attribute) -> bool:
        """False if the function assigns the attribute, such as a counter."""
        return node.attr not in self._stored

    def meaning(self, node: ast.AST, depth: int = 2) -> list[ast.AST]:
        """The expression, and the expressions assigned to its variables."""
        found = [node]
        for part in ast.walk(node) if depth else ():
            value = self._aliases.get(part.id) if isinstance(part, ast.Name) else None
            if value is not None:
                found += self.meaning(value, depth - 1)
        return found

    def _call(self, node: ast.Call, depth: int) -> Any:
        """``super()``, ``type(self)``; an instance of a class is looked up like the class."""
        if isinstance(node.func, ast.Name) and node.func.id == "super":
            cls = self._closure("__class__")
            if len(node.args) == 2:
                cls = self.resolve(node.args[0], depth - 1)
            return Super(cls, self._owner) if isinstance(cls, type) else UNKNOWN
        if isinstance(node.func, ast.Name) and node.func.id == "type" and len(node.args) == 1:
            thing = self.resolve(node.args[0], depth - 1)
            return UNKNOWN if thing is UNKNOWN else type(thing)
        called = self.resolve(node.func, depth - 1)
        return called if isinstance(called, type) else UNKNOWN

    def _name(self, name: str, depth: int) -> Any:
        if name in self._aliases:
            value = self._aliases[name]
            return UNKNOWN if value is None else self.resolve(value, depth - 1)
        if name in self._known:
            return self._known[name]
        if name in self._function.__code__.co_freevars:
            return self._closure(name)
        return UNKNOWN if name in self._locals else self._function.__globals__.get(name, UNKNOWN)

    def _closure(self, name: str) -> Any:
        names = self._function.__code__.co_freevars
        for own, cell in zip(names, self._function.__closure__ or (), strict=True):
            if own == name:
                try:
                    return cell.cell_contents
                except ValueError:  # not assigned yet
                    return UNKNOWN
        return UNKNOWN

    def _defaults(self, tree: Definition) -> None:
        """Arguments with a default resolve to the default."""
        positional = tree.args.posonlyargs + tree.args.args
        values = self._function.__defaults__ or ()
        for argument, value in zip(reversed(positional), reversed(values), strict=False):
            self._known[argument.arg] = value
        self._known.update(self._function.__kwdefaults__ or {})

    def _note(self, node: ast.AST) -> None:
        """A name that is assigned once resolves to the assigned value."""
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            aim, value = node.targets[0], node.value
            if (
                isinstance(aim, ast.Tuple)
                and isinstance(value, ast.Tuple)
                and len(aim.elts) == len(value.elts)
            ):
                for one, its in zip(aim.elts, value.elts, strict=True):
                    self._assign(one, its)
            else:
                self._assign(aim, value)
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            if node.value is not None:
                self._assign(node.target, node.value)
        elif isinstance(node, ast.Assign):
            for aim in node.targets:
                self._assign(aim, None)
        elif isinstance(node, ast.AugAssign | ast.For | ast.AsyncFor | ast.comprehension):
            self._assign(node.target, None)
        elif isinstance(node, ast.withitem):
            if node.optional_vars is not None:
                self._assign(node.optional_vars, None)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self._import(node)

    def _assign(self, aim: ast.expr, value: ast.expr | None) -> None:
        for node in ast.walk(aim):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                is_first = node.id not in self._aliases and node.id not in self._known
                self._aliases[node.id] = value if is_first and node is aim else None

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            if isinstance(node, ast.Import):
                module = alias.name if alias.asname else name
                self._known[name] = sys.modules.get(module, UNKNOWN)
                continue
            package = str(self._function.__globals__.get("__package__") or "")
            try:
                module = resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:
                continue
            self._known[name] = lookup(sys.modules.get(module), alias.name)

    def _mangled(self, name: str) -> str:
        """A private name, mangled as by the class around the function."""
        parts = self._function.__qualname__.replace(".<locals>", "").split(".")
        if name.startswith("__") and not name.endswith("__") and len(parts) > 1:
            return f"_{parts[-2].lstrip('_')}{name}"
        return name


@functools.lru_cache(maxsize=512)
def _bindings(tree: Definition) -> tuple[ast.AST, ...]:
    """The nodes that give a value to a name or to an attribute."""
    return tuple(
        node
        for node in ast.walk(tree)
        if isinstance(node, _BINDINGS)
        or (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    )


def lookup(base: Any, name: str) -> Any:
    """The attribute ``name`` of ``base`` without running a property or a ``__getattr__``.

    Args:
        base: a module, a class, an instance or a :class:`Super`.
        name: the attribute.

    Returns:
        The attribute; a :class:`Bound` for a function of a class; ``UNKNOWN`` if there is none.
    """
    try:
        if isinstance(base, ModuleType):
            return vars(base).get(name, UNKNOWN)
        owner = base
        if isinstance(base, Super):
            owner, found = base.owner, _after(base, name)
        else:
            found = inspect.getattr_static(base, name, UNKNOWN)
        is_own = not isinstance(base, type | Super) and name in getattr(base, "__dict__", {})
        return _bound(found, owner, is_own)
    except Exception:  # the user's own __dict__, __mro__ or metaclass
        return UNKNOWN


def _bound(found: Any, owner: Any, is_own: bool) -> Any:
    if isinstance(found, staticmethod):
        inner: Any = found.__func__
        return Bound(inner, None) if isinstance(inner, FunctionType) else inner
    if isinstance(found, classmethod):
        inner = found.__func__
        cls = owner if isinstance(owner, type) else type(owner)
        return Bound(inner, cls) if isinstance(inner, FunctionType) else inner
    if isinstance(found, FunctionType):
        return found if is_own else Bound(found, owner)
    if isinstance(found, MemberDescriptorType):  # a slot
        return UNKNOWN if isinstance(owner, type) else found.__get__(owner)
    getter = getattr(found, "fget", None) or getattr(found, "func", None)
    if isinstance(found, property) or type(found).__name__ == "cached_property":
        return MethodType(getter, owner) if isinstance(getter, FunctionType) else UNKNOWN
    return found


def _after(base: Super, name: str) -> Any:
    """The value of ``super().name``."""
    own = base.owner if isinstance(base.owner, type) else type(base.owner)
    order = own.__mro__ if base.cls in own.__mro__ else base.cls.__mro__
    for cls in order[order.index(base.cls) + 1 :]:
        if name in vars(cls):
            return vars(cls)[name]
    return UNKNOWN


def _is_a(thing: Any, cls: type) -> bool:
    return isinstance(thing, cls) or (isinstance(thing, type) and issubclass(thing, cls))


def _local_names(code: CodeType) -> frozenset[str]:
    """The names of variables of ``code`` and of the code inside it."""
    names = set(code.co_varnames) | set(code.co_cellvars)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _local_names(constant)
    return frozenset(names)
