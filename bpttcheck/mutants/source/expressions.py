"""Sums, products and slopes as they stand in a syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

_SLOPE_WORDS = ("deriv", "slope", "prime")


@dataclass(frozen=True)
class Part:
    """A term of a sum or a factor of a product.

    Args:
        node: the term or factor.
        inverse: True if it is subtracted or divided by.
    """

    node: ast.expr
    inverse: bool = False


def text(node: ast.AST) -> str:
    """The source of ``node``, on one line."""
    return " ".join(ast.unparse(node).split())


def is_sum(node: ast.AST | None) -> bool:
    """True for ``a + b`` and ``a - b``."""
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub)


def is_product(node: ast.AST | None) -> bool:
    """True for ``a * b`` and ``a / b``."""
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div)


def terms(node: ast.expr) -> list[Part]:
    """The terms of a sum as it is written; brackets are one term."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        return [*terms(node.left), Part(node.right, isinstance(node.op, ast.Sub))]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return [Part(node.operand, True)]
    return [Part(node)]


def factors(node: ast.expr) -> list[Part]:
    """The factors of a product as it is written; brackets are one factor."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        return [*factors(node.left), Part(node.right, isinstance(node.op, ast.Div))]
    return [Part(node)]


def summed(parts: Sequence[Part]) -> ast.expr:
    """The sum of ``parts``."""
    total = negated(parts[0].node) if parts[0].inverse else parts[0].node
    for part in parts[1:]:
        total = ast.BinOp(total, ast.Sub() if part.inverse else ast.Add(), part.node)
    return total


def multiplied(parts: Sequence[Part]) -> ast.expr:
    """The product of ``parts``, the first of which is not divided by."""
    product = parts[0].node
    for part in parts[1:]:
        product = ast.BinOp(product, ast.Div() if part.inverse else ast.Mult(), part.node)
    return product


def negated(node: ast.expr) -> ast.expr:
    """``-node``."""
    return ast.UnaryOp(ast.USub(), node)


def same(a: ast.AST, b: ast.AST) -> bool:
    """True if both have the same source."""
    return ast.dump(a) == ast.dump(b)


def complement_of(node: ast.AST) -> ast.expr | None:
    """``v`` if ``node`` is ``1 - v``."""
    if (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Sub)
        and isinstance(node.left, ast.Constant)
        and node.left.value == 1
    ):
        return node.right
    return None


def square_of(node: ast.AST | None) -> ast.expr | None:
    """``v`` if ``node`` is ``v**2``, ``v * v`` or ``np.square(v)``."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        two = isinstance(node.right, ast.Constant) and node.right.value == 2
        return node.left if two else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return node.left if same(node.left, node.right) else None
    if isinstance(node, ast.Call) and called(node) == "square" and len(node.args) == 1:
        return node.args[0]
    return None


def called(node: ast.AST) -> str:
    """The last name of the function that is called: ``"tanh"`` for ``np.tanh(z)``."""
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def is_slope(node: ast.AST) -> bool:
    """True for a complete derivative: ``1 - v**2``, ``f.derivative(z)``."""
    if any(word in called(node).lower() for word in _SLOPE_WORDS):
        return True
    return square_of(complement_of(node)) is not None


def logistic_pair(parts: Sequence[Part]) -> tuple[int, int] | None:
    """The positions of ``v`` and ``1 - v`` among the factors of a product."""
    for k, part in enumerate(parts):
        v = complement_of(part.node)
        for j, other in enumerate(parts):
            if v is not None and not part.inverse and not other.inverse and same(other.node, v):
                return j, k
    return None


def slopes(parts: Sequence[Part]) -> set[int]:
    """Which factors of a product are the derivative of an activation."""
    alone = {k for k, part in enumerate(parts) if is_slope(part.node)}
    return alone | set(logistic_pair(parts) or ())
