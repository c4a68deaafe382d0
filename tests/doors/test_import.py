"""What an import costs: nothing heavy until something is checked."""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest

HEAVY = "{'numpy', 'scipy', 'jax', 'hypothesis', 'torch', 'matplotlib'}"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def milliseconds(prepare: str, statement: str) -> float:
    """Processor time, which other work on the machine hardly changes: the median of five runs."""
    code = f"""
import time
{prepare}
start = time.process_time()
{statement}
print((time.process_time() - start) * 1e3)
"""
    return statistics.median(float(run(code)) for _ in range(5))


@pytest.mark.parametrize(
    ("module", "more"),
    [
        ("bpttcheck", {"pytest", "click"}),
        ("bpttcheck.config", {"pytest", "click"}),
        ("bpttcheck.pytest_plugin", {"click"}),
        ("bpttcheck.cli", {"pytest"}),
        ("bpttcheck.results.text", {"pytest", "click"}),
    ],
)
def test_an_import_brings_nothing_heavy(module: str, more: set[str]) -> None:
    code = f"import sys, {module}; print(sorted(({HEAVY} | {more}) & set(sys.modules)))"
    assert run(code) == "[]"


def test_importing_the_package_takes_less_than_50_ms() -> None:
    assert milliseconds("", "import bpttcheck") < 50


@pytest.mark.nightly  # milliseconds by the clock: on a machine that does nothing else
def test_the_plugin_adds_less_than_20_ms_to_pytest() -> None:
    assert milliseconds("import pytest", "import bpttcheck.pytest_plugin") < 20


def test_the_test_can_fail() -> None:
    code = f"import sys, numpy; print(sorted({HEAVY} & set(sys.modules)))"
    assert run(code) == "['numpy']"
