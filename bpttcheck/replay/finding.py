"""A finding as JSON, and back; its problem is stored apart."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from bpttcheck.replay.fields import (
    clean,
    keys,
    measured,
    natural,
    naturals,
    number,
    number_to_json,
    one_of,
    text,
)
from bpttcheck.results.records import Case, Diagnosis, Finding, Measured
from bpttcheck.verify.checks import NAMES


def to_json(finding: Finding) -> dict[str, Any]:
    """The finding as plain JSON values."""
    numbers = ("hand", "ratio", "limit", "relative_error")
    measured = ("jax", "finite_difference", "comparison")
    record: dict[str, Any] = {
        name: clean(getattr(finding, name))
        for name in ("check", "method", "block", "message", "exception")
    }
    record["case"] = None if finding.case is None else asdict(finding.case)
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
        raise ValueError("diagnoses is no list of codes and sentences")
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


def _case(record: Any) -> Case:
    keys(record, tuple(f.name for f in fields(Case)))
    index = record["index"]
    return Case(
        seed=natural(record, "seed"),
        index=-1 if index == -1 and type(index) is int else natural(record, "index"),
        **{name: natural(record, name) for name in ("T", "B", "n_in", "n_hidden")},
        dtype=one_of("dtype", record["dtype"], ("float64", "float32")),
        mask=text(record, "mask"),
        regime=text(record, "regime"),
    )
