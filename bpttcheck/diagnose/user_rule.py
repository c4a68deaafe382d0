"""A hand-written ``step_vjp`` as it runs: its variables, and the terms of what it computes."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_X, Block, d_param, d_previous_state
from bpttcheck.errors import Declined
from bpttcheck.subject.user_code import call

_RIGHT = "_bpttcheck_right_"


@dataclass(frozen=True)
class WrittenSum:
    """What a variable or a result is the sum of.

    Args:
        target: what is computed, ``"d_a"``.
        terms: the sign of each term, and it itself.
        where: ``"cell.py:31: d_a = d_h * (1 - h**2)"``.
        variable: True for a variable, False for an expression among the results.
    """

    target: str
    terms: tuple[tuple[int, ast.expr], ...]
    where: str
    variable: bool


class UserRule:
    """The backward pass of a cell, from its source.

    Args:
        cell: the cell.

    Raises:
        Declined: there is no source, or it is no plain function.
    """

    def __init__(self, cell: Any) -> None:
        method = cell.step_vjp
        self._function = getattr(method, "__func__", method)
        self.bound = hasattr(method, "__func__")
        code = getattr(self._function, "__code__", None)
        try:
            lines, self._first = inspect.getsourcelines(self._function)
            (tree,) = ast.parse(textwrap.dedent("".join(lines))).body
        except (OSError, TypeError, SyntaxError, ValueError):
            raise Declined("a step_vjp without a source") from None
        if code is None or code.co_freevars or not isinstance(tree, ast.FunctionDef):
            raise Declined("a step_vjp that is no plain function")
        self._code: CodeType = code
        self._lines, self._tree = lines, tree
        self._stored = [
            n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        ]
        self._loaded = [
            n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
        ]
        self._results = self._returned()

    @property
    def variables(self) -> dict[str, Any]:
        """The globals that it sees."""
        return self._function.__globals__

    def run(self, *args: Any) -> tuple[Any, dict[str, Any]]:
        """What it returns, and its variables at its end.

        Raises:
            ContractError: it raises.
        """
        return call("step_vjp", with_variables, self._code, self._function, args)

    @property
    def assigned(self) -> list[str]:
        """The variables that plain statements set, in order."""
        names = (name for node in self._tree.body for name, _ in _assigned(node))
        return list(dict.fromkeys(names))

    def corrector(self, name: str) -> Any:
        """``corrected(value, *args)``: the rule with another value for a variable, once it is set.

        Args:
            name: a variable that statements of the body set.
        """
        tree = ast.parse(ast.unparse(self._tree)).body[0]
        assert isinstance(tree, ast.FunctionDef)
        tree.decorator_list = []
        last = max(k for k, statement in enumerate(tree.body) if name in _set_by(statement))
        tree.body.insert(last + 1, ast.parse(f"{name} = {_RIGHT}.copy()").body[0])
        variables = dict(self.variables)
        module = ast.fix_missing_locations(ast.Module([tree], []))
        exec(compile(module, "<step_vjp with one value corrected>", "exec"), variables)

        def corrected(value: Any, *args: Any) -> Any:
            variables[_RIGHT] = value
            return call("step_vjp", variables[tree.name], *args)

        return corrected

    def variable(self, name: str) -> WrittenSum | None:
        """What a variable is the sum of; None if it is not set by plain statements."""
        found: list[tuple[int, ast.expr]] = []
        first: ast.stmt | None = None
        count = 0
        for node in self._tree.body:
            pairs = dict(_assigned(node))
            if name in pairs:
                found, first = list(_terms(pairs[name], 1)), node
                count += 1
            elif isinstance(node, ast.AugAssign) and _is_name(node.target, name):
                if not isinstance(node.op, (ast.Add, ast.Sub)):
                    return None
                sign = 1 if isinstance(node.op, ast.Add) else -1
                found += _terms(node.value, sign)
                count += 1
        if first is None or count != self._stored.count(name):
            return None
        return WrittenSum(name, tuple(found), self._where(first), True)

    def cotangents(self, names: Mapping[str, Any]) -> dict[str, Any]:
        """The leaves of the cotangent of the state, ``d_state[0]``, by how they are read."""
        own = self._code.co_varnames[: self._code.co_argcount][-2:]
        if len(own) < 2 or own[0] not in names:
            return {}
        state = names[own[0]]
        paths = trees.structure(state).paths
        return {own[0] + p: v for p, v in zip(paths, trees.leaves(state), strict=True) if p}

    def result(self, block: Block, *, resolve: bool = True) -> WrittenSum | None:
        """What a gradient that is returned is the sum of.

        Args:
            block: the gradient.
            resolve: of a variable that serves for nothing else, what that is the sum of.
        """
        node = self._results.get(block)
        if node is None:
            return None
        if isinstance(node, ast.Name) and resolve and self._loaded.count(node.id) == 1:
            return self.variable(node.id)
        return WrittenSum(str(block), tuple(_terms(node, 1)), self._where(node), False)

    def _where(self, node: ast.stmt | ast.expr) -> str:
        number = self._first + node.lineno - 1
        last = node.end_lineno if isinstance(node, ast.stmt) else node.lineno
        lines = self._lines[node.lineno - 1 : last]
        text = " ".join(line.partition("  #")[0].strip() for line in lines).rstrip(",")
        return f"{Path(self._code.co_filename).name}:{number}: {text}"

    def _returned(self) -> dict[str, ast.expr]:
        """The expressions of the gradients that are returned, by block."""
        last = self._tree.body[-1]
        if not isinstance(last, ast.Return) or not isinstance(last.value, ast.Tuple):
            return {}
        if len(last.value.elts) != 3:
            return {}
        params, state, x = last.value.elts
        found: dict[str, ast.expr] = {D_X: x}
        state = self._resolved(state)
        if isinstance(state, ast.Tuple):
            found |= {d_previous_state(f"[{k}]"): part for k, part in enumerate(state.elts)}
        else:
            found[d_previous_state()] = state
        if isinstance(params, ast.Name):
            for node in self._tree.body:
                found |= dict(_items_set(node, params.id))
        params = self._resolved(params)
        if isinstance(params, ast.Dict):
            found |= dict(_items(params))
        return found

    def _resolved(self, node: ast.expr) -> ast.expr:
        """A dict or a tuple behind a variable."""
        if isinstance(node, ast.Name):
            for statement in self._tree.body:
                value = dict(_assigned(statement)).get(node.id)
                if isinstance(value, (ast.Dict, ast.Tuple)):
                    return value
        return node


def with_variables(
    code: CodeType, function: Any, args: tuple[Any, ...]
) -> tuple[Any, dict[str, Any]]:
    """What a function returns, and its variables at its end."""
    seen: dict[str, Any] = {}

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is code:
            seen.update(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        with np.errstate(all="ignore"):
            result = function(*args)
    finally:
        sys.setprofile(before)
    return result, seen


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """The variables that a statement sets, each with its own expression."""
    if not isinstance(node, ast.Assign) or len(node.targets) != 1:
        return
    target, value = node.targets[0], node.value
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, part in zip(target.elts, value.elts, strict=False):
            if isinstance(one, ast.Name):
                yield one.id, part


def _set_by(node: ast.stmt) -> set[str]:
    return {
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }


def _items(node: ast.Dict) -> Iterator[tuple[str, ast.expr]]:
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(key, ast.Constant):
            yield d_param(key.value), value


def _items_set(node: ast.stmt, name: str) -> Iterator[tuple[str, ast.expr]]:
    """The entries of a dict that a statement sets: ``d["W"] = ...`` and ``d |= {...}``."""
    if isinstance(node, ast.AugAssign) and _is_name(node.target, name):
        if isinstance(node.value, ast.Dict):
            yield from _items(node.value)
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        target = node.targets[0]
        if _is_name(target.value, name) and isinstance(target.slice, ast.Constant):
            yield d_param(target.slice.value), node.value


def _terms(node: ast.expr, sign: int) -> Iterator[tuple[int, ast.expr]]:
    """The terms of a sum with their signs."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        yield from _terms(node.left, sign)
        yield from _terms(node.right, sign if isinstance(node.op, ast.Add) else -sign)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield from _terms(node.operand, -sign)
    else:
        yield sign, node


def factors(node: ast.expr) -> list[ast.expr]:
    """The factors of a product of entries."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return [*factors(node.left), *factors(node.right)]
    return [node]


def product(parts: list[ast.expr]) -> ast.expr:
    """The product of some factors."""
    made: ast.expr = parts[0] if parts else ast.Constant(1)
    for part in parts[1:]:
        made = ast.BinOp(made, ast.Mult(), part)
    return made


def evaluated(node: ast.expr, variables: Mapping[str, Any], names: Mapping[str, Any]) -> Any:
    """The value of an expression, or None."""
    text = ast.unparse(ast.fix_missing_locations(node))
    try:
        with np.errstate(all="ignore"):
            return eval(text, dict(variables), dict(names))
    except Exception:
        return None
