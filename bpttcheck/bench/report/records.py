"""The results of a benchmark as records, and their JSON file, from which all reports are made."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bpttcheck.errors import ContractError

SCHEMA, SCHEMA_VERSION = "bpttcheck.bench", 1

# The hand-written implementations: the ratios and the gate are about these.
HAND = ("numpy", "deferred", "fused", "on_jax")


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __contains__(self, number: float) -> bool:
        """True inside the interval, ends included."""
        return self.low <= number <= self.high

    @property
    def half_width(self) -> float:
        """Half of what lies between the ends."""
        return (self.high - self.low) / 2

    @property
    def reach(self) -> float:
        """How far it reaches from 1."""
        return max(abs(self.low - 1), abs(self.high - 1))


@dataclass(frozen=True)
class Size:
    """One size of problem.

    Args:
        T: time steps.
        B: rows.
        n_in: width of ``x``.
        n_hidden: width of the state.
        letters: of a function, the sizes of the letters of its signature: ``"N=8 T=50 D=32"``.
    """

    T: int
    B: int
    n_in: int
    n_hidden: int
    letters: str = ""

    def __str__(self) -> str:
        """For a table: ``T=50 B=8 N=32 H=32``."""
        return self.letters or f"T={self.T} B={self.B} N={self.n_in} H={self.n_hidden}"


@dataclass(frozen=True)
class Timing:
    """One form at one point.

    Args:
        form: its key, such as ``"numpy"``.
        seconds: the median of the rounds.
        samples: seconds of one call, for each round; a sample is the mean of ``calls`` calls.
        calls: calls in each sample.
        error: the largest error of a gradient, relative to the largest entry of its block.
        limit: the largest ``error`` in that block with which anything is timed.
        first_call: seconds of the first call, compilation included; None if nothing is compiled.
        pays_off_after: calls after which the first call has paid off against hand-written NumPy,
            the fastest form of it; None: never, or nothing to pay off.
        ratio: seconds over those of the baseline; None for the baseline, and without one.
        floor: the call overhead, seconds of the form's NumPy calls on arrays of one number; None if
            unknown.
        calls_at_size: seconds of these calls on arrays of their actual sizes.
    """

    form: str
    seconds: float
    samples: list[float]
    calls: int
    error: float
    limit: float
    first_call: float | None = None
    pays_off_after: int | None = None
    ratio: Interval | None = None
    floor: float | None = None
    calls_at_size: float | None = None


@dataclass(frozen=True)
class MeasuredPoint:
    """Everything that was measured of one subject at one size and dtype.

    Args:
        size: the size.
        dtype: ``"float64"`` or ``"float32"``.
        baseline: the form that ratios are relative to, ``""`` if there is none.
        timings: one for each form.
        same: the ratio of a form to itself, measured as two: the noise floor.
        absent: for each form that was not measured here, why.
        again: seconds of the NumPy form in each round, timed as if it were another: ``same`` is the
            ratio of these to its samples.
        flops: the operations in the products of forward and backward; None where not known.
    """

    size: Size
    dtype: str
    baseline: str
    timings: list[Timing]
    same: Interval
    absent: dict[str, str]
    again: list[float] = field(default_factory=lambda: list[float]())
    flops: int | None = None

    def timing(self, form: str) -> Timing | None:
        """The timing of a form, None if it was not measured."""
        return next((timing for timing in self.timings if timing.form == form), None)


@dataclass(frozen=True)
class Exponent:
    """The power of T by which the time of a form grows, fitted in the logarithms.

    Args:
        form: the form.
        size: the largest size of the fit; B, n_in and n_hidden are those of all of them.
        dtype: the dtype.
        power: the exponent.
        factor: seconds at ``T = 1`` on the fitted line.
    """

    form: str
    size: Size
    dtype: str
    power: float
    factor: float


@dataclass(frozen=True)
class VCurve:
    """The error of central differences along one direction against their step.

    Args:
        size: the size.
        dtype: the dtype.
        steps: the steps.
        errors: the relative error at each step.
    """

    size: Size
    dtype: str
    steps: list[float]
    errors: list[float]


@dataclass(frozen=True)
class Summary:
    """One hand-written form over all points of one dtype.

    Args:
        form: the form.
        dtype: the dtype.
        ratio: the geometric mean of the ratios.
        lowest: the smallest ratio of a point.
        highest: the largest.
        points: the number of points.
        error: the largest disagreement of a gradient.
    """

    form: str
    dtype: str
    ratio: Interval
    lowest: float
    highest: float
    points: int
    error: float


@dataclass(frozen=True)
class SubjectBenchmark:
    """One subject.

    Args:
        target: as it was given on the command line.
        name: what the subject calls itself.
        headlines: the result in words, one sentence for each dtype.
        points: the points.
        summaries: the hand-written forms over all points.
        exponents: how the forms grow with T.
        v_curves: the error of differences against their step.
        same: the geometric mean over all points of the ratio of a form to itself.
    """

    target: str
    name: str
    headlines: list[str]
    points: list[MeasuredPoint]
    summaries: list[Summary]
    exponents: list[Exponent]
    v_curves: list[VCurve]
    same: Interval | None = None


@dataclass(frozen=True)
class RevisionPoint:
    """One hand-written form at one point, in two revisions of a repository.

    Args:
        form: the form.
        size: the size.
        dtype: the dtype.
        ratio: the seconds of the working tree over those of the older revision.
        samples: seconds in each round: of the working tree, of the older revision, and of the older
            revision in a second process.
    """

    form: str
    size: Size
    dtype: str
    ratio: Interval
    samples: list[list[float]]


@dataclass(frozen=True)
class RevisionRatio:
    """One hand-written form of one target over all points, in two revisions.

    Args:
        target: as it was given on the command line.
        form: the form.
        base: the older revision, as it was given.
        commit: its commit.
        ratio: the geometric mean of the working tree over the older revision.
        same: that of the older revision over itself in another process.
        points: the points.
    """

    target: str
    form: str
    base: str
    commit: str
    ratio: Interval
    same: Interval
    points: list[RevisionPoint]


@dataclass(frozen=True)
class Failure:
    """A target that was not timed, and why."""

    target: str
    message: str


@dataclass(frozen=True)
class Benchmark:
    """A whole benchmark run.

    Args:
        bpttcheck: the version.
        created: when, in UTC, ISO 8601.
        seconds: how long it took.
        settings: the options of the run.
        environment: the machine and its libraries.
        forms: the title of each form.
        subjects: what was measured.
        failures: what was not.
        revisions: two revisions beside each other, where that was asked for.
    """

    bpttcheck: str
    created: str
    seconds: float
    settings: dict[str, Any]
    environment: dict[str, Any]
    forms: dict[str, str]
    subjects: list[SubjectBenchmark]
    failures: list[Failure] = field(default_factory=lambda: list[Failure]())
    revisions: list[RevisionRatio] = field(default_factory=lambda: list[RevisionRatio]())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        head = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION}
        return {**head, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"


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
        raise ContractError(f"{path} is damaged, it is not JSON: {error}") from error
    return parse(document, str(path))


def parse(document: Any, name: str) -> Benchmark:
    """A benchmark from its JSON document.

    Args:
        document: what the JSON file holds.
        name: what to call it in an error.

    Raises:
        ContractError: it is not such a document, has another version, or holds no point.
    """
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ContractError(
            f"{name} is not a report.json of `bpttcheck bench`: no schema {SCHEMA!r}"
        )
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ContractError(
            f"{name} has schema_version {version!r}, expected {SCHEMA_VERSION}: measure again with"
            " `bpttcheck bench`"
        )
    given = {key: value for key, value in document.items() if not key.startswith("schema")}
    found = build_record(Benchmark, given, name)
    if not any(subject.points for subject in found.subjects):
        raise ContractError(f"{name} holds no measured point: there is nothing to show")
    return found


def build_record(kind: Any, value: Any, where: str) -> Any:
    """``value`` as ``kind``: a record, a container or a plain type; errors name the place."""
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else build_record(args[0], value, where)
    if origin is list and isinstance(value, list):
        return [build_record(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: build_record(args[1], item, f"{where}.{key}") for key, item in value.items()}
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
        raise ContractError(f"{where} is not of type {kind.__name__}: the file is damaged")
    kinds = typing.get_type_hints(kind)
    missing = [field.name for field in dataclasses.fields(kind)
               if field.name not in value and _is_required(field)]  # fmt: skip
    if missing:
        raise ContractError(f"{where}.{missing[0]} is missing: the file is damaged")
    given = {name: k for name, k in kinds.items() if name in value}
    return kind(
        **{name: build_record(k, value[name], f"{where}.{name}") for name, k in given.items()}
    )


def _is_required(field: dataclasses.Field[Any]) -> bool:
    """False for a field with a default, which a file of an earlier version may lack."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
