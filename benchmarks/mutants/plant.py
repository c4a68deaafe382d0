"""The self-test of one built-in, in a module that a new process can import."""

from __future__ import annotations

from typing import Any

from bpttcheck.cells import builtin
from bpttcheck.selftest import SelfTest, selftest


def plant(name: str, **options: Any) -> SelfTest:
    return selftest(builtin(name), **options)
