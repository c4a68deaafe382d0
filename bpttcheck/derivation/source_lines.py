"""Statements of the user's source, by the place of an operation in it."""

from __future__ import annotations

import ast
import linecache
from functools import cache
from pathlib import Path
from types import CodeType

from bpttcheck.derivation.recording import Stand

_LONGEST = 60


def statement_at(stands: tuple[Stand, ...], step: CodeType) -> str:
    """``r = sigmoid(a_r), cell.py:21``: what ``step`` does there, else the innermost function."""
    if not stands:
        return ""
    own = [stand for stand in stands if stand.code is step]
    stand = own[0] if own else stands[0]
    line, _, column, _ = stand.span
    file = stand.code.co_filename
    place = f"{Path(file).name}:{line}"
    text = _statement(file, line or 0, column or 0)
    return f"{text}, {place}" if text else place


@cache
def _statement(file: str, line: int, column: int) -> str:
    """The statement around a place; of one that assigns several things, the one meant."""
    lines = linecache.getlines(file)
    found: ast.stmt | None = None
    for node in ast.walk(_parsed(file)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            inner = found is None or node.lineno > found.lineno or (
                (node.end_lineno or 0) < (found.end_lineno or 0))  # fmt: skip
            found = node if inner else found
    if found is None:
        return ""
    if isinstance(found, ast.Assign):
        target, value = found.targets[0], found.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, part in zip(target.elts, value.elts, strict=False):
                begins = (part.lineno, part.col_offset)
                ends = (part.end_lineno or 0, part.end_col_offset or 0)
                # Columns of instructions and of the tree count bytes.
                if begins <= (line, column) < ends:
                    return _short(f"{_segment(lines, one)} = {_segment(lines, part)}")
    return _short(_segment(lines, found))


def _segment(lines: list[str], node: ast.AST) -> str:
    return ast.get_source_segment("".join(lines), node) or ""


def _short(text: str) -> str:
    flat = " ".join(line.partition("  #")[0].strip() for line in text.splitlines())
    return flat if len(flat) <= _LONGEST else f"{flat[: _LONGEST - 4].rstrip()} ..."


@cache
def _parsed(file: str) -> ast.AST:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return ast.Module([], [])
