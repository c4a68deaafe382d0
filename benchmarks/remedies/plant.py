"""Planted bugs as source files: a cell's own file with one thing in its ``step_vjp`` changed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bpttcheck.mutants.source.edits import OPERATORS
from bpttcheck.mutants.source.planting import quiet
from bpttcheck.mutants.source.problems import compare, problem
from bpttcheck.mutants.source.reading import read
from bpttcheck.mutants.source.sites import observe, sites
from bpttcheck.remedy.backward import BackwardSource
from bpttcheck.remedy.patch import patched

_SIZES = ((2, 3), (5, 4), (4, 4), (1, 6))


def planted(cell: Any) -> Iterator[tuple[str, str, str]]:
    """Every changed file of a cell: what was changed, by which operator, and the text."""
    source = BackwardSource.of(cell)
    method = read(cell)
    with quiet():
        scenes = observe(method, cell, problem(cell, np.random.default_rng(1), (4, 4), 7))
    seen = {source.text}
    for site in sites(method.tree, scenes):
        for operator in OPERATORS:
            for change in operator.changes(site):
                done = patched(source.text, site.path, change.new)
                if done is not None and done[0] not in seen:
                    seen.add(done[0])
                    line = getattr(site.node, "lineno", 0)
                    yield f"line {line}: {change.label}", operator.name, done[0]


def in_a_file(cell: Any, text: str, path: Path) -> Any:
    """The same cell, of a module with this text."""
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    made: Any = object.__new__(getattr(module, type(cell).__name__))
    made.__dict__.update(vars(cell))
    return made


def is_right(cell: Any, other: Any) -> bool:
    """Whether both backward passes give the same on fresh problems."""
    with quiet():
        for seed in range(1000, 1004):
            for k, size in enumerate(_SIZES):
                rng = np.random.default_rng([seed, k])
                one = problem(cell, rng, size, 1 + k, scale=(1.0, 3.0, 0.1, 1.0)[k])
                right = one.run(cell, cell.step_vjp)
                if compare(right, one, cell, other.step_vjp) not in ("", "rounding"):
                    return False
    return True
