"""The local variables of a backward pass just before a statement runs."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from bpttcheck.contract import is_cell

MISSING: Any = object()
"""An unknown value."""

_NEVER_SWAPPED = (int, str, dict, tuple, list, type, ModuleType, type(None))


@dataclass(frozen=True)
class LocalsSnapshot:
    """Values of local variables, recorded once.

    Args:
        values: by name, for ordinary cotangents. Empty: the statement was never reached.
        at_rest: the same for cotangents of zero, which shows what depends on them.
        params: the parameters.
        given: the identities of the cotangents that the backward pass is given.
        definitions: for a variable that is assigned once, the expression.
    """

    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    at_rest: Mapping[str, Any] = field(default_factory=dict[str, Any])
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    given: frozenset[int] = frozenset()
    definitions: Mapping[str, ast.expr] = field(default_factory=dict[str, ast.expr])

    def value(self, node: ast.AST) -> Any:
        """The value of a variable, a field or an item; MISSING where it would take running code."""
        return _resolve(node, self.values)

    def is_cotangent(self, node: ast.AST) -> bool:
        """True if ``node`` is an array that vanishes with the cotangents."""
        now, rest = self.value(node), _resolve(node, self.at_rest)
        if not (_is_array(now) and _is_array(rest)):
            return False
        return bool(np.any(now)) and not np.any(rest)

    def is_given(self, node: ast.AST) -> bool:
        """True if ``node`` is a cotangent as it was passed in."""
        return id(self.value(node)) in self.given

    def linear(self, node: ast.AST) -> bool:
        """True if a cotangent stands anywhere in ``node``."""
        return any(self.is_cotangent(inner) for inner in ast.walk(node))

    def alike(self, a: ast.AST, b: ast.AST) -> bool:
        """True if ``b`` could be written for ``a`` by mistake and would change something.

        Arrays have one shape and are both cotangents as given, or neither depends on a cotangent;
        other values have one type.
        """
        here, there = self.value(a), self.value(b)
        if here is MISSING or there is MISSING or here is there:
            return False
        if not (_is_array(here) and _is_array(there)):
            return (
                type(here) is type(there)
                and not isinstance(here, _NEVER_SWAPPED)
                and not _is_array(here)
            )
        if here.shape != there.shape:
            return False
        if self.is_given(a) and self.is_given(b):
            return True
        return not self.is_cotangent(a) and not self.is_cotangent(b)

    def alternatives(self, node: ast.AST) -> list[ast.expr]:
        """The replacements that :meth:`alike` allows for a variable, a field or an item."""
        found: list[ast.expr] = []
        if isinstance(node, ast.Name):
            found = [ast.Name(name, ast.Load()) for name in self.values]
        elif isinstance(node, ast.Attribute):
            owner = self.value(node.value)
            # The attributes of the cell are its options and its methods, no part of the formulas.
            names = [] if is_cell(owner) else list(_fields(owner))
            found = [ast.Attribute(node.value, name, ast.Load()) for name in names]
        elif isinstance(node, ast.Subscript):
            keys = _keys(self.value(node.value))
            found = [ast.Subscript(node.value, ast.Constant(key), ast.Load()) for key in keys]
        return [other for other in found if self.alike(node, other)]


def _resolve(node: ast.AST, values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return values.get(node.id, MISSING)
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, values)
        if _is_array(owner):
            return owner.T if node.attr == "T" else MISSING
        return _fields(owner).get(node.attr, MISSING)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return _keys(_resolve(node.value, values)).get(node.slice.value, MISSING)
    return MISSING


def _fields(owner: Any) -> dict[str, Any]:
    """The fields of a NamedTuple or an instance; properties are not run."""
    if isinstance(owner, tuple):
        return {name: getattr(owner, name) for name in getattr(owner, "_fields", ())}
    return dict(getattr(owner, "__dict__", {}))


def _keys(owner: Any) -> dict[Any, Any]:
    if isinstance(owner, dict):
        return {k: v for k, v in owner.items() if isinstance(k, str | int)}
    return dict(enumerate(owner)) if isinstance(owner, tuple | list) else {}


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)
