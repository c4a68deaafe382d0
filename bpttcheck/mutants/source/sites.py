"""Every node of a backward pass that can be mutated, with the local variables there."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping
from typing import Any

from bpttcheck import trees
from bpttcheck.mutants.source.expressions import text
from bpttcheck.mutants.source.operators import Site
from bpttcheck.mutants.source.problems import StepProblem
from bpttcheck.mutants.source.reading import Method
from bpttcheck.mutants.source.scene import LocalsSnapshot

_LEFT_ALONE = (
    ast.ClassDef, ast.Assert, ast.Raise, ast.Import, ast.ImportFrom, ast.Global,
    ast.Nonlocal, ast.Pass, ast.Delete, ast.Break, ast.Continue,
)  # fmt: skip

_COMPOUND = (ast.If, ast.For, ast.With, ast.Try, ast.Match, ast.FunctionDef)

Path = tuple[ast.AST, ...]


def statements(path: Path) -> Iterator[Path]:
    """Every statement inside ``path[-1]``, those of branches, loops and inner functions included.

    Yields:
        The way from the function down to the statement.
    """
    for child in ast.iter_child_nodes(path[-1]):
        if isinstance(child, _LEFT_ALONE) or _is_text(child):
            continue
        if isinstance(child, ast.stmt):
            yield (*path, child)
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from statements((*path, child))


def sites(tree: ast.FunctionDef, scenes: Mapping[int, LocalsSnapshot]) -> Iterator[Site]:
    """Every site, in the order of the source.

    Args:
        tree: the function.
        scenes: the locals at each statement that was reached, by the statement's ``id``.
    """
    for path in statements((tree,)):
        scene = scenes.get(id(path[-1]), LocalsSnapshot())
        yield Site(path, scene)
        yield from _inside(path, scene)


def _inside(path: Path, scene: LocalsSnapshot) -> Iterator[Site]:
    for child in ast.iter_child_nodes(path[-1]):
        if child in (getattr(path[-1], name, None) for name in ("annotation", "returns")):
            continue
        if isinstance(child, ast.expr | ast.keyword | ast.comprehension | ast.withitem):
            yield Site((*path, child), scene)
            yield from _inside((*path, child), scene)


def replaced(path: Path, new: ast.AST) -> ast.AST:
    """``path[0]`` with ``new`` in place of ``path[-1]``; nothing is changed in place."""
    for around, old in zip(path[-2::-1], path[:0:-1], strict=True):
        new = _with(around, old, new)
    return new


def context(path: Path) -> tuple[int, str]:
    """The context of ``path[-1]`` to show to a reader.

    Returns:
        The index in ``path`` of the node to print, and what to print before it.
    """
    start = max(k for k, node in enumerate(path) if isinstance(node, ast.stmt))
    for k in range(start + 1, len(path)):
        around = path[k - 1]
        if isinstance(around, ast.Dict):
            pairs = zip(around.keys, around.values, strict=True)
            keys = [key for key, value in pairs if value is path[k] and key is not None]
            return k, f"{text(keys[0])}: " if keys else ""
    if isinstance(path[start], _COMPOUND) and start + 1 < len(path):
        return start + 1, f"{type(path[start]).__name__.lower()} "
    return start, ""


def probed(tree: ast.FunctionDef, probe: str) -> ast.FunctionDef:
    """A copy of ``tree`` that calls ``probe(k, locals())`` before its statement number ``k``."""
    fresh = copy.deepcopy(tree)
    numbers = {id(path[-1]): k for k, path in enumerate(statements((fresh,)))}
    for node in list(ast.walk(fresh)):
        for name, body in ast.iter_fields(node):
            if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
                setattr(node, name, list(_with_probes(body, numbers, probe)))
    return ast.fix_missing_locations(fresh)


def _with_probes(body: list[Any], numbers: Mapping[int, int], probe: str) -> Iterator[ast.stmt]:
    for statement in body:
        if id(statement) in numbers:
            call = ast.parse(f"{probe}({numbers[id(statement)]}, locals())").body[0]
            yield ast.copy_location(call, statement)
        yield statement


def _with(around: ast.AST, old: ast.AST, new: ast.AST) -> ast.AST:
    changed = copy.copy(around)
    for name, value in ast.iter_fields(around):
        if value is old:
            setattr(changed, name, new)
        elif isinstance(value, list) and any(item is old for item in value):
            setattr(changed, name, [new if item is old else item for item in value])
    return changed


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


_PROBE = "_bpttcheck_probe_"


def observe(method: Method, target: Any, one: StepProblem) -> dict[int, LocalsSnapshot]:
    """The locals at every statement that was reached, by the statement's ``id``.

    Args:
        method: the source of the backward pass.
        target: the cell.
        one: the problem to run, once as it is and once with cotangents of zero.

    Raises:
        Exception: whatever the backward pass raises.
    """
    arguments = one.arguments(target)
    now = _locals(method, target, arguments)
    rest = _locals(method, target, one.arguments(target, at_rest=True))
    given = frozenset(id(leaf) for leaf in [*trees.leaves(arguments[2]), arguments[3]])
    known = definitions(method.tree)
    return {
        id(path[-1]): LocalsSnapshot(now[k], rest.get(k, {}), one.params, given, known)
        for k, path in enumerate(statements((method.tree,)))
        if k in now
    }


def _locals(method: Method, target: Any, arguments: Any) -> dict[int, dict[str, Any]]:
    """The local variables before the first visit of each statement, by its number."""
    seen: dict[int, dict[str, Any]] = {}

    def probe(number: int, variables: Mapping[str, Any]) -> None:
        seen.setdefault(number, dict(variables))

    function = method.compile(probed(method.tree, _PROBE), **{_PROBE: probe})
    method.bind(function, target)(*arguments)
    return seen


def definitions(tree: ast.FunctionDef) -> dict[str, ast.expr]:
    """For each variable that is assigned once, the expression."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value)
    return {name: values[0] for name, values in found.items() if len(values) == 1}
