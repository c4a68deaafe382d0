"""Pages that are made from the code are current."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_diagnoses_is_current():
    spec = importlib.util.spec_from_file_location("make_diagnoses", DOCS / "make_diagnoses.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert (DOCS / "diagnoses.md").read_text() == maker.page(), "python docs/make_diagnoses.py"


@pytest.mark.parametrize("name", ["networks.md"])
def test_the_code_of_a_page_runs(name):
    page = (DOCS / name).read_text().replace("examples=20", "examples=2")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, name, "exec"), {})
