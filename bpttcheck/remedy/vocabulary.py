"""What could be written at a place of a backward pass: its arrays, slopes of them, products."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Any

import numpy as np

from bpttcheck.contract import is_cell
from bpttcheck.mutants.source.expressions import text
from bpttcheck.mutants.source.scene import MISSING, LocalsSnapshot

_SLOPE_WORDS = ("deriv", "slope", "prime", "grad", "backward", "d_")
_MOST_NAMES = 40
_LONGEST = 12


@dataclass(frozen=True)
class Word:
    """An expression, its value, and whether it vanishes with the cotangents.

    Args:
        node: the expression.
        value: an array, or a number.
        cotangent: whether it is a cotangent.
    """

    node: ast.expr
    value: Any
    cotangent: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its value."""
        return np.shape(self.value)


class Vocabulary:
    """The expressions at one statement.

    Args:
        scene: the local variables there.
        variables: the globals of the function.
        functions: functions of one argument that the code calls, such as ``np.tanh``.
    """

    def __init__(
        self, scene: LocalsSnapshot, variables: Mapping[str, Any], functions: tuple[str, ...]
    ) -> None:
        self._scene, self._globals, self._functions = scene, variables, functions

    def evaluated(self, node: ast.expr) -> Word | None:
        """The expression with its value, if it is an array or a number there."""
        values = self._scene.values
        if not values:
            return None
        try:
            code = compile(ast.Expression(node), "<expression>", "eval", dont_inherit=True)
            now = eval(code, {**self._globals, **values})
            if not _is_number(now):
                return None
            rest = eval(code, {**self._globals, **self._scene.at_rest})
        except Exception:
            return None
        return Word(node, now, _vanishes(now, rest))

    @cached_property
    def words(self) -> tuple[Word, ...]:
        """The arrays that have a name: variables, fields, items by key."""
        found: list[tuple[ast.expr, Any, Any]] = []
        for name, value in self._scene.values.items():
            rest = self._scene.at_rest.get(name, MISSING)
            found += _opened(ast.Name(name, ast.Load()), value, rest)
            if isinstance(value, np.ndarray) and value.ndim > 2:
                found += self._steps(name, value, rest)
        found.sort(key=lambda one: (not isinstance(one[0], ast.Name), len(text(one[0]))))
        distinct: dict[int, Word] = {}  # of two names of one array the plainer
        for node, now, then in found:
            distinct.setdefault(id(now), Word(node, now, _vanishes(now, then)))
        return tuple(distinct.values())[:_MOST_NAMES]

    def _steps(self, name: str, value: Any, rest: Any) -> Iterator[tuple[ast.expr, Any, Any]]:
        """The steps of an array over time that an index of the loop points to."""
        for index, t in self._scene.values.items():
            if type(t) is not int or not 0 <= t < len(value):
                continue
            at = ast.Name(index, ast.Load())
            after = ast.BinOp(at, ast.Add(), ast.Constant(1))
            for node, k in ((at, t), (after, t + 1)):
                if k < len(value):
                    step = ast.Subscript(ast.Name(name, ast.Load()), node, ast.Load())
                    yield step, value[k], _item(rest, k)

    @cached_property
    def values(self) -> tuple[Word, ...]:
        """Those that are no cotangents."""
        return tuple(word for word in self.words if not word.cotangent)

    @cached_property
    def cotangents(self) -> tuple[Word, ...]:
        """Those that are."""
        return tuple(word for word in self.words if word.cotangent)

    @cached_property
    def slopes(self) -> tuple[Word, ...]:
        """Derivatives of activations at the arrays that are no cotangents."""
        found: list[Word] = []
        for word in self.values:
            if not word.shape:
                continue
            v, one = word.node, ast.Constant(1.0)
            square = ast.BinOp(v, ast.Pow(), ast.Constant(2))
            found.append(Word(ast.BinOp(one, ast.Sub(), square), 1.0 - word.value**2, False))
            found.append(Word(ast.BinOp(one, ast.Sub(), v), 1.0 - word.value, False))
            side = ast.Compare(v, [ast.Gt()], [ast.Constant(0)])
            found.append(Word(side, 1.0 * (word.value > 0), False))
            for function in self.derivatives:
                node = ast.Call(function, [v], [])
                known = self.evaluated(_located(node))
                if known is not None:
                    found.append(known)
        return tuple(found)

    @cached_property
    def scalars(self) -> tuple[Word, ...]:
        """Numbers that have a name: variables, options of the cell, the sizes of arrays."""
        found: list[Word] = []
        for name, value in self._scene.values.items():
            node = ast.Name(name, ast.Load())
            if _is_scalar(value):
                found.append(Word(node, value, False))
            elif isinstance(value, np.ndarray):
                for axis, size in enumerate(value.shape):
                    shape = ast.Attribute(node, "shape", ast.Load())
                    item = ast.Subscript(shape, ast.Constant(axis), ast.Load())
                    found.append(Word(item, size, False))
            elif is_cell(value):
                for key, one in getattr(value, "__dict__", {}).items():
                    if _is_scalar(one):
                        found.append(Word(ast.Attribute(node, key, ast.Load()), one, False))
        distinct = {float(word.value): word for word in reversed(found)}
        return tuple(distinct.values())

    @cached_property
    def differences(self) -> tuple[Word, ...]:
        """Differences of two arrays of one shape."""
        arrays = [word for word in self.values if word.shape]
        return tuple(
            Word(ast.BinOp(a.node, ast.Sub(), b.node), a.value - b.value, False)
            for a, b in permutations(arrays, 2)
            if a.shape == b.shape
        )

    @cached_property
    def derivatives(self) -> tuple[ast.expr, ...]:
        """Functions whose name speaks of a derivative: methods of objects, and globals."""
        found: list[ast.expr] = []
        for name, value in self._scene.values.items():
            if isinstance(value, np.ndarray | int | float | tuple | dict | list | str):
                continue
            if is_cell(value):
                found += [
                    ast.Attribute(ast.Name(name, ast.Load()), a, ast.Load())
                    for a in dir(type(value))
                    if _of_slope(a) and a not in ("step_vjp", "vjp")
                ]
                continue
            found += [
                ast.Attribute(ast.Name(name, ast.Load()), a, ast.Load())
                for a in dir(value)
                if _of_slope(a) and callable(getattr(value, a, None))
            ]
        for name, value in self._globals.items():
            if _of_slope(name) and callable(value) and not isinstance(value, type):
                found.append(ast.Name(name, ast.Load()))
        return tuple(found[:8])

    def functions(self) -> Iterator[ast.expr]:
        """The functions of one argument that the code calls elsewhere."""
        for name in self._functions:
            yield ast.parse(name, mode="eval").body


def _opened(node: ast.expr, value: Any, rest: Any) -> Iterator[tuple[ast.expr, Any, Any]]:
    """An array, or those inside a record, a list or a dict."""
    items: dict[Any, Any] = {}
    if isinstance(value, np.ndarray):
        yield node, value, rest
    elif isinstance(value, dict):
        known: dict[Any, Any] = value
        items = {key: one for key, one in known.items() if isinstance(key, str)}
    elif isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        row: list[Any] = [*value]
        items = dict(enumerate(row)) if len(row) <= _LONGEST else {}
    for key, one in items.items():
        if isinstance(one, np.ndarray):
            yield ast.Subscript(node, ast.Constant(key), ast.Load()), one, _item(rest, key)
    for name in getattr(value, "_fields", ()):
        if isinstance(getattr(value, name), np.ndarray):
            field = ast.Attribute(node, name, ast.Load())
            yield field, getattr(value, name), getattr(rest, name, MISSING)


def _item(owner: Any, key: Any) -> Any:
    try:
        return owner[key]
    except (TypeError, KeyError, IndexError):
        return MISSING


def _vanishes(now: Any, rest: Any) -> bool:
    if rest is MISSING or np.shape(now) != np.shape(rest):
        return False
    return bool(np.any(now)) and not np.any(rest)


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "fiu"
    return _is_scalar(value)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _of_slope(name: str) -> bool:
    return not name.startswith("__") and any(word in name.lower() for word in _SLOPE_WORDS)


def _located(node: ast.expr) -> ast.expr:
    return ast.fix_missing_locations(node)
