"""Statements of the user's source, by the place of an operation in it."""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType

from bpttcheck.oracles.step_source.recording import UserStand

_LEAST = 12


@dataclass(frozen=True)
class Origin:
    """Where an adjoint comes from.

    Args:
        text: the statement, or a remark.
        place: ``"cell.py:21"``, or ``""``.
    """

    text: str
    place: str = ""

    def within(self, width: int) -> str:
        """As much of it as fits: the place in any case."""
        room = width - len(self.place) - 2
        text = self.text
        if len(text) > room:
            left, equals, _ = text.partition(" = ")
            shortest = f"{left} = ..." if equals else ""
            cut = text[: max(room - 4, 0)].rpartition(" ")[0]
            text = f"{cut} ..." if len(cut) >= max(_LEAST, len(left) + 6) else shortest
        return ", ".join(part for part in (text, self.place) if part)


def origin(stands: tuple[UserStand, ...], step: CodeType) -> Origin:
    """What ``step`` does there, else the innermost function."""
    if not stands:
        return Origin("")
    own = [stand for stand in stands if stand.code is step]
    stand = own[0] if own else stands[0]
    line, _, column, _ = stand.span
    file = stand.code.co_filename
    return Origin(_statement(file, line or 0, column or 0), f"{Path(file).name}:{line}")


def text_at(stand: UserStand) -> str:
    """The lines of the expression at a place."""
    first, last, _, _ = stand.span
    lines = linecache.getlines(stand.code.co_filename)
    return "".join(lines[(first or 1) - 1 : last or first])


def assignments(code: CodeType) -> dict[str, list[tuple[ast.Assign, str]]]:
    """The plain assignments in the body of a function, with their text, by variable."""
    lines = linecache.getlines(code.co_filename)
    try:
        block = textwrap.dedent("".join(inspect.getblock(lines[code.co_firstlineno - 1 :])))
        (tree,) = ast.parse(block).body
    except (SyntaxError, ValueError, IndexError):
        return {}
    found: dict[str, list[tuple[ast.Assign, str]]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.setdefault(node.id, [])
    plain = [n for n in getattr(tree, "body", []) if isinstance(n, ast.Assign)]
    stores = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name)
              and isinstance(n.ctx, ast.Store)]  # fmt: skip
    for node in plain:
        text = " ".join((ast.get_source_segment(block, node) or "").split())
        for name in targets(node):
            if stores.count(name) == 1 and "#" not in text:
                found[name].append((node, text))
    return found


def targets(node: ast.Assign) -> list[str]:
    """The variables that a statement sets; none if it sets anything else."""
    (target, *more) = node.targets
    parts = target.elts if isinstance(target, ast.Tuple) else [target]
    names = [part.id for part in parts if isinstance(part, ast.Name)]
    return names if not more and len(names) == len(parts) else []


@cache
def _statement(file: str, line: int, column: int) -> str:
    """The statement around a place; of one that assigns several things, the one meant."""
    text = "".join(linecache.getlines(file))
    found: ast.stmt | None = None
    for node in ast.walk(_parsed(file)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            found = node if found is None or node.lineno >= found.lineno else found
    if found is None or isinstance(found, (ast.FunctionDef, ast.ClassDef)):
        return ""
    if isinstance(found, ast.Assign):
        target, value = found.targets[0], found.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, part in zip(target.elts, value.elts, strict=False):
                begins = (part.lineno, part.col_offset)
                ends = (part.end_lineno or 0, part.end_col_offset or 0)
                if begins <= (line, column) < ends:
                    return f"{_segment(text, one)} = {_segment(text, part)}"
    return _segment(text, found)


def _segment(text: str, node: ast.AST) -> str:
    found = ast.get_source_segment(text, node) or ""
    return " ".join(line.partition("  #")[0].strip() for line in found.splitlines())


@cache
def _parsed(file: str) -> ast.AST:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return ast.Module([], [])
