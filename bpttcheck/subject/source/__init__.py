"""The user's own source: its functions, its constants, and which of its lines have run.

``user_code`` finds the functions of the hand-written code, ``integer_constants`` and
``float_constants`` the sizes and thresholds in them, and ``LineCoverage`` the lines of the backward
pass that no judged case ran, with the conditions that guard them.
"""

from __future__ import annotations

from bpttcheck.subject.source.constants import float_constants, integer_constants
from bpttcheck.subject.source.functions import UserCode, UserFunction, user_code
from bpttcheck.subject.source.lines import LineCoverage, Unreached, hints

__all__ = [
    "LineCoverage",
    "Unreached",
    "UserCode",
    "UserFunction",
    "float_constants",
    "hints",
    "integer_constants",
    "user_code",
]
