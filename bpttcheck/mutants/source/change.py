"""What an operator is: a rule that gives wrong ways to write one node of a backward pass."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bpttcheck.mutants.source.expressions import factors, is_product, is_slope, is_sum, slopes
from bpttcheck.mutants.source.scene import Scene


@dataclass(frozen=True)
class Site:
    """One node of the source, where it stands, and what is known when it runs.

    Args:
        path: from the function down to the node itself.
        scene: the variables just before its statement.
    """

    path: tuple[ast.AST, ...]
    scene: Scene

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
        label: what was done, in few words: ``"i -> f"``.
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
