"""Every example is right, and is checked through the public door only."""

import ast
import importlib.util
from pathlib import Path

import pytest

import bpttcheck

EXAMPLES = Path(__file__).parents[2] / "examples"
CELLS = {"leaky.py": "Leaky"}


def test_every_cell_has_a_row():
    assert {p.name for p in EXAMPLES.glob("*.py")} == set(CELLS)


@pytest.mark.parametrize("name", CELLS)
def test_an_example_passes(name):
    spec = importlib.util.spec_from_file_location(f"example_{name[:-3]}", EXAMPLES / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert bpttcheck.check(getattr(module, CELLS[name])(), examples=8).passed


@pytest.mark.parametrize("name", CELLS)
def test_an_example_imports_nothing_private(name):
    for node in ast.walk(ast.parse((EXAMPLES / name).read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("bpttcheck")
