"""Operators on matrices: transposition, the order of a product, sums over the batch."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any

from bpttcheck.mutants.source.change import Example, Site, SourceChange, operator
from bpttcheck.mutants.source.expressions import called, text
from bpttcheck.mutants.source.scene import MISSING

_Rebuild = Callable[[ast.expr, ast.expr], ast.expr]


@operator(
    Example("d_W = d_z.T @ x", "d_W = d_z @ x"),
    Example("d_W = np.transpose(d_z) @ x", "d_W = d_z @ x"),
    Example("d_W = d_z.transpose() @ x", "d_W = d_z @ x"),
)
def drop_transpose(site: Site) -> Iterator[SourceChange]:
    """A transposition is missing."""
    plain = _transposed_of(site.node)
    if plain is not None:
        yield SourceChange(plain, f"{text(site.node)} -> {text(plain)}", "transposed")


@operator(
    Example("d_W = d_z.T @ x", "d_W = d_z @ x.T"),
    Example("d_W = d_z.T @ x", "d_W = x.T @ d_z"),
    Example("d_W = d_z @ x.T", "d_W = d_z.T @ x"),
    Example("d_W = np.dot(d_z.T, x)", "d_W = np.dot(x.T, d_z)"),
    Example("d_W = d_z.T.dot(x)", "d_W = d_z.dot(x.T)"),
)
def move_transpose(site: Site) -> Iterator[SourceChange]:
    """The other factor is transposed; the transposed product stands for the product."""
    found = _product(site.node)
    if found is None:
        return
    left, right, rebuild = found
    was_left, was_right = _transposed_of(left), _transposed_of(right)
    wrong: list[ast.expr] = []
    if was_left is not None and was_right is None:
        wrong = [rebuild(was_left, _transposed(right)), rebuild(_transposed(right), was_left)]
    elif was_right is not None and was_left is None:
        wrong = [rebuild(_transposed(left), was_right), rebuild(was_right, _transposed(left))]
    for node in wrong:
        yield SourceChange(node, f"{text(site.node)} -> {text(node)}", "transposed")


@operator(
    Example("d_h = d_z @ W", "d_h = d_z @ W.T", {"d_z": (2, 3), "W": (3, 3)}),
    Example("d_h = W @ d_z", "d_h = W.T @ d_z", {"d_z": (3, 2), "W": (3, 3)}),
)
def add_transpose(site: Site) -> Iterator[SourceChange]:
    """A square factor of a product is transposed."""
    found = _product(site.node)
    if found is None:
        return
    left, right, rebuild = found
    if _is_square(site.scene.value(left)) and _transposed_of(left) is None:
        yield _matrix_change(site, rebuild(_transposed(left), right), "transposed")
    if _is_square(site.scene.value(right)) and _transposed_of(right) is None:
        yield _matrix_change(site, rebuild(left, _transposed(right)), "transposed")


@operator(Example("P = A @ B", "P = B @ A", {"A": (2, 3), "B": (3, 2)}))
def swap_operands(site: Site) -> Iterator[SourceChange]:
    """The factors of a matrix product change places, where their shapes allow it."""
    found = _product(site.node)
    if found is None:
        return
    left, right, rebuild = found
    a, b = (getattr(site.scene.value(node), "shape", ()) for node in (left, right))
    if len(a) == len(b) == 2 and a == b[::-1]:
        yield _matrix_change(site, rebuild(right, left), "")


@operator(
    Example("d_b = d_z.sum(axis=0)", "d_b = d_z.mean(axis=0)"),
    Example("d_b = d_z.sum(0)", "d_b = d_z[0]"),
    Example("d_b = np.sum(d_z, axis=0)", "d_b = np.mean(d_z, axis=0)"),
    Example("d_b = np.sum(d_z, axis=0)", "d_b = d_z[0]"),
)
def reduce_otherwise(site: Site) -> Iterator[SourceChange]:
    """The mean, or the first row, stands for the sum over the batch."""
    node = site.node
    if not (isinstance(node, ast.Call) and called(node) == "sum" and _over_rows(node)):
        return
    assert isinstance(node.func, ast.Attribute)
    mean = ast.Attribute(node.func.value, "mean", ast.Load())
    yield SourceChange(
        ast.Call(mean, node.args, node.keywords), "sum -> mean", "batch-reduction", least_B=2
    )
    if not any(keyword.arg == "keepdims" for keyword in node.keywords):
        rows = node.args[0] if _is_function(node) else node.func.value
        first = ast.Subscript(rows, ast.Constant(0), ast.Load())
        yield SourceChange(first, "sum -> first row", "batch-reduction", least_B=2)


def _matrix_change(site: Site, wrong: ast.expr, code: str) -> SourceChange:
    return SourceChange(wrong, f"{text(site.node)} -> {text(wrong)}", code)


def _transposed(node: ast.expr) -> ast.expr:
    return ast.Attribute(node, "T", ast.Load())


def _transposed_of(node: ast.AST) -> ast.expr | None:
    """``v`` if ``node`` is ``v.T``, ``v.transpose()`` or ``np.transpose(v)``."""
    if isinstance(node, ast.Attribute) and node.attr == "T" and isinstance(node.ctx, ast.Load):
        return node.value
    if isinstance(node, ast.Call) and called(node) == "transpose":
        if len(node.args) == 1 and _is_function(node):
            return node.args[0]
        if not node.args and isinstance(node.func, ast.Attribute):
            return node.func.value
    return None


def _product(node: ast.AST) -> tuple[ast.expr, ast.expr, _Rebuild] | None:
    """Both factors of ``a @ b``, ``np.dot(a, b)`` or ``a.dot(b)``, and how to put them together."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        return node.left, node.right, lambda a, b: ast.BinOp(a, ast.MatMult(), b)
    if not isinstance(node, ast.Call) or called(node) not in ("dot", "matmul") or node.keywords:
        return None
    function = node.func
    if len(node.args) == 2:
        return node.args[0], node.args[1], lambda a, b: ast.Call(function, [a, b], [])
    if len(node.args) == 1 and isinstance(function, ast.Attribute):
        name = function.attr

        def method(a: ast.expr, b: ast.expr) -> ast.expr:
            return ast.Call(ast.Attribute(a, name, ast.Load()), [b], [])

        return function.value, node.args[0], method
    return None


def _is_function(call: ast.Call) -> bool:
    """True for ``np.sum(v)``, where ``v.sum()`` is a method."""
    function = call.func
    if not isinstance(function, ast.Attribute):
        return True
    return isinstance(function.value, ast.Name) and function.value.id in ("np", "numpy")


def _over_rows(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute):
        return False
    position = 1 if _is_function(call) else 0
    axes: list[ast.expr] = list(call.args[position : position + 1])
    axes += [keyword.value for keyword in call.keywords if keyword.arg == "axis"]
    return any(isinstance(axis, ast.Constant) and axis.value == 0 for axis in axes)


def _is_square(value: Any) -> bool:
    shape = () if value is MISSING else getattr(value, "shape", ())
    return len(shape) == 2 and shape[0] == shape[1]
