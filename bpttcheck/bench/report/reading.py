"""Reads the file of a benchmark, and refuses what is none, in one line that says where."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from pathlib import Path
from typing import Any

from bpttcheck.bench.report.records import SCHEMA, SCHEMA_VERSION, Benchmark
from bpttcheck.errors import ContractError


def load(path: Path) -> Benchmark:
    """Read what ``bpttcheck bench`` wrote.

    Raises:
        ContractError: the file cannot be read, is damaged, of another schema, or holds no point.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ContractError(f"{path}: cannot be read: {why}") from error
    if not text.strip():
        raise ContractError(f"{path} is empty, expected a report.json of `bpttcheck bench`")
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ContractError(f"{path} is damaged, it is no JSON: {error}") from error
    return parse(document, str(path))


def parse(document: Any, name: str) -> Benchmark:
    """A benchmark from its JSON document.

    Args:
        document: what the JSON file holds.
        name: what to call it in an error.

    Raises:
        ContractError: it is no such document, one of another version, or one without a point.
    """
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ContractError(f"{name} is no report.json of `bpttcheck bench`: no schema {SCHEMA!r}")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ContractError(
            f"{name} has schema_version {version!r}, expected {SCHEMA_VERSION}: measure again with"
            " `bpttcheck bench`"
        )
    given = {key: value for key, value in document.items() if not key.startswith("schema")}
    found = _build(Benchmark, given, name)
    if not any(subject.points for subject in found.subjects):
        raise ContractError(f"{name} holds no measured point: there is nothing to show")
    return found


def _build(kind: Any, value: Any, where: str) -> Any:
    """``value`` as ``kind``, a record, a container or a plain type, or an error that says where."""
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _build(args[0], value, where)
    if origin is list and isinstance(value, list):
        return [_build(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: _build(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is Any:
        return value
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (int, str) and type(value) is kind:
        return value
    wanted = getattr(origin or kind, "__name__", str(kind))
    raise ContractError(f"{where} is {str(value)[:40]!r}, expected {wanted}: the file is damaged")


def _record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ContractError(f"{where} is no {kind.__name__}: the file is damaged")
    kinds = typing.get_type_hints(kind)
    missing = [field.name for field in dataclasses.fields(kind)
               if field.name not in value and _is_required(field)]  # fmt: skip
    if missing:
        raise ContractError(f"{where}.{missing[0]} is missing: the file is damaged")
    given = {name: k for name, k in kinds.items() if name in value}
    return kind(**{name: _build(k, value[name], f"{where}.{name}") for name, k in given.items()})


def _is_required(field: dataclasses.Field[Any]) -> bool:
    """False for what has a default: a file of an earlier version has no such entry."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
