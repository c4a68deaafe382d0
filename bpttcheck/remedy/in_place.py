"""Edits for a backward pass that writes into its arguments: ``a = a + b`` for ``a += b``."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bpttcheck.remedy.backward import BackwardSource
from bpttcheck.remedy.patch import patched, size
from bpttcheck.remedy.search import Mended


def out_of_place(source: BackwardSource) -> Iterator[Mended]:
    """The source without the augmented assignments to its arguments, then without any to a name.

    An argument may have another name: ``d = d_state``, then ``d += d_y``.
    """
    arguments = source.method.tree.args
    own = {one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    before: Mended | None = None
    for names in (own, None):
        found = _without(source, names)
        if found is not None and (before is None or found.edits > before.edits):
            before = found
            yield found


def _without(source: BackwardSource, names: set[str] | None) -> Mended | None:
    edited, line, count = source, 0, 0
    while (way := _first(edited.method.tree, names)) is not None:
        node = way[-1]
        assert isinstance(node, ast.AugAssign)
        assert isinstance(node.target, ast.Name)
        sum_of = ast.BinOp(ast.Name(node.target.id, ast.Load()), node.op, node.value)
        new = ast.Assign([ast.Name(node.target.id, ast.Store())], sum_of)
        done = patched(edited.text, way, ast.fix_missing_locations(ast.copy_location(new, node)))
        if done is None:
            return None
        edited, line, count = edited.edited(*done), line or node.lineno, count + 1
    if not count:
        return None
    tokens = size(ast.unparse(source.method.tree), ast.unparse(edited.method.tree))
    return Mended(edited, line, count, tokens)


def _first(
    node: ast.AST, names: set[str] | None, above: tuple[ast.AST, ...] = ()
) -> tuple[ast.AST, ...] | None:
    """The way down to the first augmented assignment to one of the names; None: to any."""
    way = (*above, node)
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        return way if names is None or node.target.id in names else None
    for child in ast.iter_child_nodes(node):
        found = _first(child, names, way)
        if found is not None:
            return found
    return None
