"""Every exception that bpttcheck raises on purpose.

Each message says what was given, what was expected, and what to do about it.
This module imports nothing heavy, so that naming an error costs nothing.
"""

from __future__ import annotations

from typing import Any


class BpttcheckError(Exception):
    """The base of every exception raised here on purpose."""


class ContractError(BpttcheckError):
    """A cell, a layer or an argument breaks the contract.

    Args:
        message: what was given, what was expected, what is likely meant.
        method: the method at fault (``"step_vjp"``), or ``""`` for an argument.
        item: the item at fault (``"d_params['W']"``), or ``""``.
    """

    def __init__(self, message: str, *, method: str = "", item: str = "") -> None:
        super().__init__(message)
        self.method = method
        self.item = item


class OutsideDomain(ContractError):
    """The subject rejects the values of a problem, although it runs at the same sizes.

    Its forward pass raises there, which says nothing about its gradient.
    """


class GradientMismatch(BpttcheckError, AssertionError):
    """A check other than ``contract`` failed; the report says which, where and by how much.

    Args:
        message: the report as text.
        report: the whole :class:`bpttcheck.Report`.
    """

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


class InternalError(BpttcheckError):
    """An internal error of bpttcheck; it implies no verdict on the user's code.

    Args:
        what: the activity, such as ``"tracing the step"``.
        error: what was raised.
    """

    def __init__(self, what: str, error: BaseException) -> None:
        text = (str(error).strip() or "no message").splitlines()[0]
        super().__init__(
            f"internal error while {what}: {type(error).__name__}: {text}; this is a defect of "
            "bpttcheck, not of your code: please report it with the traceback "
            "(BPTTCHECK_DEBUG=1 raises it)"
        )
        self.what = what


class Declined(BpttcheckError):
    """An oracle cannot judge this function: an abstention, not a verdict.

    Args:
        what: what cannot be judged (``"`if` on a value that depends on the input"``).
        where: the line of user code, ``"cell.py:12: if z.sum() > 0:"``, or ``""``.
        remedy: what to write instead, or ``""``.
        by_value: True if the code asks for a value that a point would give, such as an `if`.
    """

    def __init__(
        self, what: str, *, where: str = "", remedy: str = "", by_value: bool = False
    ) -> None:
        parts = [what]
        if where:
            parts.append(f"at {where}")
        if remedy:
            parts.append(f"instead: {remedy}")
        super().__init__("; ".join(parts))
        self.what = what
        self.where = where
        self.remedy = remedy
        self.by_value = by_value
