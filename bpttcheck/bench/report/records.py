"""What a benchmark found, as records and as JSON: the one file that every page is made of."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

SCHEMA, SCHEMA_VERSION = "bpttcheck.bench", 1

# The forms that are written by hand: what the ratios are about, and what the gate looks at.
HAND = ("numpy", "fused", "on_jax")


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


@dataclass(frozen=True)
class Size:
    """One size of problem.

    Args:
        T: time steps.
        B: rows.
        n_in: width of ``x``.
        n_hidden: width of the state.
    """

    T: int
    B: int
    n_in: int
    n_hidden: int

    def __str__(self) -> str:
        """For a table: ``T=50 B=8 N=32 H=32``."""
        return f"T={self.T} B={self.B} N={self.n_in} H={self.n_hidden}"


@dataclass(frozen=True)
class Timing:
    """One form at one point.

    Args:
        form: its key, such as ``"numpy"``.
        seconds: the median of the rounds.
        samples: seconds of one call, for each round; a sample is the mean of ``calls`` calls.
        calls: calls in each sample.
        error: the largest error of a gradient, relative to the largest entry of its block.
        limit: what ``error`` may be in that block, beyond which nothing is timed.
        first_call: seconds of the first call, compilation included; None for what is not compiled.
        pays_off_after: calls after which the first call has paid off against hand-written NumPy,
            the fastest form of it; None: never, or nothing to pay off.
        ratio: seconds over those of the baseline; None for the baseline, and without one.
        floor: seconds that the form's calls of NumPy cost on arrays of one number; None where they
            are not known.
        calls_at_size: seconds that these calls cost on arrays of the sizes that they have.
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
        again: seconds of the NumPy form in each round, timed as if it were another: ``same`` is
            these over its samples.
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
class Failure:
    """A target that was not timed, and why."""

    target: str
    message: str


@dataclass(frozen=True)
class Benchmark:
    """A whole run.

    Args:
        bpttcheck: the version.
        created: when, in UTC, ISO 8601.
        seconds: how long it took.
        settings: what was asked for.
        environment: what the numbers depend on.
        forms: the title of each form.
        subjects: what was measured.
        failures: what was not.
    """

    bpttcheck: str
    created: str
    seconds: float
    settings: dict[str, Any]
    environment: dict[str, Any]
    forms: dict[str, str]
    subjects: list[SubjectBenchmark]
    failures: list[Failure] = field(default_factory=lambda: list[Failure]())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        head = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION}
        return {**head, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
