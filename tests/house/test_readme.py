"""What README.md shows is what happens."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

import bpttcheck

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def block(start):
    return next(text for _, text in BLOCKS if text.startswith(start))


def load(text, folder, name):
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cell_of_the_readme_passes(tmp_path):
    leaky = load(block("# leaky.py"), tmp_path, "leaky_of_the_readme")
    assert bpttcheck.check(leaky.Leaky(), examples=10).passed


def test_the_failure_of_the_readme_is_the_one_that_is_printed(tmp_path):
    wrong = block("# leaky.py").replace(' + d * params["a"], d_z', ", d_z")
    cell = load(wrong, tmp_path, "wrong").Leaky()
    text = str(bpttcheck.check(cell, raises=False))
    shown = block("$ bpttcheck verify wrong.py:Leaky").splitlines()[1:]
    printed = text.splitlines()
    for line in shown:
        if not re.search(r"\d\.\d|e[+-]?\d|\d+ cases", line):  # numbers differ between machines
            assert line in printed
    found = re.search(r"hand +(\S+)\n +JAX +(\S+)", text)
    expected = re.search(r"hand +(\S+)\n +JAX +(\S+)", "\n".join(shown))
    for a, b in zip(found.groups(), expected.groups(), strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-6)


def test_every_link_leads_somewhere():
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_settings_of_the_readme_are_known():
    from bpttcheck.config import Settings

    table = tomllib.loads(block("[tool.bpttcheck]"))["tool"]["bpttcheck"]
    assert set(table) <= set(Settings.__dataclass_fields__)


def test_ci_runs_the_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    for command in ('pip install ".[dev]" && pytest', "pip install . && bpttcheck verify"):
        assert f"\n{command}\n" in README
        assert re.sub(r"([.\[\]])", r"\\\1", command).split(" &&")[0] in script
