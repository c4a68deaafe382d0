"""The records of a run: verdicts, findings, counts."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any


class Verdict(enum.Enum):
    """The three outcomes of a check or of a whole run."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Case:
    """The problem of a finding; ``(seed, index)`` alone reproduce the original one.

    Args:
        seed: the run's seed.
        index: the number of the case in the run; -1 for one made by shrinking.
        T: time steps.
        B: batch rows.
        n_in: width of ``x``.
        n_hidden: the hidden size handed to ``init``.
        dtype: ``"float64"`` or ``"float32"``.
        mask: ``"none"``, ``"lengths"``, ``"holes"`` or ``"empty_rows"``.
        regime: the regime's name, such as ``"ordinary"``.
        letters: of a function: the size of each letter of its signature.
    """

    seed: int
    index: int
    T: int
    B: int
    n_in: int
    n_hidden: int
    dtype: str
    mask: str
    regime: str
    letters: tuple[tuple[str, int], ...] = ()

    @property
    def sizes(self) -> str:
        """Its sizes, such as ``"T=3, B=2, n_in=4, n_hidden=5"``."""
        usual = (("T", self.T), ("B", self.B), ("n_in", self.n_in), ("n_hidden", self.n_hidden))
        return ", ".join(f"{name}={size}" for name, size in self.letters or usual)

    def __str__(self) -> str:
        """The case as one short line."""
        mask = "" if self.mask == "none" else f", mask={self.mask}"
        return (
            f"{self.sizes}, {self.dtype}, {self.regime}{mask} (seed={self.seed}, case {self.index})"
        )


@dataclass(frozen=True)
class Measured:
    """One oracle's answer for one entry: a value and its error bar."""

    value: float
    error: float


@dataclass(frozen=True)
class Diagnosis:
    """A hypothesis about what is wrong, with the evidence for it.

    Args:
        code: stable and short, such as ``"transposed"``; ``bpttcheck explain`` prints its page.
        sentence: what is wrong, in one sentence.
        evidence: the numbers behind it, such as ``{"factor": 0.5, "residual": 1e-15}``.
    """

    code: str
    sentence: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Sides:
    """A whole block of one case: by hand and as it should be, to be drawn.

    Args:
        hand: the hand-derived gradient.
        value: the reference.
        width: the width of its error bar, entry by entry.
        case: where.
        over_time: whether the first axis is time.
    """

    hand: Any
    value: Any
    width: Any
    case: Case
    over_time: bool = False


@dataclass(frozen=True)
class Remedy:
    """An edit of the user's own source after which every check passes.

    Args:
        diff: the edit as a unified diff.
        sentence: what was proved.
        file: the file that it edits.
        line: the first line that it changes.
        others: further edits that give the same numbers on the problems tried, in short.
        patched: the whole file as it would be.
    """

    diff: str
    sentence: str
    file: str
    line: int
    others: tuple[str, ...] = ()
    patched: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True)
class ExpectedAdjoint:
    """The adjoint that is expected, from the step, beside what is written.

    Args:
        formula: ``"d_f = d_c_new * c"``, in the user's names where they have these values.
        where: the line that is written instead, ``"cell.py:31: d_f = d_c_new * g"``, or ``""``.
        difference: what is missing, or is there alone; ``""`` where that is not certain.
    """

    formula: str
    where: str = ""
    difference: str = ""


@dataclass(frozen=True)
class Finding:
    """One mismatch: what was compared, where, and the values side by side.

    Args:
        check: the check's name.
        method: the user's method at fault: ``"step_vjp"``, ``"vjp"``, ``"step"``, ...
        block: the item at fault: ``"d_params['W']"``, ``"d_state0"``, ``"d_xs"``, ...
        message: what is wrong in one sentence.
        case: the smallest case found; None where there is none (a contract error).
        entry: index of the worst entry inside the block.
        time_step: the last t whose adjoint dL/dstate[t] departs: the first, going back in time.
        hand: the hand-derived value of that entry.
        jax: JAX's value, None where JAX declined.
        finite_difference: the differences' value, None where they abstain.
        ratio: error divided by the width ``s`` of the error bar.
        limit: the ratio allowed.
        relative_error: the block's error relative to its largest entry.
        exception: the text of an exception raised by the user's code, or ``""``.
        diagnoses: best first; may be empty.
        comparison: what ``hand`` was compared with if no oracle (the other side of a law).
        counted: True if it was only counted: wrong in a case that was neither shrunk nor explained,
            probably as a consequence of another block that was.
        problem: the smallest case with its arrays (:class:`bpttcheck.problems.problem.Problem`),
            for a replay; None where there is none.
        sides: the block in the worst case, for a picture; None where nothing was compared.
        remedy: an edit that mends it, where one was asked for and found; else None.
        expected: of one step, what is expected instead, where that is certain; else None.
    """

    check: str
    method: str
    block: str
    message: str
    case: Case | None = None
    entry: tuple[int, ...] | None = None
    time_step: int | None = None
    hand: float | None = None
    jax: Measured | None = None
    finite_difference: Measured | None = None
    ratio: float | None = None
    limit: float | None = None
    relative_error: float | None = None
    exception: str = ""
    diagnoses: tuple[Diagnosis, ...] = ()
    comparison: Measured | None = None
    counted: bool = False
    problem: Any = field(default=None, repr=False, compare=False)
    sides: Sides | None = field(default=None, repr=False, compare=False)
    remedy: Remedy | None = field(default=None, repr=False)
    expected: ExpectedAdjoint | None = None

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain JSON-ready values, without the arrays of its problem."""
        bare = replace(self, problem=None, sides=None)
        return plain(asdict(bare, dict_factory=_without_arrays))


@dataclass(frozen=True)
class BlockSummary:
    """How well one check resolved one block in one dtype.

    Args:
        block: the block's name.
        dtype: the checked dtype.
        judged: cases in which the block was judged.
        blind: cases whose own rounding noise hid the block; no evidence either way.
        resolution: smallest relative error that the best judged case could have detected.
        median_resolution: the same for the middle judged case.
        worst_ratio: largest ratio of error to the bar's width among the judged cases.
    """

    block: str
    dtype: str
    judged: int
    blind: int
    resolution: float
    median_resolution: float
    worst_ratio: float


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one named check.

    Args:
        name: the check's name.
        verdict: its outcome; None if the whole check was skipped.
        cases: cases run.
        skipped: why the whole check was skipped, or ``""``.
        skipped_cases: reason -> number of single cases that were not judged.
        worst_ratio: largest ratio of error to the bar's width; None if nothing was compared.
        limit: the ratio allowed.
        oracles: oracle -> number of cases that it judged.
        blocks: how well each block was resolved.
        notes: remarks such as warnings raised by user code.
        reason: why the check is inconclusive, or ``""``.
        expected_failure: the reason given for an expected failure, or ``""``.
        seconds: wall-clock time.
    """

    name: str
    verdict: Verdict | None
    cases: int = 0
    skipped: str = ""
    skipped_cases: Mapping[str, int] = field(default_factory=dict)
    worst_ratio: float | None = None
    limit: float | None = None
    oracles: Mapping[str, int] = field(default_factory=dict)
    blocks: tuple[BlockSummary, ...] = ()
    notes: tuple[str, ...] = ()
    reason: str = ""
    expected_failure: str = ""
    seconds: float = 0.0


def _without_arrays(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in items if key not in ("problem", "sides", "patched")}


def plain(value: Any) -> Any:
    """A value as JSON represents it."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)  # JSON has no representation of these
    scalar = getattr(value, "item", None)  # a NumPy scalar
    return value if scalar is None else plain(scalar())
