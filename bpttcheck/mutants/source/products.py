"""Operators on products: missing factors, powers, constants, derivatives of other activations."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bpttcheck.mutants.source.change import Example, Site, SourceChange, operator
from bpttcheck.mutants.source.expressions import (
    Part,
    called,
    complement_of,
    factors,
    is_product,
    logistic_pair,
    multiplied,
    slopes,
    square_of,
    text,
)

_ACTIVATIONS = ("tanh", "expit", "sigmoid", "relu", "softplus", "sin")


@operator(
    Example("d_z = d_h * i * (1 - i)", "d_z = d_h * i"),
    Example("d_z = d_h * i * (1 - i)", "d_z = i * (1 - i)"),
    Example("d_z = d_h / n", "d_z = d_h"),
)
def drop_factor(site: Site) -> Iterator[SourceChange]:
    """One factor of a product is missing."""
    node = site.node
    if not (isinstance(node, ast.BinOp) and is_product(node) and site.on_top):
        return
    parts = factors(node)
    of_slope = slopes(parts)
    for k, part in enumerate(parts):
        rest = [*parts[:k], *parts[k + 1 :]]
        if rest[0].inverse:
            continue
        code = "wrong-derivative" if k in of_slope else site.slope_code
        yield SourceChange(multiplied(rest), f"without the factor {text(part.node)}", code)


@operator(
    Example("d_z = d_h * (1.0 - c ** 2)", "d_z = d_h * (c * (1.0 - c))"),
    Example("d_z = d_h * i * (1.0 - i)", "d_z = d_h * (1.0 - i ** 2)"),
)
def other_derivative(site: Site) -> Iterator[SourceChange]:
    """The derivative of the logistic function stands for that of tanh, or the other way round."""
    node = site.node
    squared = complement_of(node)
    v = square_of(squared)
    if isinstance(node, ast.BinOp) and squared is not None and v is not None:
        logistic = ast.BinOp(v, ast.Mult(), ast.BinOp(node.left, ast.Sub(), v))
        yield SourceChange(logistic, f"{text(node)} -> {text(logistic)}", "wrong-derivative")
    if not (isinstance(node, ast.BinOp) and is_product(node) and site.on_top):
        return
    parts = factors(node)
    pair = logistic_pair(parts)
    if pair is None:
        return
    j, k = pair
    complement = parts[k].node
    assert isinstance(complement, ast.BinOp)
    square = ast.BinOp(parts[j].node, ast.Pow(), ast.Constant(2))
    tanh = ast.BinOp(complement.left, ast.Sub(), square)
    rest = [part for m, part in enumerate(parts) if m not in pair]
    wrong = multiplied([*rest, Part(tanh)]) if rest and not rest[0].inverse else tanh
    label = f"{text(parts[j].node)} * ({text(complement)}) -> {text(tanh)}"
    yield SourceChange(wrong, label, "wrong-derivative")


@operator(
    Example("s = 1.0 - v ** 2", "s = 1.0 - v"),
    Example("s = np.square(v)", "s = v"),
)
def drop_power(site: Site) -> Iterator[SourceChange]:
    """A power is missing."""
    node = site.node
    base: ast.expr | None = None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        base = node.left
    elif isinstance(node, ast.Call):
        base = square_of(node)
    if base is not None:
        yield SourceChange(base, f"{text(node)} -> {text(base)}", site.slope_code)


@operator(
    Example("s = 1.0 - v ** 2", "s = 2.0 - v ** 2"),
    Example("s = 1.0 - v ** 2", "s = 1.0 - v ** 3"),
    Example("s = 0.5 * v", "s = 1.0 * v"),
    Example("s = 0.0 + v", "s = 1.0 + v"),
)
def change_constant(site: Site) -> Iterator[SourceChange]:
    """A number is twice what it should be; an integer is one more."""
    node = site.node
    if not (isinstance(node, ast.Constant) and isinstance(site.parent, ast.BinOp)):
        return
    if any(isinstance(above, ast.Subscript) for above in site.path):
        return
    if isinstance(node.value, float):
        wrong = 2.0 * node.value if node.value else 1.0
    elif type(node.value) is int:
        wrong = node.value + 1
    else:
        return
    yield SourceChange(ast.Constant(wrong), f"{node.value!r} -> {wrong!r}", site.slope_code)


@operator(Example("s = 1 - np.tanh(z) ** 2", "s = 1 - z ** 2"))
def drop_activation(site: Site) -> Iterator[SourceChange]:
    """The pre-activation stands for the activation."""
    node = site.node
    if isinstance(node, ast.Call) and called(node) in _ACTIVATIONS and len(node.args) == 1:
        z = node.args[0]
        yield SourceChange(z, f"{text(node)} -> {text(z)}", site.slope_code)
