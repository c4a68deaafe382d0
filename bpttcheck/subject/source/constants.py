"""Constants at which the hand-written code may behave differently: sizes and thresholds.

``if T > 64``, ``x[:, 64:]``, ``range(0, T, BLOCK)`` and ``T % self.tile`` contain sizes;
``np.abs(x) > 3.3`` and ``np.clip(g, -1e9, 1e9)`` contain thresholds. Named constants are resolved
in variables, defaults, modules, classes and instances. Axes, exponents, indices and factors are
ignored.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from bpttcheck.subject.source.functions import user_code
from bpttcheck.subject.source.names import UNKNOWN, Scope

_AT_MOST = 12
_SMALLEST, _LARGEST = 2, 4096
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_SUMS = (ast.Add, ast.Sub, ast.FloorDiv, ast.Mod)
_ORDERS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq, ast.In, ast.NotIn)
_RANGES = {"range", "arange", "min", "max", "minimum", "maximum", "islice", "divmod"}
_SHAPES = {"zeros", "ones", "empty", "full"}
_CLIPS = {"clip": 1, "minimum": 0, "maximum": 0, "fmin": 0, "fmax": 0, "min": 0, "max": 0}
_NUMBERS = {"float", "int", "float16", "float32", "float64", "int32", "int64", "abs"}
_COUNTING = {"range", "reversed", "arange"}
_NO_SIZE = {"axis", "axes", "dtype", "ndmin", "seed", "decimals", "ord", "ddof", "keepdims", "name"}
_OF_VALUES = {"abs", "fabs", "absolute", "max", "min", "amax", "amin", "norm", "sum", "mean", "any"}
_BYTES: dict[str, type] = {"int8": np.int8, "i1": np.int8, "uint8": np.uint8, "u1": np.uint8}
_SIZE_NAME = re.compile(
    r"_*(T|B|H|N|D|K|M|t|n|i|j|k|[nN]_\w+|num_\w+"
    r"|(\w+_)?(len|length|lengths|size|count|steps?|batch|width|rows?|cols?|calls|dim))"
)


def integer_constants(target: Any) -> tuple[int, ...]:
    """Integers in the hand-written code that may be sizes, from 2 to 4096.

    Args:
        target: a cell or a layer.

    Returns:
        At most 12, ascending; those in comparisons and remainders have priority over those in
        slices and ranges, and these over shapes of buffers and named constants.
    """
    return tuple(sorted(best(_of_target(target, sizes))))


def float_constants(target: Any) -> tuple[float, ...]:
    """Magnitudes of the thresholds in the hand-written code: of comparisons, clips, extrema.

    Args:
        target: a cell or a layer.

    Returns:
        At most 12, ascending, without sign.
    """
    return tuple(sorted(best(_of_target(target, thresholds))))


def sizes(node: ast.AST, scope: Scope) -> Iterator[tuple[int, int]]:
    """The integers in ``node`` that may be sizes, as ``(weight, integer)``.

    Args:
        node: a function, or an expression such as the condition of an ``if``.
        scope: what its names stand for.
    """
    skipped = _no_sizes(node)
    counts = _count_names(node)
    for part in ast.walk(node):
        for weight, place in _places_of_sizes(part, counts, scope):
            for value in _terms(place, scope):
                if isinstance(value, int) and _SMALLEST <= abs(value) <= _LARGEST:
                    yield weight, abs(value)
        if isinstance(part, ast.Name | ast.Attribute | ast.Constant):
            largest = _narrow(scope.resolve(part))
            if largest is not None:
                yield 3, largest
        if isinstance(part, ast.Name | ast.Attribute) and part not in skipped:
            value = _number(part, scope)
            is_named = not (isinstance(part, ast.Name) and scope.is_local(part.id))
            if is_named and isinstance(value, int) and _SMALLEST <= value <= _LARGEST:
                yield 1, value


def _narrow(value: Any) -> int | None:
    """How many whole numbers from 0 on fit into one byte, if ``value`` is such a dtype."""
    if isinstance(value, str):
        value = _BYTES.get(value)
    if isinstance(value, np.dtype):
        value = value.type
    if isinstance(value, type) and value in _BYTES.values():
        return int(np.iinfo(value).max) + 1
    return None


def thresholds(node: ast.AST, scope: Scope) -> Iterator[tuple[int, float]]:
    """The magnitudes in ``node`` that values are compared with, as ``(weight, magnitude)``.

    Args:
        node: a function, or an expression such as the condition of an ``if``.
        scope: what its names stand for.
    """
    counts = _count_names(node)
    for part in ast.walk(node):
        for weight, place, is_of_values in _places_of_thresholds(part, counts, scope):
            for value in _terms(place, scope):
                least = 2 if isinstance(value, int) and not is_of_values else 0
                if abs(value) > 0 and abs(value) >= least and math.isfinite(value):
                    yield weight, abs(float(value))
            if isinstance(place, ast.BinOp) and isinstance(place.op, ast.Mult):
                for factor in (_number(place.left, scope), _number(place.right, scope)):
                    if isinstance(factor, float) and factor and math.isfinite(factor):
                        yield 1, abs(factor)


def _of_target(
    target: Any, read: Callable[[ast.AST, Scope], Iterator[tuple[int, Any]]]
) -> Iterator[tuple[int, Any]]:
    for found in user_code(target).functions:
        yield from read(found.tree, found.scope)


def best(found: Iterable[tuple[int, Any]]) -> list[Any]:
    """The values of the greatest weight; of equal weights, those found first."""
    weights: dict[Any, int] = {}
    for weight, value in found:
        weights[value] = max(weight, weights.get(value, 0))
    return sorted(weights, key=lambda value: -weights[value])[:_AT_MOST]


def _places_of_sizes(
    node: ast.AST, counts: frozenset[str], scope: Scope
) -> Iterator[tuple[int, ast.expr]]:
    """Expressions in which an integer may be a size, with their weight."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        if all(isinstance(op, _ORDERS) for op in node.ops) and not (
            any(_is_dimension(side) for side in sides) or _are_values(sides, counts, scope)
        ):
            yield from ((3, side) for side in sides)
    elif isinstance(node, ast.MatchValue):
        yield 3, node.value
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.FloorDiv):
        if not isinstance(node.left, ast.JoinedStr) and not _is_text(node.left):
            yield (3 if isinstance(node.op, ast.Mod) else 2), node.right
    elif isinstance(node, ast.Slice):
        yield from ((2, part) for part in (node.lower, node.upper, node.step) if part is not None)
    elif isinstance(node, ast.Call):
        name = _called(node)
        if name in _RANGES:
            yield from ((2, argument) for argument in node.args)
        elif name in _SHAPES and node.args:
            yield 1, node.args[0]
        for keyword in node.keywords:
            if keyword.arg and keyword.arg not in _NO_SIZE and _SIZE_NAME.fullmatch(keyword.arg):
                yield 1, keyword.value


def _places_of_thresholds(
    node: ast.AST, counts: frozenset[str], scope: Scope
) -> Iterator[tuple[int, ast.expr, bool]]:
    """Expressions that values are compared with: ``(weight, expression, surely values)``."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        sure = _are_values(sides, counts, scope)
        if sure or not any(_is_count(side, counts) for side in sides):
            yield from ((3, side, sure) for side in sides)
    elif isinstance(node, ast.Call) and _called(node) in _CLIPS:
        if any(_is_count(argument, counts) for argument in node.args):
            return
        is_method = isinstance(node.func, ast.Attribute) and not _is_module(node.func.value, scope)
        bounds = node.args[0 if is_method else _CLIPS[_called(node)] :]
        sure = isinstance(node.func, ast.Attribute)
        yield from ((3, bound, sure) for bound in bounds)
        yield from ((3, keyword.value, sure) for keyword in node.keywords if _is_bound(keyword))


def _terms(node: ast.AST, scope: Scope) -> Iterator[int | float]:
    """The numbers in ``node`` that are alone or terms of a sum."""
    value = _number(node, scope)
    if value is not None:
        yield value
    elif isinstance(node, ast.BinOp) and isinstance(node.op, _SUMS):
        for side in (node.left, node.right):
            yield from _terms(side, scope)
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        for item in node.elts:
            yield from _terms(item, scope)
    elif isinstance(node, ast.IfExp):
        yield from _terms(node.body, scope)
        yield from _terms(node.orelse, scope)
    elif isinstance(node, ast.Name | ast.Attribute):
        found = scope.resolve(node)
        if isinstance(found, tuple | list | set | frozenset) and len(found) <= _AT_MOST:
            yield from (v for v in map(_as_number, found) if v is not None)


def _number(node: ast.AST, scope: Scope) -> int | float | None:
    """The value of a constant expression."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = _number(node.operand, scope)
        if inner is None:
            return None
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp):
        return _folded(node, scope)
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        if _called(node) in _NUMBERS:
            return _number(node.args[0], scope)
        return None
    if isinstance(node, ast.Attribute) and not scope.is_constant(node):
        return None
    if isinstance(node, ast.Constant | ast.Name | ast.Attribute):
        return _as_number(scope.resolve(node))
    return None


def _folded(node: ast.BinOp, scope: Scope) -> int | float | None:
    left, right = _number(node.left, scope), _number(node.right, scope)
    if left is None or right is None:
        return None
    try:
        if isinstance(node.op, ast.LShift):
            return int(left) << int(right) if 0 <= right <= 32 else None
        if isinstance(node.op, ast.Pow):
            return left**right if abs(right) <= 400 and abs(left) <= 1024 else None
        fold = _OPERATORS.get(type(node.op))
        return None if fold is None else fold(left, right)
    except (ArithmeticError, ValueError, TypeError):
        return None


def _as_number(value: Any) -> int | float | None:
    if value is UNKNOWN or isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, int | np.integer):
        return int(value)
    return float(value) if isinstance(value, float | np.floating) else None


def _no_sizes(node: ast.AST) -> set[ast.AST]:
    """Names whose value is an axis, an index, an exponent, or part of a longer name."""
    found: set[ast.AST] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.keyword) and part.arg in _NO_SIZE:
            found |= set(ast.walk(part.value))
        elif isinstance(part, ast.BinOp) and isinstance(part.op, ast.Pow):
            found |= set(ast.walk(part.right))
        elif isinstance(part, ast.Subscript):
            index = part.slice.elts if isinstance(part.slice, ast.Tuple) else [part.slice]
            found |= {item for item in index if isinstance(item, ast.Name | ast.Attribute)}
        elif isinstance(part, ast.Attribute):
            found.add(part.value)
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            for expression in (*part.decorator_list, part.returns, *_annotations(part.args)):
                if expression is not None:
                    found |= set(ast.walk(expression))
    return found


def _annotations(arguments: ast.arguments) -> list[ast.expr | None]:
    every = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
    return [argument.annotation for argument in every]


def _count_names(node: ast.AST) -> frozenset[str]:
    """Variables that hold sizes or indices: assigned from a shape, or counting a loop."""
    names: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Assign):
            values = part.value.elts if isinstance(part.value, ast.Tuple) else [part.value]
            for aim in part.targets:
                aims = aim.elts if isinstance(aim, ast.Tuple) else [aim]
                if len(values) == 1:
                    pairs = [(one, values[0]) for one in aims]
                else:
                    pairs = list(zip(aims, values, strict=False))
                for one, value in pairs:
                    if isinstance(one, ast.Name) and _speaks_of_size(value):
                        names.add(one.id)
        elif isinstance(part, ast.For | ast.comprehension):
            is_range = isinstance(part.iter, ast.Call) and _called(part.iter) in _COUNTING
            if is_range:
                names |= {n.id for n in ast.walk(part.target) if isinstance(n, ast.Name)}
    return frozenset(names)


def _is_count(node: ast.AST, counts: frozenset[str]) -> bool:
    """True if an expression is a size or an index."""
    if _speaks_of_size(node):
        return True
    names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
    attributes = [part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)]
    return any(name in counts for name in names) or any(
        _SIZE_NAME.fullmatch(name) for name in names + attributes
    )


def _speaks_of_size(node: ast.AST) -> bool:
    """True for ``len(xs)``, ``x.shape[1]``, ``x.size``, ``T % 16``."""
    return any(
        (isinstance(part, ast.Attribute) and part.attr in ("shape", "size", "ndim"))
        or (isinstance(part, ast.Call) and _called(part) == "len")
        or (isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mod | ast.FloorDiv))
        for part in ast.walk(node)
    )


def _are_values(sides: list[ast.expr], counts: frozenset[str], scope: Scope) -> bool:
    """True if array values are certainly compared: with a fraction, or an array's extremum."""
    parts = [part for side in sides for part in ast.walk(side)]
    if any(isinstance(part, ast.Constant) and isinstance(part.value, float) for part in parts):
        return True
    return any(isinstance(_number(side, scope), float) for side in sides) or any(
        isinstance(part, ast.Call) and _called(part) in _OF_VALUES and not _is_count(part, counts)
        for part in parts
    )


def _is_dimension(node: ast.AST) -> bool:
    """True for ``x.ndim`` and ``len(x.shape)``."""
    if isinstance(node, ast.Call) and _called(node) == "len" and node.args:
        node = node.args[0]
        return isinstance(node, ast.Attribute) and node.attr == "shape"
    return isinstance(node, ast.Attribute) and node.attr == "ndim"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)


def _is_bound(keyword: ast.keyword) -> bool:
    return keyword.arg in ("a_min", "a_max", "min", "max")


def _is_module(node: ast.AST, scope: Scope) -> bool:
    return type(scope.resolve(node)).__name__ == "module"


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""
