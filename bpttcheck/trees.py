"""Nested states: arrays inside tuples, NamedTuples and dicts, flattened in one fixed order.

JAX's pytrees sort the keys of a dict and JAX is expensive to import; here keys keep the order in
which the cell's author wrote them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Tree = Any


@dataclass(frozen=True)
class Structure:
    """The shape of a tree without its leaves.

    ``kind`` is ``"leaf"``, ``"tuple"``, ``"namedtuple"`` or ``"dict"``; ``type`` is the container's
    own type (a NamedTuple is rebuilt by it); ``keys`` are positions, field names or dict keys.
    """

    kind: str
    type: Any = None
    keys: tuple[Any, ...] = ()
    children: tuple[Structure, ...] = ()

    def unflatten(self, leaves: Sequence[Any]) -> Tree:
        """Rebuild the tree from ``leaves`` (in the order of :func:`flatten`)."""
        if len(leaves) != self.size:
            raise ValueError(f"got {len(leaves)} leaves, expected {self.size}")
        return _build(self, iter(leaves))

    @property
    def size(self) -> int:
        """The number of leaves."""
        return 1 if self.kind == "leaf" else sum(child.size for child in self.children)

    @property
    def paths(self) -> tuple[str, ...]:
        """One printable path for each leaf: ``""``, ``"[0]"``, ``".h"`` or ``"['h']"``, joined.

        >>> structure(({"h": 1, "c": 2}, 3)).paths
        ("[0]['h']", "[0]['c']", '[1]')
        """
        if self.kind == "leaf":
            return ("",)
        out: list[str] = []
        for key, child in zip(self.keys, self.children, strict=True):
            head = f".{key}" if self.kind == "namedtuple" else f"[{key!r}]"
            out.extend(head + tail for tail in child.paths)
        return tuple(out)

    def describe(self) -> str:
        """A short text such as ``tuple of 2`` or ``dict with keys 'h', 'c'``."""
        if self.kind == "leaf":
            return "a single array"
        if self.kind == "dict":
            return "a dict with keys " + ", ".join(map(repr, self.keys))
        name = self.type.__name__ if self.kind == "namedtuple" else "tuple"
        return f"a {name} of {len(self.children)}"


LEAF = Structure("leaf")


def _container(tree: Tree) -> str:
    """``"dict"``, ``"tuple"`` or ``""``; the usual types first, as it is called for every leaf."""
    if isinstance(tree, dict):
        return "dict"
    if isinstance(tree, tuple):
        return "tuple"
    return "dict" if not hasattr(tree, "dtype") and isinstance(tree, Mapping) else ""


def structure(tree: Tree) -> Structure:
    """The :class:`Structure` of ``tree``; everything that is not a container is a leaf."""
    kind = _container(tree)
    if kind == "tuple":
        children = tuple(structure(item) for item in tree)
        if hasattr(tree, "_fields"):
            return Structure("namedtuple", type(tree), tuple(getattr(tree, "_fields")), children)  # noqa: B009 - unknown to the type checker
        return Structure("tuple", tuple, tuple(range(len(tree))), children)
    if kind == "dict":
        children = tuple(structure(item) for item in tree.values())
        return Structure("dict", dict, tuple(tree), children)
    return LEAF


def flatten(tree: Tree) -> tuple[list[Any], Structure]:
    """The leaves of ``tree``, depth first in written order, and its structure.

    >>> leaves, shape = flatten({"h": 1, "c": (2, 3)})
    >>> leaves
    [1, 2, 3]
    >>> shape.unflatten([10, 20, 30])
    {'h': 10, 'c': (20, 30)}
    """
    return leaves(tree), structure(tree)


def leaves(tree: Tree) -> list[Any]:
    """The leaves of ``tree``, depth first in written order."""
    kind = _container(tree)
    if kind:
        items = tree.values() if kind == "dict" else tree
        return [leaf for item in items for leaf in leaves(item)]
    return [tree]


def map_leaves(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply ``function`` leaf by leaf.

    The trees have the same structure; the keys of a dict may come in another order.
    """
    kind = _container(tree)
    if not kind:
        return function(tree, *others)
    if kind == "dict":
        return {k: map_leaves(function, v, *[o[k] for o in others]) for k, v in tree.items()}
    items = [map_leaves(function, v, *[o[i] for o in others]) for i, v in enumerate(tree)]
    return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)


def _build(shape: Structure, source: Any) -> Tree:
    if shape.kind == "leaf":
        return next(source)
    items = [_build(child, source) for child in shape.children]
    if shape.kind == "dict":
        return dict(zip(shape.keys, items, strict=True))
    return shape.type(*items) if shape.kind == "namedtuple" else tuple(items)
