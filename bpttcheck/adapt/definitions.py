"""What a training script or a notebook defines, without running it.

Imports, functions, classes and constants are taken; loops, calls and ``if __name__ ==
"__main__"`` are not. So the functions of a script that trains as soon as it is imported can be
handed to a checker:

    m = bpttcheck.defs("train.py")
    bpttcheck.check_vjp(m.forward, m.backward, "x: N T D, W: D H -> h: N T H")
"""

from __future__ import annotations

import ast
import json
import linecache
import os
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from bpttcheck.errors import ContractError

_TAKEN = "only imports, functions, classes and constants are taken"
_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)
_EXPRESSIONS = (
    ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Set, ast.UnaryOp, ast.BinOp, ast.BoolOp,
    ast.Compare, ast.IfExp, ast.Subscript, ast.Slice, ast.Starred,
)  # fmt: skip
_CALLED = ("int", "float")
_TYPES = ("int", "float", "bool", "complex", "str")
_SHOWN = 60


@dataclass(frozen=True)
class LeftOut:
    """A statement that was not run.

    Args:
        where: its line, of a notebook its cell as well.
        text: its first line.
        names: what it would have defined.
        reason: why it was left out.
    """

    where: str
    text: str
    names: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        """``line 12: data = open('input.txt').read() (a call of open)``."""
        return f"{self.where}: {self.text} ({self.reason})"


class Definitions(ModuleType):
    """The module that :func:`defs` returns: it says why a name is not there."""

    __left_out__: tuple[LeftOut, ...] = ()

    def __getattr__(self, name: str) -> Any:
        """Called for what was not taken."""
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        culprits = [one for one in self.__left_out__ if name in one.names]
        if culprits:
            raise AttributeError(
                f"{name!r} of {self.__file__} was left out: {culprits[-1]}. Set it: "
                f"module.{name} = ..., or name it in bpttcheck.in_module(module, {name}='...')"
            )
        known = ", ".join(sorted(key for key in vars(self) if not key.startswith("__")))
        unread = [str(one) for one in self.__left_out__ if one.reason.startswith("is not Python")]
        raise AttributeError(
            f"{self.__file__} defines no {name!r}; it defines {known or 'nothing'}"
            + (f". Not read: {'; '.join(unread)}" if unread else "")
        )


def defs(path: str | os.PathLike[str]) -> Definitions:
    """The imports, functions, classes and constants of a script, without running the rest.

    Constants are literals and arithmetic of what is known by then, with attributes of imported
    modules, ``int()`` and ``float()``, but no other call. A constant that an assignment replaces
    which is left out (``size = 0`` and later ``size = len(data)``) is left out as well; one that
    only a loop changes keeps its first value.

    Args:
        path: of a script ``.py`` or a notebook ``.ipynb``, whose magics are dropped.

    Returns:
        A module. What was left out, and why, is in ``module.__left_out__``; ``inspect.getsource``
        and tracebacks show the lines of the script, or of the cells of the notebook in one text.

    Raises:
        ContractError: there is no such file, or it is no Python.
    """
    file = Path(path)
    if file.suffix not in (".py", ".ipynb"):
        raise ContractError(
            f"defs({str(path)!r}), but should be a .py or an .ipynb file", item="defs"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(
            f"defs({str(path)!r}) cannot be read: {error}; the current folder is {Path.cwd()}",
            item="defs",
        ) from error
    script = _notebook(file, text) if file.suffix == ".ipynb" else _script(file, text)
    return script.run()


@dataclass
class _Script:
    """A text with its statements.

    Args:
        path: the file.
        source: the full path, for which the statements are compiled.
        statements: those at the top, in order.
        starts: the first line of every cell; none in a script.
        left: what was left out so far.
    """

    path: Path
    source: str
    statements: list[ast.stmt]
    starts: Sequence[int] = ()
    left: list[LeftOut] = field(default_factory=list)

    def run(self) -> Definitions:
        """Run what is taken."""
        name = f"{self.path.stem}.defs"
        while getattr(sys.modules.get(name), "__file__", self.source) != self.source:
            name += "_"  # another script of this name
        module = Definitions(name)
        module.__file__ = self.source
        sys.modules[module.__name__] = module  # where `inspect` and `dataclasses` look for a class
        with _folder_of(self.path):
            taken, names = self._tried(module)
            # Once more as a whole: how a call of `np.tanh` is compiled depends on the imports.
            exec(self._compiled(taken), vars(module))
        for dropped in set(vars(module)) - names:
            delattr(module, dropped)
        module.__left_out__ = tuple(self.left)
        return module

    def _tried(self, module: Definitions) -> tuple[list[ast.stmt], set[str]]:
        """The statements that are taken and can be run, and all names that there are in the end."""
        known = dict(vars(module))
        taken: list[ast.stmt] = []
        for statement in self.statements:
            reason = _why_not(statement, known)
            if not reason:
                features = [one for one in taken if _is_future(one)]
                try:
                    exec(self._compiled([*features, statement]), known)
                    taken.append(statement)
                except (Exception, SystemExit) as error:
                    reason = f"{type(error).__name__}: {error}"
            if reason:
                self._leave_out(statement, reason, known)
        return taken, set(known)

    def _compiled(self, statements: list[ast.stmt]) -> CodeType:
        return compile(ast.Module(statements, []), self.source, "exec", dont_inherit=True)

    def _leave_out(self, statement: ast.stmt, reason: str, known: dict[str, Any]) -> None:
        names = tuple(dict.fromkeys(_defined(statement)))
        if isinstance(statement, (*_ASSIGNMENTS, *_DEFINITIONS)):
            for name in names:  # an earlier value is not the one that the script goes on with
                known.pop(name, None)
        first = ast.unparse(statement).splitlines()[0]
        shown = first if len(first) <= _SHOWN else first[: _SHOWN - 3] + "..."
        self.left.append(LeftOut(self.where(statement.lineno), shown, names, reason))

    def where(self, line: int) -> str:
        """A line of the text as its author counts it."""
        before = [start for start in self.starts if start <= line]
        return f"cell {len(before)}, line {line - before[-1] + 1}" if before else f"line {line}"


def _script(file: Path, text: str) -> _Script:
    try:
        return _Script(file, str(file.resolve()), ast.parse(text).body)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        shown = (getattr(error, "text", "") or "").strip()
        raise ContractError(
            f"defs({str(file)!r}): {f'line {line} ' if line else 'it '}is not Python: "
            f"{getattr(error, 'msg', error)}{f' in {shown!r}' if shown else ''}",
            item="defs",
        ) from error


def _notebook(file: Path, text: str) -> _Script:
    """Its cells of code as one text, which ``linecache`` keeps; cells of no Python are comments."""
    try:
        content: Any = json.loads(text)
        cells = list(content["cells"] if "cells" in content else content["worksheets"][0]["cells"])
        codes = [_code(cell) for cell in cells if cell.get("cell_type") == "code"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ContractError(
            f"defs({str(file)!r}) is not a notebook: {error}", item="defs"
        ) from error
    script = _Script(file, str(file.resolve()), [])
    lines: list[str] = []
    starts: list[int] = []
    for number, code in enumerate(codes, 1):
        starts.append(len(lines) + 1)
        cell = _without_magics(code)
        try:
            tree = ast.parse(cell)
        except (SyntaxError, ValueError) as error:
            why = f"is not Python: {getattr(error, 'msg', error)}"
            first = code.strip().partition("\n")[0]
            script.left.append(LeftOut(f"cell {number}", first[:_SHOWN], (), why))
            cell = "\n".join(f"# {line}" for line in cell.splitlines())
        else:
            script.statements += ast.increment_lineno(tree, len(lines)).body
        lines += [*cell.splitlines(), ""]
    script.starts = starts
    whole = "\n".join(lines)
    linecache.cache[script.source] = (len(whole), None, whole.splitlines(True), script.source)
    return script


def _code(cell: Mapping[str, Any]) -> str:
    source = cell["source"] if "source" in cell else cell["input"]
    return source if isinstance(source, str) else "".join(source)


def _without_magics(code: str) -> str:
    """A cell without what only a notebook understands, line by line as it was."""
    try:
        ast.parse(code)
        return code
    except (SyntaxError, ValueError):
        pass
    lines = code.splitlines()
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("%%") and first.split()[0] not in ("%%time", "%%timeit", "%%capture"):
        return "\n" * max(len(lines) - 1, 0)  # the cell is a shell script, a page of HTML, ...
    kept: list[str] = []
    for line in lines:
        bare = line.strip()
        magic = bare.startswith(("%", "!", "?")) or bare.endswith("?")
        kept.append(line[: len(line) - len(line.lstrip())] + "pass" if magic else line)
    return "\n".join(kept)


@contextmanager
def _folder_of(file: Path) -> Generator[None]:
    """As when a script is run, what lies beside it can be imported."""
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _why_not(statement: ast.stmt, known: Mapping[str, Any]) -> str:
    """Why a statement is left out; ``""`` if it is taken."""
    if isinstance(statement, _DEFINITIONS):
        return ""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return ""
    if isinstance(statement, _ASSIGNMENTS):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return _not_a_name(targets) or (
            "" if statement.value is None else _no_constant(statement.value, known)
        )
    if isinstance(statement, ast.Try):
        handled = [inner for handler in statement.handlers for inner in handler.body]
        return _first(statement.body, handled, statement.orelse, statement.finalbody, known=known)
    if isinstance(statement, ast.If):
        if any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(statement.test)):
            return "the main program"
        return _no_constant(statement.test, known) or _first(
            statement.body, statement.orelse, known=known
        )
    if isinstance(statement, ast.Pass):
        return ""
    kind = {"For": "a loop", "While": "a loop", "With": "a with block", "Expr": "a call"}
    name = type(statement).__name__
    return f"{kind.get(name, name.lower())}; {_TAKEN}"


def _is_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _first(*blocks: Sequence[ast.stmt], known: Mapping[str, Any]) -> str:
    """Why the first of these statements that is left out is."""
    inner = dict(known)
    for statement in (one for block in blocks for one in block):
        reason = _why_not(statement, inner)
        if reason:
            return reason
        inner |= dict.fromkeys(_defined(statement))
    return ""


def _not_a_name(targets: Iterable[ast.expr]) -> str:
    for target in targets:
        inner = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
        for one in inner:
            if not isinstance(one, ast.Name):
                return f"{ast.unparse(one)} is not a name; {_TAKEN}"
    return ""


def _no_constant(value: ast.expr, known: Mapping[str, Any]) -> str:
    """Why an expression is not taken for a constant, or ``""``."""
    if isinstance(value, ast.Name):
        if value.id in known or value.id in _TYPES:
            return ""
        return f"{value.id} is not known"
    if isinstance(value, ast.Attribute):
        root: ast.expr = value
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and isinstance(known.get(root.id), ModuleType):
            return ""
        return f"{ast.unparse(value)} is an attribute of what is not an imported module"
    if isinstance(value, ast.Call):
        called = ast.unparse(value.func)
        if called not in _CALLED or called in known or value.keywords:
            return f"a call of {called}"
    elif not isinstance(value, _EXPRESSIONS):
        return f"{type(value).__name__.lower()} is not a constant"
    for inner in value.args if isinstance(value, ast.Call) else ast.iter_child_nodes(value):
        reason = _no_constant(inner, known) if isinstance(inner, ast.expr) else ""
        if reason:
            return reason
    return ""


def _defined(statement: ast.AST) -> Iterator[str]:
    """The names that a statement binds at the top."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
        return
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        for alias in statement.names:
            yield alias.asname or alias.name.partition(".")[0]
        return
    if isinstance(statement, ast.Name) and isinstance(statement.ctx, ast.Store):
        yield statement.id
    if not isinstance(
        statement, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    ):
        for inner in ast.iter_child_nodes(statement):
            yield from _defined(inner)
