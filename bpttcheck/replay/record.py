"""A stored failure as a record, written to two files and read again."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from bpttcheck import __version__
from bpttcheck.replay.problem import (
    KINDS,
    SerializedProblem,
    check_params,
    check_shape,
    names,
    pack,
    size,
    unpack,
)
from bpttcheck.results.records import Case, Diagnosis, Finding, Measured
from bpttcheck.verify.checks import NAMES

_LONGEST_TEXT = 20_000
_MOST_DIMENSIONS = 32


def keys(record: Any, expected: tuple[str, ...]) -> None:
    """Raise unless it is an object with exactly these keys."""
    if not isinstance(record, dict):
        raise ValueError(f"{type(record).__name__} where an object was expected")
    missing = [key for key in expected if key not in record]
    unknown = [key for key in record if key not in expected]
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"has the unknown key {unknown[0]!r:.40}"
        raise ValueError(f"it {what}")


def text(record: Mapping[str, Any], key: str) -> str:
    """A stored text without control characters."""
    value = record[key]
    if type(value) is not str or value != clean(value):
        raise ValueError(f"{key} is not plain text")
    return value


def clean(text: str) -> str:
    """Text without control characters: unprintable ones are escaped."""
    plain = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    return plain if len(plain) <= _LONGEST_TEXT else plain[: _LONGEST_TEXT - 4] + " ..."


def natural(record: Mapping[str, Any], key: str) -> int:
    """A natural number."""
    value = record[key]
    if type(value) is not int or value < 0:
        raise ValueError(f"{key}={value!r:.40}, expected a natural number")
    return value


def naturals(key: str, values: Any) -> tuple[int, ...]:
    """A short list of natural numbers."""
    if not isinstance(values, list) or len(values) > _MOST_DIMENSIONS:
        raise ValueError(f"{key} is not a short list of natural numbers")
    return tuple(natural({key: value}, key) for value in values)


def number_to_json(value: float | None) -> float | str | None:
    """A number for JSON: NaN and infinities as text."""
    if value is None or math.isfinite(value):
        return None if value is None else float(value)
    return str(float(value))  # JSON has no representation of these


def number(key: str, value: Any) -> float | None:
    """A number, or None."""
    if type(value) is str and value in ("nan", "inf", "-inf"):
        return float(value)
    if value is not None and type(value) is not float:
        raise ValueError(f"{key}={value!r:.40}, expected a number")
    return value


def measured(key: str, value: Any) -> Measured | None:
    """A value with its error, or None."""
    if value is None:
        return None
    numbers = [number(key, v) for v in value] if isinstance(value, list) else []
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        raise ValueError(f"{key} is not a value with its error")
    return Measured(numbers[0], numbers[1])


def one_of(key: str, value: Any, allowed: tuple[str, ...]) -> str:
    """One of the allowed texts."""
    if type(value) is not str or value not in allowed:
        raise ValueError(f"{key}={value!r:.40}, expected one of {', '.join(allowed)}")
    return value


def to_json(finding: Finding) -> dict[str, Any]:
    """The finding as plain JSON values."""
    numbers = ("hand", "ratio", "limit", "relative_error")
    measured = ("jax", "finite_difference", "comparison")
    record: dict[str, Any] = {
        name: clean(getattr(finding, name))
        for name in ("check", "method", "block", "message", "exception")
    }
    record["case"] = None if finding.case is None else _plain(finding.case)
    record["entry"] = None if finding.entry is None else [int(i) for i in finding.entry]
    record["time_step"] = None if finding.time_step is None else int(finding.time_step)
    record |= {name: number_to_json(getattr(finding, name)) for name in numbers}
    for name in measured:
        side: Measured | None = getattr(finding, name)
        values = None if side is None else (side.value, side.error)
        record[name] = None if values is None else [number_to_json(v) for v in values]
    record["diagnoses"] = [[clean(d.code), clean(d.sentence)] for d in finding.diagnoses]
    return record


def from_json(record: Any) -> Finding:
    """A finding from what :func:`to_json` gave; a ValueError for anything else."""
    keys(record, (
        "check", "method", "block", "message", "exception", "case", "entry", "time_step", "hand",
        "ratio", "limit", "relative_error", "jax", "finite_difference", "comparison", "diagnoses",
    ))  # fmt: skip
    diagnoses = record["diagnoses"]
    pairs = isinstance(diagnoses, list) and all(
        isinstance(pair, list) and len(pair) == 2 for pair in diagnoses
    )
    if not pairs:
        raise ValueError("diagnoses is not a list of codes and sentences")
    return Finding(
        check=one_of("check", record["check"], NAMES),
        method=text(record, "method"),
        block=text(record, "block"),
        message=text(record, "message"),
        case=None if record["case"] is None else _case(record["case"]),
        entry=None if record["entry"] is None else naturals("entry", record["entry"]),
        time_step=None if record["time_step"] is None else natural(record, "time_step"),
        hand=number("hand", record["hand"]),
        jax=measured("jax", record["jax"]),
        finite_difference=measured("finite_difference", record["finite_difference"]),
        ratio=number("ratio", record["ratio"]),
        limit=number("limit", record["limit"]),
        relative_error=number("relative_error", record["relative_error"]),
        exception=text(record, "exception"),
        diagnoses=tuple(
            Diagnosis(text({"code": code}, "code"), text({"sentence": words}, "sentence"))
            for code, words in diagnoses
        ),
        comparison=measured("comparison", record["comparison"]),
    )


def _plain(case: Case) -> dict[str, Any]:
    """A case of a cell or a layer, which has no letters."""
    return {key: value for key, value in asdict(case).items() if key != "letters"}


def _case(record: Any) -> Case:
    keys(record, tuple(f.name for f in fields(Case) if f.name != "letters"))
    index = record["index"]
    return Case(
        seed=natural(record, "seed"),
        index=-1 if index == -1 and type(index) is int else natural(record, "index"),
        T=natural(record, "T"),
        B=natural(record, "B"),
        n_in=natural(record, "n_in"),
        n_hidden=natural(record, "n_hidden"),
        dtype=one_of("dtype", record["dtype"], ("float64", "float32")),
        mask=text(record, "mask"),
        regime=text(record, "regime"),
    )


FORMAT = "bpttcheck failure"
SCHEMA_VERSION = 1
ID = re.compile(r"[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*-[0-9a-f]{6}")

OF_A_FUNCTION = (1, 1, 0)
"""The shape of ``xs`` where the problem is one of a function, whose inputs are all parameters."""

Expected = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]


@dataclass(frozen=True)
class Stored:
    """One failure as it is stored on disk.

    Args:
        subject: the subject's name.
        target: the command line argument that named it, such as ``"cell.py:MyCell"``, or None.
        version: the version of bpttcheck that stored it.
        seed: the run's seed.
        examples: the run's number of examples.
        dtypes: the run's dtypes.
        finding: the finding.
        flat: the problem's arrays; None for a failure without a problem.
        path: its JSON file.
        function: what the command line said of a function, such as its signature.
    """

    subject: str
    target: str | None
    version: str
    seed: int
    examples: int
    dtypes: tuple[str, ...]
    finding: Finding
    flat: SerializedProblem | None
    path: Path = field(default=Path(), compare=False)
    function: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_function(self) -> bool:
        """Whether its problem is one of a function."""
        return self.flat is not None and self.flat.arrays["xs"].shape == OF_A_FUNCTION

    @property
    def id(self) -> str:
        """A short id, equal for equal failures: subject, check, block and a hash of these.

        Two subjects of one name in files of different names have different ids.
        """
        f = self.finding
        words = [_slug(self.subject).lower() or "cell", f.check, _slug(f.block) or "all"]
        same: list[Any] = [self.subject, f.check, f.method, f.block]
        same += [Path(self.target.partition(":")[0]).stem] if self.target else []
        if self.flat is None:
            same += [self.seed, self.examples, list(self.dtypes)]
        else:
            same += [None if f.case is None else _plain(f.case), list(self.flat.params)]
            same += [self.flat.state, hashlib.sha256(pack(self.flat.arrays)).hexdigest()]
        return "-".join([*words, _digest(same)[:6]])

    def files(self) -> tuple[str, bytes]:
        """The JSON and the ``.npz``, which is empty without a problem."""
        packed = b"" if self.flat is None else pack(self.flat.arrays)
        record: dict[str, Any] = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "bpttcheck": self.version,
            "id": self.id,
            "subject": self.subject,
            "target": self.target,
            "seed": self.seed,
            "examples": self.examples,
            "dtypes": list(self.dtypes),
            "finding": to_json(self.finding),
            "problem": None if self.flat is None else _flat_to_json(self.flat, packed),
        }
        if self.function:
            record["function"] = dict(self.function)
        record["sha256"] = _digest(record)
        return _lines(record) + "\n", packed


def of(
    report: Any,
    finding: Finding,
    target: str | None,
    flat: SerializedProblem | None,
    function: Mapping[str, str] | None = None,
) -> Stored:
    """The record of one finding of a report."""
    return Stored(
        subject=clean(report.subject),
        target=None if target is None else clean(target),
        version=__version__,
        seed=report.seed,
        examples=report.examples,
        dtypes=tuple(report.dtypes),
        finding=from_json(to_json(finding)),  # as it will be read
        flat=flat,
        function={name: clean(value) for name, value in (function or {}).items()},
    )


def parse(document: str, packed: bytes | None) -> Stored:
    """The record in a JSON text and the bytes of its ``.npz``.

    Raises:
        ValueError: anything in them is not as it was written; the text names it.
    """
    try:
        record = json.loads(document, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not a JSON document ({error})") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError("it was not stored by bpttcheck")
    version = record.get("schema_version")
    if type(version) is not int or version < 1:
        raise ValueError(f"schema_version={version!r:.40}, expected {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"schema_version={version}, but this bpttcheck reads up to {SCHEMA_VERSION}: a newer "
            "one wrote it"
        )
    try:
        return _parse(record, packed)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _parse(record: dict[str, Any], packed: bytes | None) -> Stored:
    keys(record, (
        "format", "schema_version", "bpttcheck", "id", "subject", "target", "seed", "examples",
        "dtypes", "finding", "problem", "sha256", *(["function"] if "function" in record else []),
    ))  # fmt: skip
    said = record["sha256"]
    if said != _digest({key: value for key, value in record.items() if key != "sha256"}):
        raise ValueError("its content does not match its sha256: it was damaged or edited")
    target, dtypes = record["target"], record["dtypes"]
    if not isinstance(dtypes, list) or not dtypes:
        raise ValueError(f"dtypes={dtypes!r:.40}, expected a list")
    finding = from_json(record["finding"])
    stored = Stored(
        subject=text(record, "subject"),
        target=None if target is None else text(record, "target"),
        version=text(record, "bpttcheck"),
        seed=natural(record, "seed"),
        examples=max(1, natural(record, "examples")),
        dtypes=tuple(one_of("dtypes", name, ("float64", "float32")) for name in dtypes),
        finding=finding,
        flat=_flat(record["problem"], finding.case, packed),
        function=_function(record.get("function", {})),
    )
    if record["id"] != stored.id:
        raise ValueError(f"id={record['id']!r:.80}, but its content is that of {stored.id}")
    return stored


def _function(record: Any) -> dict[str, str]:
    if not isinstance(record, dict) or not all(type(name) is str for name in record):
        raise ValueError("function does not map options to texts")
    return {name: text(record, name) for name in record}


def _flat_to_json(flat: SerializedProblem, packed: bytes) -> dict[str, Any]:
    return {
        "params": list(flat.params),
        "state": flat.state,
        "arrays": [[name, a.dtype.str, list(a.shape)] for name, a in flat.arrays.items()],
        "npz_sha256": hashlib.sha256(packed).hexdigest(),
    }


def _flat(record: Any, case: Case | None, packed: bytes | None) -> SerializedProblem | None:
    if record is None:
        return None
    keys(record, ("params", "state", "arrays", "npz_sha256"))
    check_params(record["params"])
    check_shape(record["state"])
    if case is None:
        raise ValueError("it has arrays but no case")
    expected = _expected(record["arrays"])
    leaves = size(record["state"])
    wanted = names(len(record["params"]), leaves, mask="mask" in expected)
    if list(expected) != wanted:
        raise ValueError("its arrays are not those of a problem")
    _require_sizes(expected, case, leaves)
    if packed is None:
        raise ValueError("its .npz file is missing")
    if hashlib.sha256(packed).hexdigest() != record["npz_sha256"]:
        raise ValueError("its .npz file does not match the sha256 in it: damaged, or another's")
    try:
        arrays = unpack(packed, expected)
    except ValueError as error:
        raise ValueError(f"its .npz file was not written by bpttcheck: {error}") from error
    return SerializedProblem(tuple(record["params"]), record["state"], arrays)


def _expected(arrays: Any) -> Expected:
    expected: Expected = {}
    if not isinstance(arrays, list):
        raise ValueError("arrays is no list")
    for item in arrays:
        if not isinstance(item, list) or len(item) != 3 or type(item[0]) is not str:
            raise ValueError("arrays is not a list of name, dtype and shape")
        name, code, shape = item
        if type(code) is not str or not re.fullmatch(rf"[<>|=]?[{KINDS}][1248]", code):
            raise ValueError(f"{name:.40} has the dtype {code!r:.40}")
        try:
            dtype = np.dtype(code)
        except TypeError as error:
            raise ValueError(f"{name:.40} has the dtype {code!r}") from error
        expected[name] = (dtype, naturals("shape", shape))
    return expected


def _require_sizes(expected: Expected, case: Case, leaves: int) -> None:
    shapes = {name: shape for name, (_, shape) in expected.items()}
    if shapes["xs"] == OF_A_FUNCTION:  # one row; its inputs are parameters
        case = replace(case, T=1, B=1, n_in=0)
    faults = [
        shapes["xs"] != (case.T, case.B, case.n_in),
        len(shapes["d_ys"]) != 3 or shapes["d_ys"][:2] != (case.T, case.B),
        shapes.get("mask", (case.T, case.B)) != (case.T, case.B),
        "mask" in expected and expected["mask"][0] != np.dtype(bool),
        any(shapes[f"state0_{i}"] != shapes[f"d_state_{i}"] for i in range(leaves)),
    ]
    if any(faults):
        raise ValueError("the shapes of its arrays are not those of its case")


def _lines(value: Any, depth: int = 0) -> str:
    """JSON with one line for each key of the outer two objects."""
    if not isinstance(value, dict) or depth > 1:
        return json.dumps(value)
    pad = " " * (depth + 1)
    rows = [f"{pad}{json.dumps(key)}: {_lines(item, depth + 1)}" for key, item in value.items()]
    return "{\n" + ",\n".join(rows) + "\n" + pad[1:] + "}"


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:24].rstrip("_")


def _digest(value: Any) -> str:
    plain = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()
