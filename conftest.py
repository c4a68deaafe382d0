"""What every test of the project shares: pytester, and the Hypothesis profiles."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["pytester"]

# `benchmarks` is imported from here, at the end: the package itself is the installed one.
sys.path.append(str(Path(__file__).parent))

settings.register_profile(
    "default", deadline=None, max_examples=50, derandomize=bool(os.environ.get("CI"))
)
settings.register_profile("nightly", deadline=None, max_examples=1000)
settings.load_profile("default")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "nightly: a deeper sweep; runs under the profile nightly")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--hypothesis-profile") == "nightly":
        return
    skip = pytest.mark.skip(reason="a deeper sweep: pytest --hypothesis-profile=nightly")
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(skip)
