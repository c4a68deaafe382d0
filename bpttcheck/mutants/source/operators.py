"""Mutation operators: wrong ways to write one node. Those on names and positions."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from bpttcheck.mutants.source.expressions import (
    called,
    factors,
    is_product,
    is_slope,
    is_sum,
    slopes,
    text,
)
from bpttcheck.mutants.source.scene import LocalsSnapshot


@dataclass(frozen=True)
class Site:
    """One node of the source, its position, and the local variables when it runs.

    Args:
        path: from the function down to the node itself.
        scene: the variables just before its statement.
    """

    path: tuple[ast.AST, ...]
    scene: LocalsSnapshot

    @property
    def node(self) -> ast.AST:
        """The node."""
        return self.path[-1]

    @property
    def parent(self) -> ast.AST:
        """The node around it."""
        return self.path[-2]

    @property
    def on_top(self) -> bool:
        """False for the left part of a longer sum or product: the whole has its own site."""
        parent, node = self.parent, self.node
        longer = (is_sum(parent) and is_sum(node)) or (is_product(parent) and is_product(node))
        return not (longer and isinstance(parent, ast.BinOp) and parent.left is node)

    @property
    def in_slope(self) -> bool:
        """True inside the derivative of an activation."""
        for k, node in enumerate(self.path):
            if is_slope(node):
                return True
            if isinstance(node, ast.BinOp) and is_product(node):
                parts = factors(node)
                within = {id(parts[i].node) for i in slopes(parts)}
                if within & {id(inner) for inner in self.path[k:]}:
                    return True
        return False

    @property
    def slope_code(self) -> str:
        """``"wrong-derivative"`` inside the derivative of an activation, else no code."""
        return "wrong-derivative" if self.in_slope else ""


@dataclass(frozen=True)
class SourceChange:
    """A wrong node in place of the right one.

    Args:
        new: the wrong node; None: the statement is missing.
        label: a short description: ``"i -> f"``.
        diagnosis: the code that the change implies, or ``""``.
        least_B: the smallest batch that shows it.
    """

    new: ast.AST | None
    label: str
    diagnosis: str = ""
    least_B: int = 1


@dataclass(frozen=True)
class Example:
    """One change that an operator must find.

    Args:
        before: right source.
        after: one of the wrong sources made of it; ``"pass"`` for a missing statement.
        shapes: the shape of each variable, or a mapping of such for a dict. Names with ``d_`` in
            front are cotangents.
    """

    before: str
    after: str
    shapes: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Operator:
    """A rule of mutation.

    Args:
        name: what it is called.
        changes: every wrong way to write the node of a site.
        examples: what it does, in source.
    """

    name: str
    changes: Callable[[Site], Iterator[SourceChange]]
    examples: tuple[Example, ...]


def operator(*examples: Example) -> Callable[[Callable[[Site], Iterator[SourceChange]]], Operator]:
    """Make an operator of a function that yields changes."""

    def decorate(changes: Callable[[Site], Iterator[SourceChange]]) -> Operator:
        return Operator(changes.__name__, changes, examples)

    return decorate


_JOINING = ("concatenate", "hstack", "vstack", "stack", "column_stack", "block")
_SPLITTING = ("split", "array_split", "hsplit", "vsplit")
_ROW = (2, 3)


@operator(
    Example("d_g = d_c * i", "d_g = d_c * f", {"d_c": _ROW, "i": _ROW, "f": _ROW}),
    Example("d_c = d_a * params['p']", "d_c = d_a * params['q']",
            {"d_a": _ROW, "params": {"p": (3,), "q": (3,)}}),
)  # fmt: skip
def other_name(site: Site) -> Iterator[SourceChange]:
    """Another variable, field or key of the same shape replaces the right one."""
    node = site.node
    if not isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
        return
    if _is_written(site):
        return
    for other in site.scene.alternatives(node):
        yield SourceChange(other, f"{text(node)} -> {text(other)}", site.slope_code)


@operator(
    Example("d_h = d_a + d_b; d_c = d_h * o", "d_c = d_a * o",
            {"d_a": _ROW, "d_b": _ROW, "d_h": _ROW, "o": _ROW}),
)  # fmt: skip
def earlier_name(site: Site) -> Iterator[SourceChange]:
    """The value before its last change: an operand of what a variable was computed from."""
    node, scene = site.node, site.scene
    if not isinstance(node, ast.Name) or _is_written(site):
        return
    definition = scene.definitions.get(node.id)
    if definition is None or not scene.is_cotangent(node):
        return
    if is_sum(definition):
        code = "missing-path"
    else:
        code = "wrong-derivative" if slopes(factors(definition)) else ""
    shape = scene.value(node).shape
    for inner in ast.walk(definition):
        earlier = isinstance(inner, ast.Name) and inner.id != node.id and scene.is_cotangent(inner)
        if earlier and scene.value(inner).shape == shape:
            yield SourceChange(inner, f"{text(node)} -> {text(inner)}", code)


@operator(
    Example("d_a = np.concatenate([d_i, d_f, d_g])", "d_a = np.concatenate([d_f, d_i, d_g])",
            {"d_i": _ROW, "d_f": _ROW, "d_g": _ROW}),
)  # fmt: skip
def swap_blocks(site: Site) -> Iterator[SourceChange]:
    """Two blocks that are joined change places."""
    node = site.node
    if not isinstance(node, ast.List | ast.Tuple) or called(site.parent) not in _JOINING:
        return
    code = "swapped-gates" if site.scene.linear(node) else ""
    yield from _swapped(node, code, any_two=True)


@operator(
    Example("d_i, d_f = np.split(d_a, 2)", "d_f, d_i = np.split(d_a, 2)"),
    Example("d_h, d_c = d_state", "d_c, d_h = d_state"),
)
def swap_targets(site: Site) -> Iterator[SourceChange]:
    """Two variables change places where several are assigned at once."""
    node, parent = site.node, site.parent
    if not (isinstance(node, ast.List | ast.Tuple) and isinstance(node.ctx, ast.Store)):
        return
    if not isinstance(parent, ast.Assign) or isinstance(parent.value, ast.Tuple):
        return
    split = called(parent.value) in _SPLITTING
    yield from _swapped(node, "swapped-gates" if split else "", any_two=split)


@operator(
    Example("return d_params, (d_h, d_c), d_x", "return (d_params, (d_c, d_h), d_x)",
            {"d_h": _ROW, "d_c": _ROW, "d_x": (2, 5)}),
)  # fmt: skip
def swap_returned(site: Site) -> Iterator[SourceChange]:
    """Two arrays of one shape change places in what is returned."""
    node = site.node
    if not isinstance(node, ast.Tuple) or not isinstance(node.ctx, ast.Load):
        return
    if not any(isinstance(above, ast.Return) for above in site.path):
        return
    for j, k in combinations(range(len(node.elts)), 2):
        a, b = (getattr(site.scene.value(node.elts[m]), "shape", None) for m in (j, k))
        if a is not None and a == b:
            yield _swap(node, j, k, "")


@operator(
    Example("d_params = {'U': d_z.T @ x, 'W': d_z.T @ h}",
            "d_params = {'U': d_z.T @ h, 'W': d_z.T @ x}",
            {"params": {"U": (3, 3), "W": (3, 3)}}),
)  # fmt: skip
def swap_values(site: Site) -> Iterator[SourceChange]:
    """The gradients of two parameters of one shape change places."""
    node = site.node
    if not isinstance(node, ast.Dict):
        return
    keys: list[Any] = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
    shapes = [getattr(site.scene.params.get(key), "shape", None) for key in keys]
    for j, k in combinations(range(len(keys)), 2):
        if shapes[j] is None or shapes[j] != shapes[k]:
            continue
        values = list(node.values)
        values[j], values[k] = values[k], values[j]
        label = f"{keys[j]!r} <-> {keys[k]!r}"
        yield SourceChange(ast.Dict(node.keys, values), label, "swapped-gates")


def _is_written(site: Site) -> bool:
    """True inside the target of an assignment, where a replacement would be written to."""
    return any(isinstance(getattr(above, "ctx", None), ast.Store) for above in site.path)


def _swapped(node: ast.List | ast.Tuple, code: str, any_two: bool) -> Iterator[SourceChange]:
    for j, k in combinations(range(len(node.elts)), 2):
        if any_two or k == j + 1:
            yield _swap(node, j, k, code)


def _swap(node: ast.List | ast.Tuple, j: int, k: int, code: str) -> SourceChange:
    elements = list(node.elts)
    elements[j], elements[k] = elements[k], elements[j]
    label = f"{text(node.elts[j])} <-> {text(node.elts[k])}"
    return SourceChange(type(node)(elements, node.ctx), label, code)
