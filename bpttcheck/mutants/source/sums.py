"""Operators on sums: signs, missing terms, and what is added later."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bpttcheck.mutants.source.change import Example, Site, SourceChange, operator
from bpttcheck.mutants.source.expressions import (
    Part,
    is_product,
    is_slope,
    is_sum,
    negated,
    summed,
    terms,
    text,
)

_ROWS = {"d_a": (2, 3), "d_b": (2, 3)}


@operator(
    Example("d_h = d_a + d_b", "d_h = d_a - d_b", _ROWS),
    Example("d_h = d_a + d_b", "d_h = -d_a + d_b", _ROWS),
    Example("s = 1.0 - v", "s = 1.0 + v"),
    Example("s = -v + w", "s = v + w"),
)
def flip_sign(site: Site) -> Iterator[SourceChange]:
    """One term of a sum has the other sign."""
    node = site.node
    if not (isinstance(node, ast.BinOp) and is_sum(node) and site.on_top):
        return
    parts = terms(node)
    for k, part in enumerate(parts):
        flipped = [*parts[:k], Part(part.node, not part.inverse), *parts[k + 1 :]]
        code = "sign" if site.scene.linear(part.node) else site.slope_code
        sign = "+" if part.inverse else "-"
        yield SourceChange(summed(flipped), f"{sign} before {text(part.node)}", code)


@operator(
    Example("d_h = d_a + d_b", "d_h = d_b", _ROWS),
    Example("d_h = d_a - d_b", "d_h = -d_b", _ROWS),
    Example("s = 1.0 - v ** 2", "s = 1.0"),
)
def drop_term(site: Site) -> Iterator[SourceChange]:
    """One term of a sum is missing."""
    node = site.node
    if not (isinstance(node, ast.BinOp) and is_sum(node) and site.on_top):
        return
    parts = terms(node)
    for k, part in enumerate(parts):
        rest = summed([*parts[:k], *parts[k + 1 :]])
        code = "missing-path" if site.scene.linear(part.node) else site.slope_code
        yield SourceChange(rest, f"without the term {text(part.node)}", code)


@operator(
    Example("d_h = d_a @ W", "d_h = -(d_a @ W)", {"d_a": (2, 3), "W": (3, 3)}),
    Example("d_params = {'b': d_a.sum(axis=0)}", "d_params = {'b': -d_a.sum(axis=0)}", _ROWS),
)
def negate_value(site: Site) -> Iterator[SourceChange]:
    """What is assigned, stored under a key or returned has the other sign."""
    node, parent = site.node, site.parent
    if not isinstance(node, ast.BinOp | ast.Call) or not site.scene.linear(node):
        return
    returned = any(isinstance(above, ast.Return) for above in site.path)
    if not isinstance(parent, ast.Assign | ast.AnnAssign | ast.Dict) and not (
        returned and isinstance(parent, ast.Tuple | ast.Return)
    ):
        return
    if isinstance(parent, ast.Assign) and isinstance(parent.targets[0], ast.Tuple | ast.List):
        return
    yield SourceChange(negated(node), f"-({text(node)})", "sign")


@operator(Example("d_h = -d_a", "d_h = d_a", _ROWS))
def drop_minus(site: Site) -> Iterator[SourceChange]:
    """A minus is missing."""
    node = site.node
    if not (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)):
        return
    if isinstance(node.operand, ast.Constant) or is_sum(site.parent):
        return
    code = "sign" if site.scene.linear(node.operand) else site.slope_code
    yield SourceChange(node.operand, f"{text(node)} -> {text(node.operand)}", code)


@operator(
    Example("d_a += d_b", "pass", _ROWS),
    Example("d_a += d_b", "d_a -= d_b", _ROWS),
    Example("d_a += d_b", "d_a = d_b", _ROWS),
    Example("d_a *= 1 - c ** 2", "pass", {"d_a": (2, 3), "c": (2, 3)}),
)
def change_update(site: Site) -> Iterator[SourceChange]:
    """An update in place is missing, has the other sign, or overwrites what was there."""
    node = site.node
    if not isinstance(node, ast.AugAssign):
        return
    if isinstance(node.op, ast.Add | ast.Sub):
        linear = site.scene.linear(node.value)
        other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield SourceChange(None, "statement missing", "missing-path" if linear else "")
        flipped = ast.AugAssign(node.target, other, node.value)
        yield SourceChange(flipped, "other sign", "sign" if linear else "")
        yield SourceChange(ast.Assign([node.target], node.value), "= for the update", "")
    elif isinstance(node.op, ast.Mult | ast.Div):
        code = "wrong-derivative" if is_slope(node.value) or is_product(node.value) else ""
        yield SourceChange(None, "statement missing", code)


@operator(Example("d_a = d_a * d_b", "pass", _ROWS))
def drop_reassignment(site: Site) -> Iterator[SourceChange]:
    """A second assignment to a variable is missing."""
    node = site.node
    if not (isinstance(node, ast.Assign) and len(node.targets) == 1):
        return
    target = node.targets[0]
    if isinstance(target, ast.Name) and target.id in site.scene.values:
        yield SourceChange(None, "statement missing")
