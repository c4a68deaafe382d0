"""Every benchmark can be imported: most are run by hand, and seldom."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
    if path.name != "__init__.py"
)


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_can_be_imported(name):
    importlib.import_module(name)


def test_problems_of_right_cells_are_counted_and_none_is_wrong(monkeypatch, capsys):
    module = importlib.import_module("benchmarks.false_alarms.__main__")
    monkeypatch.setattr("sys.argv", ["false_alarms", "--cases", "1", "elman"])
    monkeypatch.setattr(module, "REGIMES", ("ordinary",))
    module.main()
    assert "**0 false alarms in" in capsys.readouterr().out
