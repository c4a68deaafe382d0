"""The floors of the house: an import may only go down, and two wings never meet."""

import ast
import importlib.util
from pathlib import Path

import pytest

PACKAGE = Path(importlib.util.find_spec("bpttcheck").origin).parent

FLOORS = {
    "errors": 0, "trees": 0, "contract": 0, "calibration": 0, "lazy": 0, "jax_mode": 0,
    "warning_scope": 0, "activity": 0,
    "activations": 1, "losses": 1,
    "cells": 2, "adapt": 2, "mutants": 2,
    "bptt": 3, "networks": 3, "on_jax": 3, "oracles": 3,
    "subject": 4, "results": 5, "problems": 6, "strategies": 6, "judge": 7, "diagnose": 8,
    "verify": 9, "replay": 10,
    "bench": 11, "selftest": 11,
    "config": 12, "cli": 12, "pytest_plugin": 12, "__init__": 12, "__main__": 12,
}  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(dotted):
    """The floor's key for ``bpttcheck.judge.run`` or for a path inside the package."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(source):
    """Dotted names imported anywhere in the source, late imports included, typing-only ones not."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "bpttcheck":
                yield from (f"bpttcheck.{alias.name}" for alias in node.names)


def violations(name, source):
    here = room(name)
    for target in imports(source):
        if not target.startswith("bpttcheck.") or room(target) not in FLOORS:
            continue
        there = room(target)
        if FLOORS[there] > FLOORS[here]:
            yield f"{name} imports {target}: up from floor {FLOORS[here]} to {FLOORS[there]}"
        if {here, there} in [{wing, "oracles"} for wing in ("bptt", "networks", "on_jax")]:
            yield f"{name} imports {target}: the two wings must stay independent"


def dotted(path):
    return ".".join(("bpttcheck", *path.relative_to(PACKAGE).with_suffix("").parts))


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_import_goes_up(path):
    if path == PACKAGE / "__init__.py":
        return
    assert list(violations(dotted(path), path.read_text())) == []


def test_every_room_has_a_floor():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert rooms <= set(FLOORS)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("bpttcheck.errors", "from bpttcheck.judge.run import Run"),
        ("bpttcheck.bptt.unroll", "import bpttcheck.oracles.tracer.trace"),
        (
            "bpttcheck.oracles.tracer.trace",
            "def f():\n    from bpttcheck.bptt.unroll import unroll",
        ),
        ("bpttcheck.judge.run", "from bpttcheck import cli"),
    ],
)
def test_a_planted_import_that_goes_up_is_found(module, line):
    assert list(violations(module, line))
