"""Whatever a page tells its reader to import is there, and an index exports it.

A name with a path of its own (``bpttcheck.bptt.flow.flow``) is public if its module is one of the
few that stand for themselves.
"""

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

import bpttcheck

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# The derivations are judged by the parts of the checker, one by one: no example of its use.
EXAMPLES = [p for p in sorted((ROOT / "examples").rglob("*.py")) if "derivations" not in p.parts]

# Modules that are imported from by their own path: each tells one thing, which has its name.
OF_THEIR_OWN = {
    "bpttcheck.activations", "bpttcheck.selftest", "bpttcheck.strategies", "bpttcheck.errors",
    "bpttcheck.contract", "bpttcheck.bptt.flow", "bpttcheck.bptt.real_time",
    "bpttcheck.bptt.sum_over_paths", "bpttcheck.bptt.unroll", "bpttcheck.bptt.backpropagate",
}  # fmt: skip
# For those who work on bpttcheck itself.
INSIDE = {"bpttcheck.oracles.autodiff.autodiff.Autodiff", "bpttcheck.on_jax.form.JaxCell"}


def spoken_of(text):
    """Dotted names of the package in a text: ``bpttcheck.cells.LSTM``."""
    found = re.findall(r"\bbpttcheck(?:\.[A-Za-z_]\w*)+", text)
    return {name for name in found if not name.endswith((".py", ".md", ".yml", ".toml"))}


def imported(source):
    """``module.name`` for each ``from module import name`` of the package."""
    return {
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bpttcheck"
        for alias in node.names
    }


def of_a_page(path):
    text = path.read_text(encoding="utf-8")
    found = spoken_of(text)
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        lines = [line.removeprefix(">>> ").removeprefix("... ") for line in block.splitlines()]
        froms = [line for line in lines if line.startswith("from bpttcheck")]
        found |= imported("\n".join(froms))
    return found


def is_package(name):
    try:
        return hasattr(importlib.import_module(name), "__path__")
    except ImportError:
        return False


def trouble(name):
    """Why ``name`` is not public, or ``""``."""
    if name in INSIDE or name in OF_THEIR_OWN:
        return ""
    parent, _, last = name.rpartition(".")
    try:
        module = importlib.import_module(parent)
    except ImportError:
        return trouble(parent)  # an attribute of what is public
    if hasattr(module, "__path__") and is_package(name):
        return ""
    if not hasattr(module, last):
        return f"{parent} has no {last}"
    if isinstance(getattr(module, last), ModuleType):
        return ""
    if parent in OF_THEIR_OWN:
        return ""
    first = name.split(".")[1]
    inside = parent != "bpttcheck" and first not in bpttcheck._MODULES
    if inside or last not in getattr(module, "__all__", ()):
        return f"{parent} does not export {last}"
    return ""


@pytest.mark.parametrize("path", [*PAGES, *EXAMPLES], ids=lambda path: path.stem)
def test_what_a_page_names_is_public(path):
    text = path.read_text(encoding="utf-8")
    names = of_a_page(path) if path.suffix == ".md" else imported(text)
    assert {name: why for name in names if (why := trouble(name))} == {}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bpttcheck.cells.LSTM", ""),
        ("bpttcheck.check", ""),
        ("bpttcheck.bptt.Truncated", ""),
        ("bpttcheck.bptt.flow.flow", ""),
        ("bpttcheck.cells.Nothing", "has no Nothing"),
        ("bpttcheck.judge.run.Run", "does not export"),
        ("bpttcheck.trees.leaves", "does not export"),
    ],
)
def test_what_is_not_public_would_be_seen(name, says):
    assert says in trouble(name)
    assert bool(trouble(name)) is bool(says)


@pytest.mark.parametrize("name", ["bptt", "selftest", "bench", "oracles", "replay", "cells"])
def test_packages_are_there_after_one_import(name):
    assert isinstance(getattr(bpttcheck, name), ModuleType)
    assert name in dir(bpttcheck)
