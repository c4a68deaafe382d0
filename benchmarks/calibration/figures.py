"""Figures that both parts of the page print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.calibration.experiments import Share


def share(rows: Any) -> float:
    """The share of rows that are true; 0 if there are none."""
    return float(np.mean(rows)) if len(rows) else 0.0


def quantile(values: Any, share: float) -> float:
    """The value that this share stays below; 0 if there are none."""
    return float(np.quantile(values, share)) if len(values) else 0.0


def counted(number: int, noun: str) -> str:
    """``"1 case"``, ``"2 cases"``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def inconclusive(shares: Sequence[Share], asked: float) -> int:
    """Checks of right cells that some block would make inconclusive."""
    return len({(s.cell, s.check) for s in shares if s.judged < max(1, asked * s.cases)})
