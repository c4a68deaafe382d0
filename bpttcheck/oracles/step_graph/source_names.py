"""What the values of a graph are called in the user's source: by the expression that made them."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bpttcheck.oracles.step_graph.graph import Graph, Stand

_LONGEST = 40

Span = tuple[int | None, ...]


class SourceNames:
    """Names of values, from the places in the source at which they were made.

    Args:
        graph: the graph; of the turns of a loop the last one is named.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._files: dict[str, tuple[dict[Span, str], dict[Span, ast.expr]]] = {}
        # An expression may take several operations: the last one has its value.
        self._last: dict[tuple[Stand, ...], int] = {}
        self._callers: dict[tuple[str, int], set[tuple[Stand, ...]]] = {}
        for k, op in enumerate(graph.ops):
            for i, stand in enumerate(op.calls):
                self._last[op.calls[i:]] = k
                self._callers.setdefault((stand.file, stand.first), set()).add(op.calls[i + 1 :])

    def variable(self, k: int) -> str:
        """The variable that the result of an operation is assigned to, or ``""``."""
        names = (self._file(stand.file)[0].get(stand.span) for stand in self._whole(k))
        return next(filter(None, names), "")

    def where(self, k: int) -> str:
        """The line, ``"cell.py:12: h = tanh(z)"``; of a helper of several callers, the call."""
        for stand in self._graph.ops[k].calls:
            if len(self._callers[stand.file, stand.first]) == 1 and stand.span[0]:
                text = linecache.getline(stand.file, stand.span[0]).strip()
                return f"{Path(stand.file).name}:{stand.span[0]}: {text}"
        return self._graph.ops[k].where

    def _whole(self, k: int) -> list[Stand]:
        """The expressions whose value it makes, the innermost first."""
        calls = self._graph.ops[k].calls
        return [s for i, s in enumerate(calls) if self._last[calls[i:]] == k]

    def of(self, k: int) -> str:
        """That variable, else its expression."""
        name = self.variable(k)
        if name:
            return name
        op = self._graph.ops[k]
        for stand in self._whole(k)[:1]:
            node = self._file(stand.file)[1].get(stand.span)
            if node is not None:
                return _short(node)
        stand = op.calls[0] if op.calls else None
        node = self._file(stand.file)[1].get(stand.span) if stand else None
        return f"a part of {_short(node)}" if node is not None else f"a part of {op.where}"

    def operand(self, k: int, j: int) -> str:
        """An operand of a sum, product or quotient as it stands in the source, or ``""``."""
        op = self._graph.ops[k]
        if not op.calls or self._last[op.calls] != k or len(op.ins) != 2:
            return ""
        node = self._file(op.calls[0].file)[1].get(op.calls[0].span)
        parts = list(_operands(node))
        return _short(parts[j]) if len(parts) == 2 else ""

    def _file(self, file: str) -> tuple[dict[Span, str], dict[Span, ast.expr]]:
        if file not in self._files:
            self._files[file] = _read(file)
        return self._files[file]


def _read(file: str) -> tuple[dict[Span, str], dict[Span, ast.expr]]:
    """By place: the target of each assigned expression, and every expression."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return {}, {}
    targets: dict[Span, str] = {}
    nodes: dict[Span, ast.expr] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.expr):
            nodes[_span(node)] = node
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            for target, value in _pairs(node.targets[0], node.value):
                targets[_span(value)] = ast.unparse(target)
    return targets, nodes


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    both = (target, value)
    if all(isinstance(one, ast.Tuple | ast.List) for one in both):
        a: list[ast.expr] = target.elts  # type: ignore[attr-defined]
        b: list[ast.expr] = value.elts  # type: ignore[attr-defined]
        yield from zip(a, b, strict=False)
    elif not isinstance(target, ast.Tuple | ast.List):
        yield target, value


def _operands(node: Any) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp):
        yield node.left
        yield node.right
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.keywords:
        if node.func.attr in ("dot", "matmul") and len(node.args) == 1:
            yield node.func.value
        if node.func.attr in ("dot", "matmul"):
            yield from node.args


def _span(node: ast.expr) -> Span:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


def _short(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
