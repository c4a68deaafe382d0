"""Planted bugs: a catalogue of the mistakes that people make in a backward pass by hand.

Adding a family takes a function in the file of its kind and its line in ``_HOMES``.

>>> from bpttcheck import cells, mutants
>>> wrong = mutants.catalogue(cells.Elman(), families=("sign",))[0]
>>> wrong.name
"sign of d_params['U']"
>>> cell = wrong.plant(cells.Elman())
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bpttcheck.errors import ContractError

if TYPE_CHECKING:
    from bpttcheck.mutants.base import Mutant

__all__ = ["FAMILIES", "SOURCE", "catalogue"]

_HOMES = {
    "sign": "values",
    "scale": "values",
    "transposed": "axes",
    "path": "steps",
    "truncated": "steps",
    "terms": "steps",
    "records": "steps",
    "initial_state": "steps",
    "masks": "steps",
    "swapped": "axes",
    "batch": "axes",
    "entry": "values",
    "clipped": "values",
    "precision": "values",
    "activation": "values",
    "conditional": "rare",
    "sizes": "rare",
    "values": "rare",
    "magnitudes": "rare",
    "layouts": "axes",
    "public": "public",
    "impure": "conduct",
    "aliasing": "conduct",
    "uninitialised": "conduct",
}

FAMILIES = tuple(_HOMES)
"""The families that wrap a backward pass; each is a function in the file of its kind."""

# These run a layer step by step, which is another layer where later steps or windows matter.
_OF_THE_LOOP = ("truncated", "terms", "records", "masks", "public")

SOURCE = "source"
"""The family that changes the text of a cell's ``step_vjp``; only where its source can be read."""


def __getattr__(name: str) -> Any:
    if name not in ("SubjectInfo", "VjpCall", "Mutant", "VjpResult", "anatomy", "planted"):
        raise AttributeError(f"module 'bpttcheck.mutants' has no attribute {name!r}")
    return getattr(importlib.import_module("bpttcheck.mutants.base"), name)


def catalogue(
    target: Any,
    *,
    families: Sequence[str] | None = None,
    sizes: tuple[tuple[int, int], ...] | None = None,
) -> tuple[Mutant, ...]:
    """Every mutant that makes sense for ``target``.

    Args:
        target: a right cell, layer or function; in a function only its source is changed.
        families: names out of :data:`FAMILIES`, and :data:`SOURCE`; None: all but the latter. Those
            that run a layer step by step are left out for one that says that this is another
            layer (``causal`` or ``splits_in_time`` is False).
        sizes: allowed ``(n_in, n_hidden)`` of the target; None: any.

    Returns:
        The mutants, family by family; their names are unique.

    Raises:
        ContractError: a family is not known, or ``target`` cannot be run.
    """
    from bpttcheck.mutants.base import anatomy
    from bpttcheck.mutants.source import source_mutants
    from bpttcheck.traits import Traits

    chosen = FAMILIES if families is None else tuple(dict.fromkeys(families))
    unknown = [family for family in chosen if family not in (*FAMILIES, SOURCE)]
    if unknown or isinstance(families, str):
        raise ContractError(
            f"families={families!r}, but should be a list of names out of "
            f"{', '.join((*FAMILIES, SOURCE))}",
            item="families",
        )
    traits = Traits.of(target)
    if traits.signature is not None:
        return _of_function(target, families)
    parts = anatomy(target, sizes)
    if not (traits.causal and traits.splits_in_time):
        chosen = tuple(family for family in chosen if family not in _OF_THE_LOOP)
    found: list[Mutant] = []
    for family in chosen:
        if family == SOURCE:
            found += source_mutants(target, sizes=sizes)
            continue
        home = importlib.import_module(f"bpttcheck.mutants.{_HOMES[family]}")
        found += getattr(home, family)(parts)
    return tuple(found)


def _of_function(target: Any, families: Sequence[str] | None) -> tuple[Mutant, ...]:
    """The mutants of a function's source: no family knows where its steps and blocks are."""
    from bpttcheck.mutants.source.functions import function_mutants

    others = [family for family in families or () if family != SOURCE]
    if others:
        raise ContractError(
            f"families={families!r}, but {target.name} is a function, in which only the family "
            f"{SOURCE!r} is planted",
            item="families",
        )
    return function_mutants(target)
