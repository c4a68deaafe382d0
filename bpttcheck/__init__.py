"""Tells whether a hand-derived backpropagation through time is right, and if not, where and why.

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpttcheck.adapt.definitions import defs
    from bpttcheck.adapt.functions import in_module
    from bpttcheck.bench.in_pytest import parametrize_with_benchmarks
    from bpttcheck.bptt.backpropagate import backpropagate
    from bpttcheck.bptt.unroll import unroll
    from bpttcheck.contract import Cell, Layer
    from bpttcheck.derivation.derivation import Derivation, derive
    from bpttcheck.errors import BpttcheckError, ContractError, GradientMismatch
    from bpttcheck.pytest_plugin import parametrize_with_checks
    from bpttcheck.results.records import Verdict
    from bpttcheck.results.report import Report
    from bpttcheck.subject.subject import Subject
    from bpttcheck.verify.check import check
    from bpttcheck.verify.functions import check_grad, check_object, check_vjp

__version__ = "0.1.0"

__all__ = [
    "BpttcheckError",
    "Cell",
    "ContractError",
    "Derivation",
    "GradientMismatch",
    "Layer",
    "Report",
    "Subject",
    "Verdict",
    "backpropagate",
    "check",
    "check_grad",
    "check_object",
    "check_vjp",
    "defs",
    "derive",
    "in_module",
    "parametrize_with_benchmarks",
    "parametrize_with_checks",
    "unroll",
]

_HOMES = {
    "BpttcheckError": "errors",
    "Cell": "contract",
    "ContractError": "errors",
    "Derivation": "derivation.derivation",
    "GradientMismatch": "errors",
    "Layer": "contract",
    "Report": "results.report",
    "Subject": "subject.subject",
    "Verdict": "results.records",
    "backpropagate": "bptt.backpropagate",
    "check": "verify.check",
    "check_grad": "verify.functions",
    "check_object": "verify.functions",
    "check_vjp": "verify.functions",
    "defs": "adapt.definitions",
    "derive": "derivation.derivation",
    "in_module": "adapt.functions",
    "parametrize_with_benchmarks": "bench.in_pytest",
    "parametrize_with_checks": "pytest_plugin",
    "unroll": "bptt.unroll",
}

_MODULES = (
    "activations", "adapt", "bench", "bptt", "cells", "deferred", "losses", "mutants", "networks",
    "on_jax", "oracles", "remedy", "replay", "selftest", "strategies",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"bpttcheck.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"bpttcheck.{name}")
    else:
        raise AttributeError(f"module 'bpttcheck' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, "__version__"})
