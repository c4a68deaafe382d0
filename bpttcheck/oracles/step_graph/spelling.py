"""What the values of a traced step are called in the user's own code."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Sequence

import numpy as np

from bpttcheck.oracles.step_graph.graph import MOVES, Fixed, Graph
from bpttcheck.trees import Structure

_SIGNS = {"add": "+", "add_any": "+", "sub": "-", "mul": "*", "div": "/", "dot_general": "@"}
_WHOLE = frozenset(
    "transpose reshape broadcast_in_dim convert_element_type copy expand_dims squeeze".split()
)
_LONGEST = 40


def spelled(graph: Graph, params: Structure, state: Structure) -> dict[int, str]:
    """A text for every value: the name it is assigned to, else the expression that makes it.

    Args:
        graph: the step.
        params: the structure of the parameters.
        state: the structure of the state.
    """
    named = dict(zip(graph.inputs, _inputs(graph, params, state), strict=True))
    named |= _assigned(graph)
    for op in graph.ops:
        texts = [_literal(ref) if isinstance(ref, Fixed) else named[ref] for ref in op.ins]
        name = op.primitive.name
        if name in MOVES:
            text = texts[0] if name in _WHOLE else f"a part of {texts[0]}"
        elif name in _SIGNS:
            text = f"({texts[0]} {_SIGNS[name]} {texts[1]})"
        else:
            text = f"{name}({', '.join(texts)})"
        for out in op.outs:
            named.setdefault(out, text if len(text) <= _LONGEST else f"a part of {op.where}")
    return named


def gradient_of(text: str) -> str:
    """What the gradient of a value is called."""
    return f"d_{text}" if text.partition("[")[0].isidentifier() else f"the gradient of {text}"


def _inputs(graph: Graph, params: Structure, state: Structure) -> list[str]:
    plain = [path.strip(".[]'") for path in state.paths]
    states = [
        text if text.isidentifier() else f"state{path}"
        for text, path in zip(plain, state.paths, strict=True)
    ]
    own, x = _arguments(graph)
    if own and len(own) == len(states):
        states = own
    return [*(path.strip("[]'") for path in params.paths), *states, x]


def _arguments(graph: Graph) -> tuple[list[str], str]:
    """What the method ``step`` calls the leaves of its state, if it unpacks them, and its input."""
    step = _method(graph)
    names = [arg.arg for arg in step.args.args] if step else []
    if step is None or len(names) < 3:
        return [], "x"
    own = [names[-2]]
    for node in ast.walk(step):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            unpacked = _targets(ast.unparse(node))
            if node.value.id == names[-2] and isinstance(node.targets[0], ast.Tuple | ast.Name):
                own = list(unpacked)
    return own, names[-1]


def _method(graph: Graph) -> ast.FunctionDef | None:
    """The function ``step`` around a line of the traced step."""
    lines = {op.line for op in graph.ops if op.line}
    for file in dict.fromkeys(file for file, _ in sorted(lines)):
        try:
            tree = ast.parse("".join(linecache.getlines(file)))
        except (SyntaxError, ValueError):
            continue
        numbers = {number for other, number in lines if other == file}
        for node in ast.walk(tree):
            if not (isinstance(node, ast.FunctionDef) and node.name == "step"):
                continue
            if not numbers.isdisjoint(range(node.lineno, (node.end_lineno or 0) + 1)):
                return node
    return None


def _assigned(graph: Graph) -> dict[int, str]:
    """The names on the left of a line, for the values that the line makes last."""
    lines: dict[str, list[int]] = {}
    for op in graph.ops:
        lines.setdefault(op.where, []).extend(op.outs)
    found: dict[int, str] = {}
    for where, made in lines.items():
        names = _targets(where.partition(": ")[2])
        like = graph.shapes[made[-1]]
        last = made[-len(names) :] if names else []
        if len(last) == len(names) and all(graph.shapes[ref] == like for ref in last):
            found.update(zip(last, names, strict=True))
    return found


def _targets(line: str) -> Sequence[str]:
    try:
        (statement,) = ast.parse(line).body
    except (SyntaxError, ValueError):
        return ()  # a part of a longer statement
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return ()
    target = statement.targets[0]
    several = isinstance(target, ast.Tuple | ast.List)
    parts = target.elts if several else [target]
    # A tuple on the right has its values made one after the other, each in several operations.
    if several and isinstance(statement.value, ast.Tuple | ast.List):
        return ()
    names = [part.id for part in parts if isinstance(part, ast.Name)]
    return names if len(names) == len(parts) else ()


def _literal(ref: Fixed) -> str:
    value = np.asarray(ref.value)
    return f"{value:g}" if value.ndim == 0 and value.dtype.kind in "fiu" else "a constant"
