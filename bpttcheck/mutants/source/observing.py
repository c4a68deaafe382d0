"""Runs a backward pass twice and writes down its variables before every statement."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from bpttcheck import trees
from bpttcheck.mutants.source.problems import StepProblem
from bpttcheck.mutants.source.reading import Method
from bpttcheck.mutants.source.scene import Scene
from bpttcheck.mutants.source.sites import probed, statements

_PROBE = "_bpttcheck_probe_"


def observe(method: Method, target: Any, one: StepProblem) -> dict[int, Scene]:
    """The scene of every statement that was reached, by the identity of the statement.

    Args:
        method: the source of the backward pass.
        target: the cell.
        one: what it is run on, once as it is and once with cotangents of zero.

    Raises:
        Exception: whatever the backward pass raises.
    """
    arguments = one.arguments(target)
    now = _locals(method, target, arguments)
    rest = _locals(method, target, one.arguments(target, at_rest=True))
    given = frozenset(id(leaf) for leaf in [*trees.leaves(arguments[2]), arguments[3]])
    definitions = _definitions(method.tree)
    return {
        id(path[-1]): Scene(now[k], rest.get(k, {}), one.params, given, definitions)
        for k, path in enumerate(statements((method.tree,)))
        if k in now
    }


def _locals(method: Method, target: Any, arguments: Any) -> dict[int, dict[str, Any]]:
    """The local variables before each statement, by its number; those of its first visit."""
    seen: dict[int, dict[str, Any]] = {}

    def probe(number: int, variables: Mapping[str, Any]) -> None:
        seen.setdefault(number, dict(variables))

    function = method.compile(probed(method.tree, _PROBE), **{_PROBE: probe})
    method.bind(function, target)(*arguments)
    return seen


def _definitions(tree: ast.FunctionDef) -> dict[str, ast.expr]:
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value)
    return {name: values[0] for name, values in found.items() if len(values) == 1}
