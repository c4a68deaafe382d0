"""The source of a cell's ``step_vjp``, and how a changed source becomes a method again."""

from __future__ import annotations
import __future__ as future

import ast
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType
from typing import Any

from bpttcheck.contract import is_cell
from bpttcheck.errors import Declined

# The flags of every `from __future__ import`: they belong to the code that is compiled again.
_FUTURE = sum({getattr(future, name).compiler_flag for name in future.all_feature_names})
_HARMLESS = ("staticmethod", "classmethod", "override")
_WRAPPERS = ("bpttcheck.adapt.", "bpttcheck.mutants.")


@dataclass(frozen=True)
class Method:
    """A ``step_vjp`` whose source says what it runs.

    Args:
        owner: the name of the class around it, which mangles private names.
        function: the function itself, a ``FunctionType``.
        tree: its source; line numbers are those of the file.
        wrapper: ``staticmethod``, ``classmethod`` or None.
    """

    owner: str
    function: Any
    tree: ast.FunctionDef
    wrapper: Callable[[Any], Any] | None

    def compile(self, tree: ast.FunctionDef, filename: str = "", /, **more: Any) -> FunctionType:
        """``tree`` as a function with the globals, the closure and the defaults of the original.

        Neither defaults nor decorators nor annotations are run again.

        Args:
            tree: a changed copy of the source.
            filename: where a traceback says that it stands; empty: that it was changed.
            **more: further globals.
        """
        original: FunctionType = self.function
        name = filename or f"<changed {original.__qualname__}>"
        code = _compiled(tree, self.owner, original, name)
        cells = _cells(original)
        function = FunctionType(
            code,
            {**original.__globals__, **more} if more else original.__globals__,
            original.__name__,
            original.__defaults__,
            tuple(cells[name] for name in code.co_freevars),
        )
        function.__kwdefaults__ = original.__kwdefaults__
        return function

    def bind(self, function: FunctionType, target: Any) -> Callable[..., Any]:
        """``function`` as the ``step_vjp`` of the instance ``target``."""
        descriptor: Any = self.wrapper(function) if self.wrapper else function
        return descriptor.__get__(target, type(target))


def read(target: Any, name: str = "step_vjp") -> Method:
    """The source of ``target.step_vjp``, or of another method.

    Args:
        target: a cell; or a layer, whose ``vjp`` is asked for.
        name: which method.

    Raises:
        Declined: there is no source, or it is not what runs, or it must not be changed.
    """
    function, wrapper = _function(target, name)
    return _method(function, wrapper)


def read_function(function: Any) -> Method:
    """The source of a backward function.

    Args:
        function: a function that is defined by ``def`` in a file.

    Raises:
        Declined: there is no source, or it is not what runs, or it must not be changed.
    """
    if not isinstance(function, FunctionType) or function.__code__.co_name == "<lambda>":
        raise Declined(f"it is a {type(function).__name__} without a `def` of its own")
    if hasattr(function, "__wrapped__"):
        raise Declined("a decorator wraps it: its source is not all of it")
    if str(function.__module__).startswith(_WRAPPERS):
        raise Declined("it was made by an adapter, which calls the methods of an object")
    return _method(function, None)


def _method(function: FunctionType, wrapper: Callable[[Any], Any] | None) -> Method:
    tree, owner = _parsed(function)
    called = function.__code__.co_name
    if any(isinstance(node, ast.While) for node in ast.walk(tree)):
        raise Declined(
            f"{called} has a `while` loop, which might not end once something is changed"
        )
    names = [ast.unparse(decorator) for decorator in tree.decorator_list]
    if {name.rpartition(".")[2] for name in names} - set(_HARMLESS):
        raise Declined(
            f"{called} is decorated with @{', @'.join(names)}: its source is not all of it",
            remedy=f"`def {called}` without a decorator",
        )
    return Method(owner, function, tree, wrapper)


def _function(target: Any, method: str) -> tuple[FunctionType, Callable[[Any], Any] | None]:
    """The function behind the method of ``target``, and what the class wraps around it."""
    if method == "step_vjp" and not is_cell(target):
        raise Declined("no cell: only a step_vjp is changed in its source")
    if method in getattr(target, "__dict__", {}):
        raise Declined(
            f"{method} is an attribute of the instance", remedy="a method of the cell's class"
        )
    found = inspect.getattr_static(type(target), method)
    wrapper = type(found) if isinstance(found, staticmethod | classmethod) else None
    function = found.__func__ if isinstance(found, staticmethod | classmethod) else found
    if not isinstance(function, FunctionType):
        raise Declined(
            f"{method} is a {type(function).__name__}, which has no Python source",
            remedy="a plain method",
        )
    name = function.__code__.co_name
    if name != method or hasattr(function, "__wrapped__"):
        raise Declined(
            f"{method} is the function {name!r}, which a decorator or another name brought there",
            remedy=f"`def {method}` in the class, without a decorator",
        )
    if str(function.__module__).startswith(_WRAPPERS):
        raise Declined(
            f"{method} delegates to another function", remedy="a cell whose class has the formulas"
        )
    return function, wrapper


def _parsed(function: FunctionType) -> tuple[ast.FunctionDef, str]:
    """The definition of ``function`` in its file, and the class in which it stands."""
    try:
        source = "".join(inspect.findsource(function)[0])
        module = ast.parse(source)
        whole = compile(source, "<source>", "exec", dont_inherit=True)
    except (OSError, TypeError, SyntaxError, ValueError) as error:
        raise Declined(
            f"the source of {function.__code__.co_name} cannot be read ({error})",
            remedy="a class defined in a file",
        ) from None
    own, line = function.__code__, function.__code__.co_firstlineno
    trees = [
        found for found in _definitions(module, "", own.co_name) if _first_line(found[0]) == line
    ]
    if not (trees and any(_same_code(code, own) for code in _codes(whole, module, own))):
        raise Declined(
            f"the source of {own.co_name} in {own.co_filename} is not what runs: the file was"
            " changed after it was imported, or an import hook rewrote it",
            remedy="import it afresh",
        )
    return trees[0]


def _codes(whole: CodeType, module: ast.Module, own: CodeType) -> Iterator[CodeType]:
    """The code at the place of ``own`` in a file, and in each of its statements compiled alone.

    A notebook compiles the statements of a cell one by one, which gives other bytecode: the
    compiler treats methods of what the same module imports in another way.
    """
    alone = (
        compile(ast.Module([statement], []), "<source>", "exec", dont_inherit=True)
        for statement in module.body
        if _first_line(statement) <= own.co_firstlineno <= (statement.end_lineno or 0)
    )
    for outer in (whole, *alone):
        for code in _all_code(outer):
            if (code.co_name, code.co_firstlineno) == (own.co_name, own.co_firstlineno):
                yield code


def _definitions(around: ast.AST, owner: str, name: str) -> Iterator[tuple[ast.FunctionDef, str]]:
    """Every ``def`` of this name, with the innermost class around it."""
    for node in ast.iter_child_nodes(around):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            yield node, owner
        inside = node.name if isinstance(node, ast.ClassDef) else owner
        yield from _definitions(node, inside, name)


def _first_line(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(node.lineno for node in decorators)])


def _compiled(tree: ast.FunctionDef, owner: str, original: FunctionType, filename: str) -> CodeType:
    """The code of ``tree``, defined where the original is: in a class, in a function."""
    # A class, because it mangles names with two underscores; a function around it, because the
    # original's free variables must not become globals. Neither is ever run.
    free = original.__code__.co_freevars
    outer = ast.parse(f"def surroundings({', '.join(free)}): pass")
    surroundings = outer.body[0]
    assert isinstance(surroundings, ast.FunctionDef)
    surroundings.body = [tree]
    if owner:
        around = ast.parse(f"class {owner}: pass").body[0]
        assert isinstance(around, ast.ClassDef)
        around.body = [tree]
        surroundings.body = [around] if owner in free else [ast.Global([owner]), around]
    ast.fix_missing_locations(outer)
    flags = original.__code__.co_flags & _FUTURE
    code = compile(outer, filename, "exec", flags=flags, dont_inherit=True)
    return next(inner for inner in _all_code(code) if inner.co_name == tree.name)


def _all_code(code: CodeType) -> list[CodeType]:
    """``code`` and all code inside it, the outer before the inner."""
    found = [code]
    for outer in found:
        found += [constant for constant in outer.co_consts if isinstance(constant, CodeType)]
    return found


def _cells(function: FunctionType) -> dict[str, CellType]:
    return dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))


def _same_code(a: CodeType, b: CodeType) -> bool:
    """True if both do the same; their line numbers do not matter."""
    if a.co_code != b.co_code or len(a.co_consts) != len(b.co_consts):
        return False
    if (a.co_names, a.co_varnames, a.co_freevars) != (b.co_names, b.co_varnames, b.co_freevars):
        return False
    return all(
        _same_code(x, y)
        if isinstance(x, CodeType) and isinstance(y, CodeType)
        else repr(x) == repr(y)
        for x, y in zip(a.co_consts, b.co_consts, strict=True)
    )
