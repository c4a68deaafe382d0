"""What every test of the project shares: pytester, and the Hypothesis profiles."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import settings

pytest_plugins = ["pytester"]

# `benchmarks` is imported from here, at the end: the package itself is the installed one.
sys.path.append(str(Path(__file__).parent))

settings.register_profile(
    "default", deadline=None, max_examples=50, derandomize=bool(os.environ.get("CI"))
)
settings.register_profile("nightly", deadline=None, max_examples=1000)
settings.load_profile("default")
