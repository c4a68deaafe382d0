"""Test the tester on one subject: plant every known bug in it and see which are caught.

A bug is *caught* if a check fails, *invisible* if no case of the run could have shown it (its own
declaration says where it shows), and *missed* otherwise. A missed bug is a defect of the checker or
of its own declaration.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bpttcheck.blocks import Block
from bpttcheck.errors import ContractError
from bpttcheck.judge.gradient import examine
from bpttcheck.judge.run import SEQUENCE, STEP, Run
from bpttcheck.mutants import SOURCE
from bpttcheck.mutants.source import RAISES
from bpttcheck.results.records import Case, Finding, Verdict
from bpttcheck.subject.filled import filled
from bpttcheck.subject.options import Options, validate_options
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.check import check_one
from bpttcheck.verify.checks import NAMES

if TYPE_CHECKING:
    from bpttcheck.mutants.base import Mutant

CAUGHT, INVISIBLE, MISSED = "caught", "invisible", "missed"


@dataclass(frozen=True)
class Planted:
    """The outcome of one planted bug.

    Args:
        name: the mutant's name.
        family: its family.
        sentence: what is wrong.
        outcome: ``"caught"``, ``"invisible"`` or ``"missed"``.
        reason: why it is invisible, or ``""``.
        check: the first check that failed.
        named: the block of the first finding.
        right_block: whether a finding names a block that is wrong; None where none is declared.
        diagnosis: the code that it must get, or ``""``.
        said: the diagnoses of the first finding, best first.
        right_diagnosis: whether the first code is right; None where none is declared.
        right_step: whether the time step named is the right one; None where none is declared.
        characters: length of the report.
        seconds: time taken.
    """

    name: str
    family: str
    sentence: str
    outcome: str
    reason: str = ""
    check: str = ""
    named: str = ""
    right_block: bool | None = None
    diagnosis: str = ""
    said: tuple[str, ...] = ()
    right_diagnosis: bool | None = None
    right_step: bool | None = None
    characters: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, repr=False)
class SelfTest:
    """Every planted bug of one subject.

    Args:
        subject: its name.
        planted: one entry for each bug.
        seed: seed of the cases.
        examples: cases in each gradient check.
        seconds: time taken.
    """

    subject: str
    planted: tuple[Planted, ...]
    seed: int
    examples: int
    seconds: float

    def count(self, outcome: str) -> int:
        """How many bugs had this outcome."""
        return sum(one.outcome == outcome for one in self.planted)

    @property
    def passed(self) -> bool:
        """True if no bug was missed."""
        return self.count(MISSED) == 0

    @property
    def headline(self) -> str:
        """How many of the bugs that some case can show were caught, in one line."""
        word = "PASSED" if self.passed else "FAILED"
        shown = len(self.planted) - self.count(INVISIBLE)
        return (
            f"{word}  {self.subject}: {self.count(CAUGHT)} of {shown} planted bugs caught, "
            f"{self.count(MISSED)} missed"
        )

    def __repr__(self) -> str:
        """The headline."""
        return f"<SelfTest: {' '.join(self.headline.split())}>"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return {"schema_version": 1, "passed": self.passed, **asdict(self)}


def selftest(
    subject: Any,
    *,
    reference: Any = None,
    sizes: Any = None,
    families: Sequence[str] | None = None,
    each: int | None = None,
    seed: int = 0,
    examples: int = 100,
    dtypes: Sequence[str] = ("float64", "float32"),
    progress: Callable[[int, int, str], None] | None = None,
) -> SelfTest:
    """Plant the catalogue in ``subject`` and check each mutant.

    Args:
        subject: a right cell, layer, function or :class:`bpttcheck.Subject`.
        reference: as in :func:`bpttcheck.check`.
        sizes: as in :func:`bpttcheck.check`.
        families: families of :data:`bpttcheck.mutants.FAMILIES`, and ``"source"``; None: all.
        each: at most so many bugs of each family, evenly spread; None: all.
        seed: seed of the cases.
        examples: cases in each gradient check.
        dtypes: dtypes to check.
        progress: called as ``progress(done, total, what)``.

    Returns:
        The :class:`SelfTest`.

    Raises:
        ContractError: the subject itself does not pass, so planted bugs would prove nothing.
    """
    from bpttcheck import mutants

    started = time.perf_counter()
    right = Subject.of(subject, reference=reference, sizes=sizes)
    options = validate_options(
        dtypes=dtypes, examples=examples, seed=seed, checks=None, expected_failures=None,
        known_checks=NAMES,
    )  # fmt: skip
    base = Run(right, options.seed, options.dtypes)
    base.fork(right)  # from here on the run caches JAX's gradients
    seen = _passes(base, options)
    every = (*mutants.FAMILIES, mutants.SOURCE) if right.traits.signature is None else None
    chosen = every if families is None else families
    bugs = mutants.catalogue(right.target, families=chosen, sizes=base.cases.sizes)
    bugs = bugs if each is None else _spread(bugs, each)
    cases = [base.cases.case(index) for index in range(options.examples)]
    planted: list[Planted] = []
    for number, bug in enumerate(bugs):
        if progress is not None:
            progress(number, len(bugs), bug.name)
        planted.append(_plant(base, right, bug, options, cases, seen))
    seconds = time.perf_counter() - started
    return SelfTest(right.name, tuple(planted), options.seed, options.examples, seconds)


_OF_THE_SOURCE = 8
"""The operators on a source are many families: so many times as many bugs of them."""


def _spread(bugs: Sequence[Mutant], each: int) -> list[Mutant]:
    """At most ``each`` bugs of every family, evenly spread over it."""
    families: dict[str, list[Mutant]] = {}
    for bug in bugs:
        families.setdefault(bug.family, []).append(bug)
    found: list[Mutant] = []
    for family, some in families.items():
        most = each * _OF_THE_SOURCE if family == SOURCE else each
        count = min(most, len(some))
        found += [some[(2 * i + 1) * len(some) // (2 * count)] for i in range(count)]
    return found


# Families whose bugs change conduct: the checks of conduct run first.
_BY_CONDUCT = ("impure", "aliasing", "uninitialised", "layouts")


def _passes(base: Run, options: Options) -> dict[tuple[str, str], float]:
    """The best resolution of each block and dtype, if the right subject passes."""
    seen: dict[tuple[str, str], float] = {}
    for name in NAMES:
        result, findings = check_one(base, options, name)
        if result.verdict is Verdict.FAILED:
            said = findings[0].message if findings else name
            raise ContractError(
                f"{base.subject.name} itself fails the check {name} ({said}), but planted bugs "
                "show something in a right subject only: run `bpttcheck verify` first",
                item="subject",
            )
        for block in result.blocks:
            key = (Block(block.block).in_step, block.dtype)
            seen[key] = min(seen.get(key, float("inf")), block.resolution)
    return seen


def _plant(
    base: Run,
    right: Subject,
    bug: Mutant,
    options: Options,
    cases: Sequence[Case],
    seen: dict[tuple[str, str], float],
) -> Planted:
    started = time.perf_counter()
    target = bug.plant(right.target)
    if right.traits.signature is not None and base.code.absent:
        target = filled(target, "layer")
    reference = right.reference if right.reference is not None else right.target
    wrong = Subject(target, reference, right.sizes, name=f"{right.name} with {bug.name}")
    run = base.fork(wrong)
    findings: tuple[Finding, ...] = ()
    check = ""
    for name in _order(bug):
        result, findings = check_one(run, options, name)
        if result.verdict is Verdict.FAILED:
            check = name
            break
    known = (bug.name, bug.family, bug.sentence)
    seconds = time.perf_counter() - started
    if not check:
        reason = invisible(bug, cases, seen) or _drowned(base, bug, cases)
        outcome = INVISIBLE if reason else MISSED
        return Planted(*known, outcome, reason, diagnosis=bug.diagnosis, seconds=seconds)
    said = tuple(d.code for d in findings[0].diagnoses) if findings else ()
    expected = (bug.diagnosis, *bug.also)
    declared = bug.diagnosis and bug.note != RAISES  # an exception has no pattern
    blocks = {Block(f.block).in_step for f in findings}
    return Planted(
        *known, CAUGHT, check=check, named=findings[0].block if findings else "",
        right_block=bool(blocks & set(bug.blocks)) if bug.blocks else None,
        diagnosis=bug.diagnosis, said=said,
        right_diagnosis=bool(said) and said[0] in expected if declared else None,
        right_step=_names_step(findings, bug.time_step) if bug.time_step is not None else None,
        characters=sum(len(f.message) for f in findings), seconds=seconds,
    )  # fmt: skip


def _order(bug: Mutant) -> Sequence[str]:
    """The checks; those of conduct last for bugs that others are likely to find."""
    late = () if bug.family in _BY_CONDUCT else ("purity", "arguments")
    return sorted(NAMES, key=lambda name: name in late)


def _names_step(findings: Sequence[Finding], step: int) -> bool:
    return any(d.evidence.get("time_step") == step for f in findings for d in f.diagnoses)


def invisible(bug: Mutant, cases: Sequence[Case], seen: dict[tuple[str, str], float]) -> str:
    """Why no case could have shown this bug, by its own declaration; ``""`` if one could."""
    if bug.note and bug.note != RAISES:
        return bug.note
    left = [c for c in cases if c.dtype in bug.dtypes]
    if not left:
        return f"only in {' and '.join(bug.dtypes)}"
    for name, fits in (
        ("regime", lambda c: not bug.regimes or c.regime in bug.regimes),
        (f"T of at least {bug.least_T}", lambda c: c.T >= bug.least_T),
        (f"B of at least {bug.least_B}", lambda c: c.B >= bug.least_B),
        ("mask", lambda c: not bug.needs_mask or c.mask != "none"),
        ("size", lambda c: not bug.sizes or (c.n_in, c.n_hidden) in bug.sizes),
        (f"n_hidden of at least {bug.least_H}", lambda c: c.n_hidden >= bug.least_H),
        (f"n_in of at least {bug.least_n_in}", lambda c: c.n_in >= bug.least_n_in),
        (f"T that is a multiple of {bug.every_T}", lambda c: c.T % bug.every_T == 0),
    ):
        left = [c for c in left if fits(c)]
        if not left:
            return f"no case has the {name} that shows it"
    dtypes = {c.dtype for c in left}
    finest = min(
        (seen[block, d] for block in bug.blocks for d in dtypes if (block, d) in seen),
        default=0.0,
    )
    if bug.error < finest:
        return f"an error of {bug.error:.0e} is below the resolution, {finest:.0e}"
    return ""


def _drowned(base: Run, bug: Mutant, cases: Sequence[Case]) -> str:
    """Why rounding hides this bug, measured on the right subject; ``""`` if it does not.

    Where a unit saturates, the gradient through it may be zero or below its own noise in every case
    of the run; doubling it is then not detectable.
    """
    if not bug.blocks or not bug.regimes:
        return ""
    modes = (STEP, SEQUENCE) if base.subject.kind == "cell" else (SEQUENCE,)
    for index in (i for i, case in enumerate(cases) if case.regime in bug.regimes):
        for mode in modes:
            case = base.cases.case(index, steps=1 if mode == STEP else None)
            found = examine(
                base, mode, base.cases.problem(case), base.cases.template(index), confirm=False
            )
            if any(
                j.usable and not j.blind and not j.null and Block(j.block).in_step in bug.blocks
                for j in found.judged
            ):
                return ""
    return "the wrong contribution is zero or lost in rounding in every case that shows it"
