"""What every test of the project shares: pytester, and the Hypothesis profiles."""

from __future__ import annotations

import os

from hypothesis import settings

pytest_plugins = ["pytester"]

settings.register_profile(
    "default", deadline=None, max_examples=50, derandomize=bool(os.environ.get("CI"))
)
settings.register_profile("nightly", deadline=None, max_examples=1000)
settings.load_profile("default")
