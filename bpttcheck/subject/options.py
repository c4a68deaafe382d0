"""The arguments of a run: which dtypes, how many examples, which seed, which checks."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bpttcheck.errors import ContractError
from bpttcheck.subject.user_code import guarded_inspection
from bpttcheck.subject.values import describe, is_a

DTYPES = ("float64", "float32")
ORACLES = ("jax", "torch", "differences")


@dataclass(frozen=True)
class Options:
    """The arguments of a run, validated.

    Args:
        dtypes: names from ``DTYPES``, each once, in the order given.
        examples: cases for each check, at least 1.
        seed: the run's seed, at least 0.
        checks: names of the checks to run, or None for all.
        expected_failures: check -> why it is expected to fail.
        strict: remarks on conduct are failures.
        require: oracles without which a gradient check is inconclusive.
    """

    dtypes: tuple[str, ...]
    examples: int
    seed: int
    checks: tuple[str, ...] | None = None
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False
    require: tuple[str, ...] = ()


def validate_options(
    *,
    dtypes: Any = DTYPES,
    examples: Any = 100,
    seed: Any = 0,
    checks: Any = None,
    expected_failures: Any = None,
    strict: Any = None,
    require: Any = (),
    known_checks: Iterable[str] = (),
) -> Options:
    """Validate and normalise the arguments of a run.

    Args:
        dtypes: one dtype or several: ``"float64"``, ``np.float32``, ``("float64", "float32")``.
        examples: cases for each check.
        seed: any integer from 0.
        checks: names of checks, or None for all.
        expected_failures: check -> reason, or None.
        strict: True or False; None: True if ``checks`` names some.
        require: oracles that must have judged, from ``ORACLES``.
        known_checks: the names that exist; without them any name is accepted.

    Returns:
        The :class:`Options`.

    Raises:
        ContractError: an argument has a value that is not allowed; the message lists the allowed.
    """
    known = tuple(known_checks)
    with guarded_inspection("", "the arguments"):
        return Options(
            _dtypes(dtypes),
            _whole(examples, "examples", 1, "; a report that ran no case is an error"),
            _whole(seed, "seed", 0, ""),
            None if checks is None else _checks(checks, known),
            _expected_failures(expected_failures, known),
            _strict(strict, checks),
            _require(require),
        )


def _error(name: str, value: Any, should: str) -> ContractError:
    said = repr(value) if type(value) in (str, int, float, bool) else describe(value)
    return ContractError(
        f"{name}={said} (type={type(value).__name__}), but should be {should}", item=name
    )


def _dtypes(given: Any) -> tuple[str, ...]:
    allowed = "'float64', 'float32' or both"
    alone = is_a(given, (str, type, np.dtype))
    if not alone and not is_a(given, (tuple, list)):
        raise _error("dtypes", given, allowed)
    found: dict[str, None] = {}
    for one in (given,) if alone else given:
        name = _dtype_name(one)
        if name not in DTYPES:
            raise _error("dtypes", one, allowed)
        found[name] = None
    if not found:
        raise _error("dtypes", given, f"{allowed}; a report that ran no case is an error")
    return tuple(found)


def _dtype_name(one: Any) -> str:
    if not is_a(one, (str, type, np.dtype)):
        return ""
    try:
        return np.dtype(one).name
    except TypeError:
        return ""


def _whole(value: Any, name: str, least: int, why: str) -> int:
    should = f"an integer from {least}{why}"
    if is_a(value, (bool, np.bool_)):
        raise _error(name, value, should)
    try:
        number = operator.index(value)
    except TypeError:
        raise _error(name, value, should) from None
    if number < least:
        raise _error(name, value, should)
    return number


def _checks(given: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    should = "names of checks" + (f" out of {', '.join(known)}" if known else "")
    if not is_a(given, (str, tuple, list, set, frozenset)):
        raise _error("checks", given, should)
    names = (given,) if is_a(given, str) else tuple(given)
    if not names:
        raise _error("checks", given, f"{should}; a report that ran no case is an error")
    for name in names:
        _require_known("checks", name, known)
    return tuple(dict.fromkeys(names))


def _strict(given: Any, checks: Any) -> bool:
    if given is None:
        return checks is not None
    if not is_a(given, bool):
        raise _error("strict", given, "True, False or None")
    return given


def _require(given: Any) -> tuple[str, ...]:
    should = "names of oracles out of " + ", ".join(ORACLES)
    if not is_a(given, (str, tuple, list, set, frozenset)):
        raise _error("require", given, should)
    names = (given,) if is_a(given, str) else tuple(given)
    for name in names:
        if name not in ORACLES:
            raise _error("require", name, should)
    return tuple(dict.fromkeys(names))


def _expected_failures(given: Any, known: tuple[str, ...]) -> dict[str, str]:
    if given is None:
        return {}
    if not is_a(given, dict):
        raise _error("expected_failures", given, "a dict from a check's name to the reason")
    for name, reason in given.items():
        _require_known("expected_failures", name, known)
        if not is_a(reason, str) or not reason.strip():
            raise _error(f"expected_failures[{name!r}]", reason, "the reason, a text")
    return dict(given)


def _require_known(argument: str, name: Any, known: tuple[str, ...]) -> None:
    if is_a(name, str) and (not known or name in known):
        return
    near = difflib.get_close_matches(name, known, n=1) if is_a(name, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    should = f"one of {', '.join(known)}{hint}" if known else "the name of a check"
    raise _error(argument, name, should)
