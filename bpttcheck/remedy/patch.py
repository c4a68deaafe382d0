"""An edit of a syntax tree as an edit of the file, of which it changes one node's text."""

from __future__ import annotations

import ast
import copy
import difflib
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bpttcheck.mutants.source.expressions import text
from bpttcheck.mutants.source.sites import Path as Way
from bpttcheck.mutants.source.sites import replaced

_POWER = re.compile(r"(?<=\w) \*\* (?=\d)")
_ATOMS = (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.Constant, ast.Tuple, ast.List)


def patched(source: str, way: Way, new: ast.AST | None) -> tuple[str, ast.FunctionDef] | None:
    """The file with one node replaced, and the function as it then is.

    Args:
        source: the text of the file, of which ``way[0]`` is a function.
        way: from the function down to the node.
        new: the node in its place; None: the statement is left out.

    Returns:
        None if no text could be found that means just this.
    """
    wanted = rewritten(way, new)
    statement = max(k for k, node in enumerate(way) if isinstance(node, ast.stmt))
    for old, words in _spellings(source, way, new, statement):
        changed = _with(source, old, words)
        function = _function(changed, way[0])
        if function is not None and _same(function, wanted):
            return changed, function
    return None


def two(first: ast.stmt, second: ast.stmt) -> ast.Module:
    """Two statements, to stand in the place of the first."""
    second = ast.fix_missing_locations(ast.copy_location(second, first))
    return ast.Module([first, second], [])


def rewritten(way: Way, new: ast.AST | None) -> ast.FunctionDef:
    """The function with one node replaced.

    Args:
        way: from the function down to the node.
        new: the node in its place; None: the statement is left out; :func:`two` statements.
    """
    if isinstance(new, ast.Module):
        around = copy.copy(way[-2])
        for name, body in ast.iter_fields(around):
            if isinstance(body, list) and way[-1] in body:
                at = body.index(way[-1])
                setattr(around, name, [*body[:at], *new.body, *body[at + 1 :]])
        tree = replaced(way[:-1], around)
    else:
        tree = replaced(way, ast.Pass() if new is None else new)
    assert isinstance(tree, ast.FunctionDef)
    return tree


def _spellings(
    source: str, way: Way, new: ast.AST | None, statement: int
) -> Iterator[tuple[ast.AST, str]]:
    """What to replace and by what, the least change first."""
    if new is None:
        yield way[-1], "pass"
        return
    if isinstance(new, ast.Module):
        own = ast.get_source_segment(source, way[-1]) or text(way[-1])
        added = _POWER.sub("**", text(new.body[1]))
        yield way[-1], f"{own}\n{' ' * new.body[0].col_offset}{added}"
        return
    if isinstance(new, ast.Constant) and isinstance(new.value, str):
        own = ast.get_source_segment(source, way[-1]) or ""
        if own[:1] == '"' and own[1:2] != '"' and new.value.isprintable():
            yield way[-1], '"' + new.value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    for bracketed in (False, True):
        words = _in_words(source, way[0], new, bracketed)
        if isinstance(new, ast.Tuple):
            yield way[-1], words.removeprefix("(").removesuffix(")")
        yield way[-1], words
        yield way[-1], f"({words})"
    if len(way) - 1 > statement:
        whole = replaced(way[statement:], new)
        yield way[statement], text(whole)


def _in_words(source: str, function: ast.AST, new: ast.AST, bracketed: bool) -> str:
    """The new node as text; what it takes from the source is written as it is there."""
    own = {id(node) for node in ast.walk(function)}
    kept: list[str] = []

    def rebuilt(node: ast.AST) -> ast.AST:
        """The node with a name in the place of every expression of the source."""
        if isinstance(node, ast.expr) and id(node) in own:
            words = ast.get_source_segment(source, node) or text(node)
            bare = isinstance(node, _ATOMS) or not bracketed
            kept.append(words if bare else f"({words})")
            return ast.Name(f"_kept_{len(kept) - 1}_", ast.Load())
        fresh = type(node)()
        for name, value in ast.iter_fields(node):
            setattr(fresh, name, _each(value, rebuilt))
        return ast.copy_location(fresh, function)  # an assignment without a line has no text

    written = _POWER.sub("**", text(rebuilt(new)))
    for number, words in enumerate(kept):
        written = written.replace(f"_kept_{number}_", words)
    return written


def _each(value: Any, change: Callable[[ast.AST], ast.AST]) -> Any:
    if isinstance(value, list):
        items: list[Any] = value
        return [_each(item, change) for item in items]
    return change(value) if isinstance(value, ast.AST) else value


def _with(source: str, old: ast.AST, words: str) -> str:
    lines = source.splitlines(keepends=True)
    first, last = old.lineno - 1, (old.end_lineno or old.lineno) - 1  # type: ignore[attr-defined]
    start = lines[first].encode()[: old.col_offset].decode()  # type: ignore[attr-defined]
    end = lines[last].encode()[old.end_col_offset :].decode()  # type: ignore[attr-defined]
    return "".join([*lines[:first], start + words + end, *lines[last + 1 :]])


def _function(source: str, like: ast.AST) -> ast.FunctionDef | None:
    """The function in a changed file, whose first line is where it was."""
    assert isinstance(like, ast.FunctionDef)
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    for node in ast.walk(module):
        if not isinstance(node, ast.FunctionDef):
            continue
        if (node.name, node.lineno) == (like.name, like.lineno):
            return node
    return None


def _same(a: ast.AST, b: ast.AST) -> bool:
    return ast.unparse(a) == ast.unparse(b)


def size(before: str, after: str) -> int:
    """How many tokens two texts differ in."""
    a, b = _tokens(before), _tokens(after)
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    return sum(
        max(i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in matcher.get_opcodes() if tag != "equal"
    )


def _tokens(source: str) -> Sequence[str]:
    try:
        found = tokenize.generate_tokens(io.StringIO(source).readline)
        return [one.string for one in found if one.string.strip()]
    except (tokenize.TokenError, SyntaxError):
        return source.split()


def diff(before: str, after: str, file: str) -> str:
    """The unified diff of a file, for ``patch -p1`` or ``git apply`` in the working directory."""
    path = Path(file)
    try:
        name = path.resolve().relative_to(Path.cwd()).as_posix()
        heads = f"a/{name}", f"b/{name}"
    except ValueError:
        heads = path.as_posix(), path.as_posix()
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), *heads)
    return "".join(lines)
