"""A file of headline ratios over time: one entry for each run, added at its end."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpttcheck.bench.report.records import Benchmark, Interval, build_record
from bpttcheck.errors import ContractError

SCHEMA, SCHEMA_VERSION = "bpttcheck.bench.history", 1


@dataclass(frozen=True)
class PastRatio:
    """A hand-written form over JAX autodiff in one run, the geometric mean over its sizes.

    Args:
        target: as it was given on the command line.
        form: the form.
        dtype: the dtype.
        ratio: the mean.
        points: the number of sizes.
    """

    target: str
    form: str
    dtype: str
    ratio: Interval
    points: int


@dataclass(frozen=True)
class PastRun:
    """One run.

    Args:
        created: when, in UTC, ISO 8601.
        revision: the commit, with a ``+`` where files were changed; ``""`` outside a repository.
        bpttcheck: the version.
        processor: the processor.
        cores: their number.
        ratios: the ratios.
    """

    created: str
    revision: str
    bpttcheck: str
    processor: str
    cores: int
    ratios: list[PastRatio]


def load_history(path: Path) -> list[PastRun]:
    """The runs in a file, the oldest first; none where there is no file.

    Raises:
        ContractError: it cannot be read, or is not such a file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ContractError(f"{path}: cannot be read: {why}", item="append") from error
    try:
        document: Any = json.loads(text)
    except ValueError as error:
        raise ContractError(f"{path} is damaged, it is not JSON: {error}", item="append") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ContractError(
            f"{path} is not a history of `bpttcheck bench --append`: no schema {SCHEMA!r}; name"
            " another file",
            item="append",
        )
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ContractError(
            f"{path} has schema_version {document.get('schema_version')!r}, expected"
            f" {SCHEMA_VERSION}",
            item="append",
        )
    return build_record(list[PastRun], document.get("runs"), f"{path}: runs")


def append(path: Path, benchmark: Benchmark, revision: str) -> list[PastRun]:
    """Add the ratios of a benchmark to a file; the file is made where there is none.

    Args:
        path: the file.
        benchmark: what was measured.
        revision: the commit.

    Returns:
        All runs in the file, this one last.

    Raises:
        ContractError: the file is something else, which is left as it is, or cannot be written.
    """
    ratios = [
        PastRatio(subject.target, one.form, one.dtype, one.ratio, one.points)
        for subject in benchmark.subjects
        for one in subject.summaries
    ]
    found = benchmark.environment
    run = PastRun(benchmark.created, revision, benchmark.bpttcheck, str(found["processor"]),
                  int(found["cores"]), ratios)  # fmt: skip
    runs = [*load_history(path), run]
    text = json.dumps(
        {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "runs": list(map(_plain, runs))},
        indent=1, allow_nan=False,
    )  # fmt: skip
    # Whole or not at all: an interrupted write must not cost the runs before it.
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise ContractError(
            f"cannot write to {path}: {error.strerror or error}", item="append"
        ) from error
    return runs


def of_target(
    runs: Sequence[PastRun], target: str, dtype: str
) -> dict[str, list[tuple[int, Interval]]]:
    """For each form of a target the numbers of the runs that have it, and its ratios there."""
    found: dict[str, list[tuple[int, Interval]]] = {}
    for number, run in enumerate(runs):
        for one in run.ratios:
            if (one.target, one.dtype) == (target, dtype):
                found.setdefault(one.form, []).append((number, one.ratio))
    return found


def _plain(run: PastRun) -> dict[str, Any]:
    return dataclasses.asdict(run)
